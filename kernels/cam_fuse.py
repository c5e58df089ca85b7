"""One set of maps from all scales and flips: unflip, upsample, sum, normalise each class by its maximum."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import run, tl, triton, use_triton
from .cells import Cells, along
from .layout import as_floats

EPSILON = 1e-5  # added to the maximum; the value that this field's code uses
BLOCK, WARPS = 512, 4  # four pixels a thread, whose loads are on their way together


Axes = tuple[Cells, Cells]  # of a scale: its rows and columns, counted in cells of its maps


def cam_fuse_plain(
    maps: list[Tensor],
    height: int,
    width: int,
    flip: bool,
    normalise: bool = True,
    sizes: Sequence[tuple[int, int]] | None = None,
    cells: Cells | None = None,
) -> Tensor:
    """The definition: each pixel between the cells around its place, sum, x / (max + 1e-5) per image and class."""
    total = maps[0].new_zeros((), dtype=torch.float32)
    for number, scale_maps in enumerate(maps):
        rows, columns = _axes(scale_maps, height, width, None if sizes is None else sizes[number], cells)
        grid = torch.stack(
            torch.meshgrid(_normal(columns, width, scale_maps, 3), _normal(rows, height, scale_maps, 2), indexing="xy"),
            2,
        )
        grid = grid.expand(len(scale_maps), -1, -1, -1)
        full = F.grid_sample(scale_maps.float(), grid, mode="bilinear", padding_mode="border", align_corners=True)
        if flip:
            straight, mirrored = full.chunk(2)
            full = straight + mirrored.flip(3)
        total = total + full
    if normalise:
        total = total / (total.amax((2, 3), keepdim=True) + EPSILON)
    return total


def _normal(axis: Cells, size: int, maps: Tensor, dim: int) -> Tensor:
    """Places as `grid_sample` takes them: -1 and 1 are the outermost cells."""
    position = torch.arange(size, device=maps.device) * axis.step + axis.first
    return position / max(maps.shape[dim] - 1, 1) * 2 - 1


def _axes(maps: Tensor, height: int, width: int, size: tuple[int, int] | None, cells: Cells | None) -> Axes:
    """Where the rows and columns of the result lie."""
    if size is None or cells is None:  # evenly shared
        rows, columns = (
            Cells.over(count, pixels) for count, pixels in zip(maps.shape[2:], (height, width), strict=True)
        )
    else:
        rows, columns = (
            Cells.over(scaled, pixels).seen_from(cells) for scaled, pixels in zip(size, (height, width), strict=True)
        )
    return rows, columns


# Bytes, O = B*n*H*W outputs, M = numbers in all maps, U = those widened, O * sum of the scales / stride (5/8 O for
# scales 0.5 to 2 at stride 8): widening reads 4 * M and writes 4 * U, fusing reads 4 * U (each row several times, from
# the caches) and writes 4 * O; the normalisation reads and writes 4 * O again, from the L2 cache where O fits. Eager
# writes and reads O at least 3 times a scale: 4 * 12 O for 4 scales without flips. Of widened maps an output takes two
# loads a scale, of neighbouring numbers by neighbouring threads, in place of eight gathers.
@triton.jit(do_not_specialize=("ROWS", "w", "W", "FIRST", "STEP"))
def widen_kernel(maps, wide, ROWS, w, W, FIRST, STEP, FLIP: tl.constexpr, BLOCK: tl.constexpr):
    """One program: BLOCK columns of one row. maps ([mirrored rows behind the straight ones,] w) -> wide (ROWS, W).
    Column X lies at FIRST + X * STEP of the maps, in a mirrored one at FIRST + (W - 1 - X) * STEP."""
    row, o_x = _place(W, BLOCK)
    m_x = o_x < W
    p_row = maps + row * w  # scalar; offsets inside a row fit int32
    total = _lerp(p_row, o_x.to(tl.float32) * STEP + FIRST, w, 1, 0, m_x)
    if FLIP:
        p_row += (row * 0 + ROWS) * w  # row is int64, so is the product
        total += _lerp(p_row, (W - 1 - o_x).to(tl.float32) * STEP + FIRST, w, 1, 0, m_x)
    tl.store(wide + row * W + o_x, total, mask=m_x)


@triton.jit(do_not_specialize=("H", "W"))
def cam_fuse_kernel(
    wides, hs, firsts, steps, out, peaks, H, W, SCALES: tl.constexpr, NORMALISE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK pixels of one plane (image, class). wides: for each scale (planes, h, W), in which row Y lies
    at its first + Y * its step."""
    plane, o_p = _place(H * W, BLOCK)
    m_p = o_p < H * W
    Y = (o_p // W).to(tl.float32)
    X = o_p % W
    total = tl.zeros([BLOCK], tl.float32)
    for s in tl.static_range(SCALES):
        h = tl.cast(hs[s], tl.int32)
        total += _lerp(wides[s] + plane * h * W, Y * steps[s] + firsts[s], h, W, X, m_p)
    tl.store(out + plane * H * W + o_p, total, mask=m_p)
    if NORMALISE:
        # The maps are not negative, so 0 is neutral; a maximum does not depend on the order of the programs.
        tl.atomic_max(peaks + plane, tl.max(tl.where(m_p, total, 0.0), 0))


@triton.jit
def _lerp(p_map, position, COUNT, PITCH, o_inner, m):
    """Linear between the two of COUNT cells around `position`; the outermost cell's value beyond it."""
    position = tl.minimum(tl.maximum(position, 0.0), COUNT - 1.0)
    o_0 = position.to(tl.int32)
    o_1 = tl.minimum(o_0 + 1, COUNT - 1)
    b_0 = _tap(p_map, o_0 * PITCH + o_inner, m)
    b_1 = _tap(p_map, o_1 * PITCH + o_inner, m)
    return b_0 + (position - o_0) * (b_1 - b_0)


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


def _launch(maps: list[Tensor], axes: list[Axes], flip: bool, normalise: bool, out: Tensor) -> None:
    planes, (height, width) = out.shape[0] * out.shape[1], out.shape[2:]
    peaks = torch.zeros(planes, dtype=torch.float32, device=out.device)
    wides = tuple(out.new_empty(planes * m.shape[2], width) for m in maps)
    for scale_maps, wide, (_, columns) in zip(maps, wides, axes, strict=True):
        run(
            widen_kernel, fuse_launch(len(wide), width), out, scale_maps, wide, len(wide), scale_maps.shape[3], width,
            float(columns.first), float(columns.step), FLIP=flip, BLOCK=BLOCK, num_warps=WARPS,
        )  # fmt: skip
    launch = fuse_launch(planes, height * width)
    firsts, steps = zip(*(rows for rows, _ in axes), strict=True)
    run(
        cam_fuse_kernel, launch, out, wides, as_floats(m.shape[2] for m in maps), as_floats(firsts), as_floats(steps),
        out, peaks, height, width, SCALES=len(maps), NORMALISE=normalise, BLOCK=BLOCK, num_warps=WARPS,
    )  # fmt: skip
    if normalise:
        run(normalise_kernel, launch, out, out, peaks, height * width, EPS=EPSILON, BLOCK=BLOCK, num_warps=WARPS)


def _plain(maps: list[Tensor], axes: list[Axes], flip: bool, normalise: bool, out: Tensor) -> None:
    """Straight and mirrored maps are added when they are wide, before they are high."""
    out.zero_()
    height, width = out.shape[2:]
    for small, (rows, columns) in zip(maps, axes, strict=True):
        if flip:
            straight, mirrored = small.to(out.dtype).chunk(2)
            wide = along(straight, -1, columns, width)
            wide += along(mirrored, -1, columns.mirrored(width), width)
        else:
            wide = along(small.to(out.dtype), -1, columns, width)
        out += along(wide, -2, rows, height)
    if normalise:
        out /= out.amax((2, 3), keepdim=True) + EPSILON


def _output(maps: list[Tensor], height: int, width: int, flip: bool) -> Tensor:
    count, n = maps[0].shape[:2]
    return torch.empty((count // 2 if flip else count, n, height, width), dtype=torch.float32, device=maps[0].device)


@torch.library.custom_op("pplfast::cam_fuse", mutates_args=())
def _cam_fuse(maps: list[Tensor], axes: list[float], height: int, width: int, flip: bool, normalise: bool) -> Tensor:
    """axes: of each scale the first row, their step, the first column, their step."""
    out = _output(maps, height, width, flip)
    compute = _launch if use_triton(maps[0]) else _plain
    by_scale = [(Cells(*axes[i : i + 2]), Cells(*axes[i + 2 : i + 4])) for i in range(0, len(axes), 4)]
    compute([m.contiguous() for m in maps], by_scale, flip, normalise, out)
    return out


@_cam_fuse.register_fake
def _(maps: list[Tensor], axes: list[float], height: int, width: int, flip: bool, normalise: bool) -> Tensor:
    return _output(maps, height, width, flip)


def cam_fuse(
    maps: list[Tensor],
    height: int,
    width: int,
    flip: bool,
    normalise: bool = True,
    sizes: Sequence[tuple[int, int]] | None = None,
    cells: Cells | None = None,
) -> Tensor:
    """Sum of all scales' maps at height x width: float32 (B, n, height, width). No backward.

    maps: for each scale (B*F, n, h, w), not negative; with `flip` F is 2 and rows B.. hold the maps of the mirrored
    images. sizes: (h, w) in pixels of the images that each scale's maps were made of; cells: where the network's cells
    lie in these. Without both, the cells of each map share the image evenly (bilinear, align_corners=False).
    `normalise` divides each image's class by its maximum + 1e-5. Raises ValueError for sizes that do not fit.
    """
    if not maps:
        raise ValueError("maps is empty: one tensor per scale is needed")
    count, n = maps[0].shape[:2]
    if flip and count % 2:
        raise ValueError(f"flip needs an even number of rows, straight then mirrored; there are {count}")
    for scale_maps in maps:
        if scale_maps.shape[:2] != (count, n):
            raise ValueError(f"maps of one scale are {tuple(scale_maps.shape)}, of another ({count}, {n}, ...)")
    if (sizes is None) != (cells is None):
        raise ValueError("sizes and cells say together where cells lie: give both, or neither")
    if sizes is not None and len(sizes) != len(maps):
        raise ValueError(f"{len(sizes)} sizes of images, but maps of {len(maps)} scales")
    known = [None] * len(maps) if sizes is None else sizes
    axes = [_axes(m, height, width, size, cells) for m, size in zip(maps, known, strict=True)]
    numbers = [float(number) for rows, columns in axes for number in (*rows, *columns)]
    return _cam_fuse(maps, numbers, height, width, flip, normalise)
