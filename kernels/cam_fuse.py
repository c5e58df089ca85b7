"""One set of maps from all scales and flips: unflip, upsample, sum, normalise each class by its maximum."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import run, tl, triton, use_triton
from .layout import as_floats

EPSILON = 1e-5  # added to the maximum; the value that this field's code uses
BLOCK, WARPS = 512, 4  # four pixels a thread, whose loads are on their way together


def cam_fuse_plain(maps: list[Tensor], height: int, width: int, flip: bool, normalise: bool = True) -> Tensor:
    """The definition: bilinear (align_corners=False) to height x width, sum, x / (max + 1e-5) per image and class."""
    total = maps[0].new_zeros((), dtype=torch.float32)
    for scale_maps in maps:
        full = F.interpolate(scale_maps.float(), size=(height, width), mode="bilinear", align_corners=False)
        if flip:
            straight, mirrored = full.chunk(2)
            full = straight + mirrored.flip(3)
        total = total + full
    if normalise:
        total = total / (total.amax((2, 3), keepdim=True) + EPSILON)
    return total


# Bytes, O = B*n*H*W outputs, M = numbers in all maps, U = those widened, O * sum of the scales / stride (5/8 O for
# scales 0.5 to 2 at stride 8): widening reads 4 * M and writes 4 * U, fusing reads 4 * U (each row several times, from
# the
# caches) and writes 4 * O; the normalisation reads and writes 4 * O again, from the L2 cache where O fits. Eager writes
# and reads O at least 3 times a scale: 4 * 12 O for 4 scales without flips. Of widened maps an output takes two loads a
# scale, of neighbouring numbers by neighbouring threads, in place of eight gathers.
@triton.jit(do_not_specialize=("ROWS", "w", "W"))
def widen_kernel(maps, wide, ROWS, w, W, FLIP: tl.constexpr, BLOCK: tl.constexpr):
    """One program: BLOCK columns of one row. maps ([mirrored rows behind the straight ones,] w) -> wide (ROWS, W)."""
    row, o_x = _place(W, BLOCK)
    m_x = o_x < W
    x = tl.maximum((o_x.to(tl.float32) + 0.5) * ((w + 0.0) / W) - 0.5, 0.0)
    x0 = tl.minimum(x.to(tl.int32), w - 1)
    x1 = tl.minimum(x0 + 1, w - 1)
    p_row = maps + row * w  # scalar; offsets inside a row fit int32
    left = _tap(p_row, x0, m_x)
    right = _tap(p_row, x1, m_x)
    if FLIP:
        p_row += (row * 0 + ROWS) * w  # row is int64, so is the product; column x lies at w - 1 - x
        left += _tap(p_row, w - 1 - x0, m_x)
        right += _tap(p_row, w - 1 - x1, m_x)
    tl.store(wide + row * W + o_x, left + (x - x0) * (right - left), mask=m_x)


@triton.jit(do_not_specialize=("H", "W"))
def cam_fuse_kernel(
    wides, hs, out, peaks, H, W, SCALES: tl.constexpr, NORMALISE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK pixels of one plane (image, class). wides: for each scale (planes, h, W)."""
    plane, o_p = _place(H * W, BLOCK)
    m_p = o_p < H * W
    Y = o_p // W
    X = o_p % W
    total = tl.zeros([BLOCK], tl.float32)
    for s in tl.static_range(SCALES):
        h = tl.cast(hs[s], tl.int32)
        y = tl.maximum((Y.to(tl.float32) + 0.5) * (hs[s] / H) - 0.5, 0.0)
        y0 = tl.minimum(y.to(tl.int32), h - 1)
        y1 = tl.minimum(y0 + 1, h - 1)
        p_wide = wides[s] + plane * h * W
        upper = _tap(p_wide, y0 * W + X, m_p)
        lower = _tap(p_wide, y1 * W + X, m_p)
        total += upper + (y - y0) * (lower - upper)
    tl.store(out + plane * H * W + o_p, total, mask=m_p)
    if NORMALISE:
        # The maps are not negative, so 0 is neutral; a maximum does not depend on the order of the programs.
        tl.atomic_max(peaks + plane, tl.max(tl.where(m_p, total, 0.0), 0))


@triton.jit
def _tap(p_map, offsets, m_p):
    return tl.load(p_map + offsets, mask=m_p, other=0.0).to(tl.float32)


