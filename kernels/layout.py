"""Memory layout shared by the kernels: NHWC (channels_last) tensors walked in rows of patches.

Every pointwise kernel runs over the rows of the patch layout. A row of a patch is a contiguous run of w * C numbers,
and so is its image in the unsplit map, so addresses need a few scalar divisions per program and none per element.
Each cell of the map belongs to exactly one patch: writing to the map from patch rows covers it without overlap.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .backend import tl, triton

TILE_BYTES = 8192  # of each tensor that one program touches: with 4 warps, four 16-byte accesses in flight a thread
ROW_OPTIONS = {"num_warps": 4}
# Arguments of the row kernels that differ from image to image: Triton would compile anew for each mix of those that 16
# divides and those that are 1, and only the channels' number decides whether 16-byte accesses are possible.
SIZES = ("h", "w", "H", "W")


def as_floats(sizes: Iterable[int]) -> tuple[float, ...]:
    """Sizes for a kernel's tuple argument. Triton cannot be told not to compile integers of a tuple in, and floats it
    never does; they are exact up to 2^24."""
    return tuple(float(size) for size in sizes)


def packed(x: Tensor) -> Tensor:
    """`x` (N, C, H, W) as a dense channels_last tensor; a copy only where it is not one already."""
    return x.contiguous(memory_format=torch.channels_last)


def empty_packed(like: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def last(x: Tensor) -> Tensor:
    """(N, C, H, W) -> its (N, H, W, C) view, dense for a packed tensor."""
    return x.permute(0, 2, 3, 1)


def tile_sizes(width: int, channels: int, dtype: torch.dtype) -> tuple[int, int]:
    """(pixels, channels) of one program's tile over rows of `width` pixels."""
    block_c = min(triton.next_power_of_2(channels), 256)
    return min(triton.next_power_of_2(width), TILE_BYTES // dtype.itemsize // block_c), block_c


def row_launch(rows: int, width: int, channels: int, dtype: torch.dtype) -> tuple[tuple[int, int, int], dict[str, int]]:
    """Launch grid and block sizes for a kernel over `rows` patch rows."""
    block_p, block_c = tile_sizes(width, channels, dtype)
    launch = (rows, triton.cdiv(width, block_p), triton.cdiv(channels, block_c))
    return launch, {"BP": block_p, "BC": block_c, **ROW_OPTIONS}


@triton.jit
def patch_row(row, K, h, w, H, W):
    """Row of the patch layout -> its first pixel there, its first pixel in the map, pixels inside the map, y, patch.

    Patch is the index on the batch axis, (b * K + ky) * K + kx; pixels are int64.
    """
    patch = row // h
    y = row % h
    kx = patch % K
    ky = (patch // K) % K
    image = patch // (K * K)
    map_y = ky * h + y
    inside = tl.where(map_y < H, tl.maximum(tl.minimum(W - kx * w, w), 0), 0)
    patch_pixel = row.to(tl.int64) * w
    map_pixel = (image.to(tl.int64) * H + map_y) * W + kx * w
    return patch_pixel, map_pixel, inside, y, patch


@triton.jit
def tile(BP: tl.constexpr, BC: tl.constexpr):
    """Pixels in the row [BP] and channels [BC] of this program."""
    return tl.program_id(1) * BP + tl.arange(0, BP), tl.program_id(2) * BC + tl.arange(0, BC)


@triton.jit
def elements(pixel, o_p, o_c, C):  # [BP, BC] int64 offsets from the row's first pixel
    return ((pixel + o_p) * C)[:, None] + o_c[None, :]
