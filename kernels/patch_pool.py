"""Tail + pooling of each patch + aggregation over the image, in one read of the last feature map."""

import torch
from torch import Tensor

from .geometry import patch_extent, valid_extents
from .patch_split import patch_split_plain
from .tail import affine_act

MODES = ("mean", "max", "lse")
SHARPNESS = 5.0  # r of log-sum-exp pooling; Pinheiro and Collobert, CVPR 2015


def patch_pool_plain(
    patches: Tensor,
    grid: int,
    height: int,
    width: int,
    scale: Tensor | None,
    shift: Tensor | None,
    act: str,
    mode: str = "mean",
    sharpness: float = SHARPNESS,
) -> tuple[Tensor, Tensor]:
    """The definition: mask the cells outside height x width, reduce over each patch and over the image."""
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; known: {', '.join(MODES)}")
    count, channels, h, w = patches.shape
    k2 = grid * grid
    rows = torch.tensor(valid_extents(h, grid, height), device=patches.device)
    columns = torch.tensor(valid_extents(w, grid, width), device=patches.device)
    inside_row = torch.arange(h, device=patches.device) < rows[:, None]
    inside_column = torch.arange(w, device=patches.device) < columns[:, None]
    inside = inside_row[:, None, :, None] & inside_column[None, :, None, :]
    inside = inside.reshape(1, k2, 1, h * w)

    values = affine_act(patches, scale, shift, act).reshape(count // k2, k2, channels, h * w)
    image = values.transpose(1, 2).reshape(count // k2, channels, k2 * h * w)
    image_inside = inside.expand(1, k2, channels, h * w).transpose(1, 2).reshape(1, channels, k2 * h * w)
    per_patch = _reduce(values, inside, mode, sharpness)
    pooled = _reduce(image, image_inside, mode, sharpness)
    return per_patch, pooled


def _reduce(values: Tensor, inside: Tensor, mode: str, sharpness: float) -> Tensor:
    """Over the last axis, cells with `inside` only; 0 where there are none."""
    cells = inside.sum(-1)
    if mode == "mean":
        return values.masked_fill(~inside, 0).sum(-1) / cells.clamp(min=1)
    lowest = values.masked_fill(~inside, torch.finfo(values.dtype).min)
    if mode == "max":
        result = lowest.max(-1).values
    else:
        result = (torch.logsumexp(sharpness * lowest, -1) - cells.clamp(min=1).log()) / sharpness
    return torch.where(cells > 0, result, 0)


def patch_pool(
    patches: Tensor,
    grid: int,
    height: int,
    width: int,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    act: str = "none",
    mode: str = "mean",
    sharpness: float = SHARPNESS,
) -> tuple[Tensor, Tensor]:
    return patch_pool_plain(patches, grid, height, width, scale, shift, act, mode, sharpness)


def patch_pool_map_plain(
    x: Tensor,
    grid: int,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    act: str = "none",
    mode: str = "mean",
    sharpness: float = SHARPNESS,
) -> tuple[Tensor, Tensor]:
    height, width = x.shape[2:]
    return patch_pool_plain(patch_split_plain(x, grid, 1), grid, height, width, scale, shift, act, mode, sharpness)


patch_pool_map = patch_pool_map_plain
