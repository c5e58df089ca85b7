"""P, the patch operation: (B, C, H, W) -> (B*K*K, C, h, w), alone or fused with the next block's BN affine + act."""

import torch.nn.functional as F
from torch import Tensor

from .geometry import PatchGrid
from .tail import affine_act


def patch_split_plain(x: Tensor, grid: int, stride: int) -> Tensor:
    """The definition: pad with zeros at the bottom and right, cut, stack on the batch axis."""
    batch, channels, height, width = x.shape
    cut = PatchGrid(height, width, grid, stride)
    h, w = cut.patch_height, cut.patch_width
    padded = F.pad(x, (0, grid * w - width, 0, grid * h - height))
    tiles = padded.reshape(batch, channels, grid, h, grid, w).permute(0, 2, 4, 1, 3, 5)
    return tiles.reshape(batch * grid * grid, channels, h, w)


def patch_split_act_plain(
    x: Tensor, grid: int, stride: int, scale: Tensor | None, shift: Tensor | None, act: str
) -> tuple[Tensor, Tensor]:
    """The definition: split, then BN affine and activation, so that padding cells hold act(shift)."""
    patches = patch_split_plain(x, grid, stride)
    return patches, affine_act(patches, scale, shift, act).to(x.dtype)


def patch_split(x: Tensor, grid: int, stride: int) -> Tensor:
    return patch_split_plain(x, grid, stride)


def patch_split_act(
    x: Tensor, grid: int, stride: int, scale: Tensor | None, shift: Tensor | None, act: str
) -> tuple[Tensor, Tensor]:
    return patch_split_act_plain(x, grid, stride, scale, shift, act)
