"""M, the merge: (B*K*K, C, h, w) -> (B, C, H, W). It is the gradient of patch_split, and undoes it."""

import torch
from torch import Tensor

from .backend import run, tl, triton, use_triton
from .geometry import valid_extents
from .layout import SIZES, elements, empty_packed, last, packed, patch_row, row_launch, tile


def patch_merge_plain(patches: Tensor, grid: int, height: int, width: int) -> Tensor:
    """The definition: stitch the patches together, crop the padding."""
    count, channels, h, w = patches.shape
    batch = count // (grid * grid)
    whole = patches.reshape(batch, grid, grid, channels, h, w).permute(0, 3, 1, 4, 2, 5)
    return whole.reshape(batch, channels, grid * h, grid * w)[:, :, :height, :width]


# Bytes, E = size of an element, N = B*C*H*W: read N (the cropped cells are not touched), write N: E * 2 N
@triton.jit(do_not_specialize=SIZES)
def _merge_kernel(patches, out, K, h, w, H, W, C, BP: tl.constexpr, BC: tl.constexpr):
    patch_pixel, map_pixel, inside, _, _ = patch_row(tl.program_id(0), K, h, w, H, W)
    o_p, o_c = tile(BP, BC)
    m_in = (o_p < inside)[:, None] & (o_c < C)[None, :]
    b_x = tl.load(patches + elements(patch_pixel, o_p, o_c, C), mask=m_in, other=0.0)  # [BP, BC]
    tl.store(out + elements(map_pixel, o_p, o_c, C), b_x, mask=m_in)


def merge_into(patches: Tensor, grid: int, out: Tensor) -> None:
    """Plain version, `patches` packed, `out` a (B, C, H, W) view of any strides: one strided copy per position."""
    count, channels, h, w = patches.shape
    height, width = out.shape[2:]
    target, source = last(out), last(patches).view(count // (grid * grid), grid, grid, h, w, channels)
    for ky, rows in enumerate(valid_extents(h, grid, height)):
        for kx, columns in enumerate(valid_extents(w, grid, width)):
            target[:, ky * h : ky * h + rows, kx * w : kx * w + columns] = source[:, ky, kx, :rows, :columns]


def _output(patches: Tensor, grid: int, height: int, width: int) -> Tensor:
    return empty_packed(patches, (patches.shape[0] // (grid * grid), patches.shape[1], height, width))


@torch.library.custom_op("pplfast::patch_merge", mutates_args=())
def patch_merge(patches: Tensor, grid: int, height: int, width: int) -> Tensor:
    """Stitch patches (B*K*K, C, h, w) together and crop: (B, C, height, width), channels_last, same dtype. No backward.

    K * h has to reach height, K * w width.
    """
    patches, out = packed(patches), _output(patches, grid, height, width)
    if use_triton(patches):
        count, channels, h, w = patches.shape
        launch, blocks = row_launch(count * h, w, channels, patches.dtype)
        run(_merge_kernel, launch, patches, patches, out, grid, h, w, height, width, channels, **blocks)
    else:
        merge_into(patches, grid, out)
    return out


@patch_merge.register_fake
def _(patches: Tensor, grid: int, height: int, width: int) -> Tensor:
    return _output(patches, grid, height, width)
