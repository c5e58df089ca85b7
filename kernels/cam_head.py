"""Class activation maps straight from patch layouts and the global map: neither merge nor concatenation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .patch_merge import patch_merge_plain
from .tail import widen


def cam_head_plain(
    patches: list[tuple[Tensor, int]],
    global_map: Tensor,
    weight: Tensor,
    height: int,
    width: int,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    act: str = "none",
    classes: Tensor | None = None,
) -> Tensor:
    """The definition: merge, concatenate [M_1 .. M_S ; global], 1x1 convolution, ReLU, pick each image's classes."""
    sources = [*patches, (global_map, 1)]
    whole = torch.cat([patch_merge_plain(widen(t), k, height, width, scale, shift, act) for t, k in sources], 1)
    maps = F.conv2d(whole, weight.to(whole.dtype)[:, :, None, None]).relu()
    if classes is None:
        return maps
    chosen = maps.gather(1, classes.clamp(min=0)[:, :, None, None].expand(-1, -1, height, width))
    return chosen * (classes >= 0)[:, :, None, None]


def cam_head(
    patches: list[tuple[Tensor, int]],
    global_map: Tensor,
    weight: Tensor,
    height: int,
    width: int,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    act: str = "none",
    classes: Tensor | None = None,
) -> Tensor:
    return cam_head_plain(patches, global_map, weight.flatten(1), height, width, scale, shift, act, classes)