@triton.jit
def _place(SIZE, BLOCK: tl.constexpr):
    """This program's plane (or row), int64, and its numbers there. Of a launch grid axis 0 alone may pass 65,535."""
    blocks = tl.cdiv(SIZE, BLOCK)
    return (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)


@triton.jit(do_not_specialize=("SIZE",))
def normalise_kernel(out, peaks, SIZE, EPS: tl.constexpr, BLOCK: tl.constexpr):
    plane, o_p = _place(SIZE, BLOCK)
    p_out = out + plane * SIZE + o_p
    b_out = tl.load(p_out, mask=o_p < SIZE, other=0.0)
    tl.store(p_out, b_out / (tl.load(peaks + plane) + EPS), mask=o_p < SIZE)


def fuse_launch(planes: int, size: int) -> tuple[int]:
    """For planes (or rows) of `size` numbers."""
    return (planes * triton.cdiv(size, BLOCK),)


def _launch(maps: list[Tensor], flip: bool, normalise: bool, out: Tensor) -> None:
    planes, (height, width) = out.shape[0] * out.shape[1], out.shape[2:]
    peaks = torch.zeros(planes, dtype=torch.float32, device=out.device)
    wides = tuple(out.new_empty(planes * m.shape[2], width) for m in maps)
    for scale_maps, wide in zip(maps, wides, strict=True):
        run(
            widen_kernel, fuse_launch(len(wide), width), out, scale_maps, wide, len(wide), scale_maps.shape[3], width,
            FLIP=flip, BLOCK=BLOCK, num_warps=WARPS,
        )  # fmt: skip
    launch = fuse_launch(planes, height * width)
    run(
        cam_fuse_kernel, launch, out, wides, as_floats(m.shape[2] for m in maps), out, peaks, height, width,
        SCALES=len(maps), NORMALISE=normalise, BLOCK=BLOCK, num_warps=WARPS,
    )  # fmt: skip
    if normalise:
        run(normalise_kernel, launch, out, out, peaks, height * width, EPS=EPSILON, BLOCK=BLOCK, num_warps=WARPS)


def _plain(maps: list[Tensor], flip: bool, normalise: bool, out: Tensor) -> None:
    """Unflip and add before the interpolation, which is linear and symmetric: half the full-size maps."""
    out.zero_()
    for scale_maps in maps:
        small = scale_maps.to(out.dtype)
        if flip:
            straight, mirrored = small.chunk(2)
            small = straight + mirrored.flip(3)
        out += F.interpolate(small, size=out.shape[2:], mode="bilinear", align_corners=False)
    if normalise:
        out /= out.amax((2, 3), keepdim=True) + EPSILON


def _output(maps: list[Tensor], height: int, width: int, flip: bool) -> Tensor:
    count, n = maps[0].shape[:2]
    return torch.empty((count // 2 if flip else count, n, height, width), dtype=torch.float32, device=maps[0].device)


@torch.library.custom_op("pplfast::cam_fuse", mutates_args=())
def _cam_fuse(maps: list[Tensor], height: int, width: int, flip: bool, normalise: bool) -> Tensor:
    out = _output(maps, height, width, flip)
    compute = _launch if use_triton(maps[0]) else _plain
    compute([m.contiguous() for m in maps], flip, normalise, out)
    return out


@_cam_fuse.register_fake
def _(maps: list[Tensor], height: int, width: int, flip: bool, normalise: bool) -> Tensor:
    return _output(maps, height, width, flip)


def cam_fuse(maps: list[Tensor], height: int, width: int, flip: bool, normalise: bool = True) -> Tensor:
    """Sum of all scales' maps at height x width: float32 (B, n, height, width). No backward.

    maps: for each scale (B*F, n, h, w), not negative; with `flip` F is 2 and rows B.. hold the maps of the mirrored
    images. Bilinear, align_corners=False. `normalise` divides each image's class by its maximum + 1e-5. Raises
    ValueError for sizes that do not fit.
    """
    if not maps:
        raise ValueError("maps is empty: one tensor per scale is needed")
    count, n = maps[0].shape[:2]
    if flip and count % 2:
        raise ValueError(f"flip needs an even number of rows, straight then mirrored; there are {count}")
    for scale_maps in maps:
        if scale_maps.shape[:2] != (count, n):
            raise ValueError(f"maps of one scale are {tuple(scale_maps.shape)}, of another ({count}, {n}, ...)")
    return _cam_fuse(maps, height, width, flip, normalise)
