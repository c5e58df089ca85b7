"""One set of maps from all scales and flips: unflip, upsample, sum, normalise each class by its maximum."""

import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-5  # added to the maximum; the value that this field's code uses


def cam_fuse_plain(maps: list[Tensor], height: int, width: int, flip: bool, normalise: bool = True) -> Tensor:
    """The definition: bilinear (align_corners=False) to height x width, sum, x / (max + 1e-5) per image and class."""
    total = 0
    for scale_maps in maps:
        full = F.interpolate(scale_maps.float(), size=(height, width), mode="bilinear", align_corners=False)
        if flip:
            straight, mirrored = full.chunk(2)
            full = straight + mirrored.flip(3)
        total = total + full
    if normalise:
        total = total / (total.amax((2, 3), keepdim=True) + EPSILON)
    return total


def cam_fuse(maps: list[Tensor], height: int, width: int, flip: bool, normalise: bool = True) -> Tensor:
    return cam_fuse_plain(maps, height, width, flip, normalise)
