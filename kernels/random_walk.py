"""Random walk of maps over the pixels, steered by an edge map: sparse steps in place of powers of a dense matrix.

Definition (IRN, arXiv 1904.05044, section 4; its public code): the affinity of two pixels closer than `radius` is
1 - the maximum of the edge map on the straight path between them, A = affinity^beta with ones on its diagonal, T is A
with every column divided by its sum, and the result is (maps * (1 - edge)) T^steps, each map a row vector.

Column j of T has 69 non-zeros at radius 5: a step replaces each pixel's value by a weighted mean over its neighbours.
So 2^t applications of T to the few maps give what the usual code computes by squaring a dense N x N matrix t times.
"""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import INTERPRETED, run, tl, triton, use_triton

BLOCK, WARPS = 128, 4
MAPS_PER_PROGRAM = 4  # more maps than an image usually has classes; a program reads the weights once for all of them
STEPS_PER_GRAPH = 16  # launches of one CUDA graph, even


@cache
def neighbours(radius: int) -> tuple[tuple[int, int], ...]:
    """Offsets (dy, dx) nearer than `radius`, one of each pair (o, -o): 34 at radius 5."""
    half = [(0, dx) for dx in range(1, radius)]
    return (*half, *((dy, dx) for dy in range(1, radius) for dx in range(1 - radius, radius)
                     if dy * dy + dx * dx < radius * radius))  # fmt: skip


@cache
def straight_path(dy: int, dx: int) -> tuple[tuple[int, int], ...]:
    """The pixels nearer than 1 to the line from (0, 0) to (dy, dx), within their bounding box; both ends included."""
    return tuple((y, x) for y in range(dy + 1) for x in range(min(0, dx), max(0, dx) + 1)
                 if (dy * x - dx * y) ** 2 < dy * dy + dx * dx)  # fmt: skip


def random_walk_plain(x: Tensor, edge: Tensor, steps: int, beta: float = 10.0, radius: int = 5) -> Tensor:
    """The definition as a stencil; see `random_walk`."""
    height, width = edge.shape[1:]
    pad = radius - 1

    def shifted(planes: Tensor, dy: int, dx: int) -> Tensor:
        """planes, padded: the value of pixel p + (dy, dx) at pixel p."""
        return planes[..., pad + dy : pad + dy + height, pad + dx : pad + dx + width]

    walls = F.pad(edge, (pad,) * 4, value=1.0)  # nothing walks out of the image
    pairs = []
    for dy, dx in neighbours(radius):
        barrier = torch.stack([shifted(walls, *cell) for cell in straight_path(dy, dx)]).amax(0)
        there = (1 - barrier) ** beta
        back = shifted(F.pad(there, (pad,) * 4), -dy, -dx)  # symmetric: the same pair, seen from its other end
        pairs += [((dy, dx), there), ((-dy, -dx), back)]
    total = 1 + sum(weight for _, weight in pairs)
    x = x * (1 - edge)[:, None]
    for _ in range(steps):
        around = F.pad(x, (pad,) * 4)
        x = (x + sum(weight[:, None] * shifted(around, *offset) for offset, weight in pairs)) / total[:, None]
    return x


def _plain(x: Tensor, edge: Tensor, steps: int, beta: float, radius: int, out: Tensor) -> None:
    """The definition in flat rows: with `reach` columns of padding behind each row, a neighbour is a shift of the
    whole plane by one number, so that every tap is one in-place multiply-add over contiguous memory."""
    count, height, width = x.shape[1], *edge.shape[1:]
    reach = radius - 1
    row = width + reach
    size, margin = height * row, reach * row + reach
    middle = slice(margin, margin + size)
    offsets = [dy * row + dx for dy, dx in neighbours(radius)]
    walls = edge.new_empty(size + 2 * margin)
    weights = edge.new_empty(len(offsets), size + 2 * margin)  # of the pair (p, p + offset) at p, 0 in the padding
    first, second = (x.new_zeros(count, size + 2 * margin) for _ in range(2))
    for index in range(len(x)):
        walls.fill_(1)
        walls[middle].view(height, row)[:, :width] = edge[index]
        weights.zero_()
        for plane, (dy, dx), offset in zip(weights, neighbours(radius), offsets, strict=True):
            barrier = plane[middle]
            for y, x_ in straight_path(dy, dx):
                at = margin + y * row + x_
                torch.maximum(barrier, walls[at : at + size], out=barrier)
            barrier.neg_().add_(1).pow_(beta)
        first[:, middle].view(count, height, row)[..., :width] = x[index] * (1 - edge[index])
        taps = [(plane[middle], offset) for plane, offset in zip(weights, offsets, strict=True)]
        taps += [(plane[margin - offset : margin - offset + size], -offset)
                 for plane, offset in zip(weights, offsets, strict=True)]
        share = sum(weight for weight, _ in taps).add_(1).reciprocal_()
        sources = [[maps[:, margin + offset : margin + offset + size] for _, offset in taps]
                   for maps in (first, second)]
        ends = [maps[:, middle] for maps in (first, second)]
        for step in range(steps):
            old, new = step % 2, 1 - step % 2
            target = torch.mul(taps[0][0], sources[old][0], out=ends[new])
            for (weight, _), source in zip(taps[1:], sources[old][1:], strict=True):
                target.addcmul_(weight, source)
            # Its own value last: behind an edge the weights are tiny, and each added to it would be rounded to its size.
            target.add_(ends[old]).mul_(share)
        out[index] = ends[steps % 2].view(count, height, row)[..., :width]


@cache
def _path_table(radius: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """int32 (pairs, 2) offsets, (pairs + 1) where each pair's cells begin, (cells, 2) the cells of all paths."""
    pairs = neighbours(radius)
    paths = [straight_path(*pair) for pair in pairs]
    starts = [sum(map(len, paths[:k])) for k in range(len(paths) + 1)]
    cells = [cell for path in paths for cell in path]
    return tuple(torch.tensor(values, dtype=torch.int32, device=device) for values in (pairs, starts, cells))


# Bytes, N pixels, P pairs: read 4 * N, write 4 * P * N; the paths' cells (7 a pair) come from the L1 cache.
@triton.jit
def walk_weights_kernel(edge, starts, cells, weights, beta, H, W, PAIRS, BLOCK: tl.constexpr):
    """One program: BLOCK pixels of one image, all pairs. weights: float32 (B, PAIRS, H*W), of (p, p + offset) at p."""
    image = tl.program_id(1).to(tl.int64)
    o_p = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m_p = o_p < H * W
    Y = o_p // W
    X = o_p % W
    p_edge = edge + image * H * W
    for k in range(PAIRS):
        barrier = tl.zeros([BLOCK], tl.float32)
        for c in range(tl.load(starts + k), tl.load(starts + k + 1)):
            y = Y + tl.load(cells + 2 * c)
            x = X + tl.load(cells + 2 * c + 1)
            inside = m_p & (y < H) & (x >= 0) & (x < W)
            barrier = tl.maximum(barrier, tl.load(p_edge + y * W + x, mask=inside, other=1.0).to(tl.float32))
        b_weight = tl.exp2(beta * tl.log2(tl.maximum(1.0 - barrier, 1e-30)))  # no log of 0
        tl.store(weights + (image * PAIRS + k) * H * W + o_p, tl.where(barrier < 1.0, b_weight, 0.0), mask=m_p)


# Bytes, N pixels, C maps: read 4 * P * N weights (from the L2 cache: 1.6 MB for a 375 x 500 image at stride 4), read and
# write 4 * C * N. The second end of a pair is the same number at p - offset, and the column sum is added up on the way.
@triton.jit
def walk_step_kernel(x, weights, offsets, out, H, W, PAIRS, MAPS, BC: tl.constexpr, BLOCK: tl.constexpr):
    """One program: BLOCK pixels of BC maps of one image. x, out: float32 (B, MAPS, H*W)."""
    image = tl.program_id(1).to(tl.int64)
    o_p = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    o_c = tl.program_id(2) * BC + tl.arange(0, BC)
    m_p = o_p < H * W
    m_c = o_c < MAPS
    Y = o_p // W
    X = o_p % W
    p_x = x + (image * MAPS + o_c[:, None]) * H * W + o_p[None, :]  # [BC, BLOCK]
    total = tl.zeros([BLOCK], tl.float32)
    acc = tl.zeros([BC, BLOCK], tl.float32)
    for k in range(PAIRS):
        dy = tl.load(offsets + 2 * k)
        dx = tl.load(offsets + 2 * k + 1)
        shift = dy * W + dx
        p_weight = weights + (image * PAIRS + k) * H * W + o_p
        ahead = m_p & (Y + dy < H) & (X + dx >= 0) & (X + dx < W)
        behind = m_p & (Y - dy >= 0) & (X - dx >= 0) & (X - dx < W)
        b_ahead = tl.load(p_weight, mask=ahead, other=0.0)
        b_behind = tl.load(p_weight - shift, mask=behind, other=0.0)
        total += b_ahead + b_behind
        acc += b_ahead[None, :] * tl.load(p_x + shift, mask=m_c[:, None] & ahead[None, :], other=0.0)
        acc += b_behind[None, :] * tl.load(p_x - shift, mask=m_c[:, None] & behind[None, :], other=0.0)
    p_out = out + (image * MAPS + o_c[:, None]) * H * W + o_p[None, :]
    # Its own value last: behind an edge the weights are tiny, and each added to it would be rounded to its size.
    acc += tl.load(p_x, mask=m_c[:, None] & m_p[None, :], other=0.0)
    tl.store(p_out, acc / (1.0 + total)[None, :], mask=m_c[:, None] & m_p[None, :])


def _launch(x: Tensor, edge: Tensor, steps: int, beta: float, radius: int, out: Tensor) -> None:
    batch, count, height, width = x.shape
    offsets, starts, cells = _path_table(radius, x.device)
    blocks = triton.cdiv(height * width, BLOCK)
    weights = torch.empty(batch, len(offsets), height, width, dtype=torch.float32, device=x.device)
    run(
        walk_weights_kernel, (blocks, batch), x, edge, starts, cells, weights, beta, height, width,
        len(offsets), BLOCK=BLOCK, num_warps=WARPS,
    )  # fmt: skip
    buffers = x * (1 - edge)[:, None], out
    tile = min(MAPS_PER_PROGRAM, triton.next_power_of_2(count))

    def step(number: int) -> None:
        old, new = buffers[number % 2], buffers[1 - number % 2]
        run(
            walk_step_kernel, (blocks, batch, triton.cdiv(count, tile)), x, old, weights, offsets, new, height, width,
            len(offsets), count, BC=tile, BLOCK=BLOCK, num_warps=WARPS,
        )  # fmt: skip

    done = 0
    if x.is_cuda and not INTERPRETED and steps >= 4 * STEPS_PER_GRAPH and not torch.cuda.is_current_stream_capturing():
        done = _replay(step, steps)
    for number in range(done, steps):
        step(number)
    if steps % 2 == 0:
        out.copy_(buffers[0])


def _replay(step, steps: int) -> int:
    """A step is shorter than its launch: record an even number of them once, replay; returns how many are done."""
    step(0)  # compiles, which a capture does not allow
    step(1)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for number in range(STEPS_PER_GRAPH):
            step(number)
    repeats = (steps - 2) // STEPS_PER_GRAPH
    for _ in range(repeats):
        graph.replay()
    return 2 + repeats * STEPS_PER_GRAPH


@torch.library.custom_op("pplfast::random_walk", mutates_args=())
def _random_walk(x: Tensor, edge: Tensor, steps: int, beta: float, radius: int) -> Tensor:
    x, edge = x.float().contiguous(), edge.float().contiguous()
    out = torch.empty_like(x)
    compute = _launch if use_triton(x) else _plain
    compute(x, edge, steps, beta, radius, out)
    return out


@_random_walk.register_fake
def _(x, edge, steps, beta, radius):
    return torch.empty(x.shape, dtype=torch.float32, device=x.device)


def random_walk(x: Tensor, edge: Tensor, steps: int, beta: float = 10.0, radius: int = 5) -> Tensor:
    """(x * (1 - edge)) T^steps in float32, (B, n, h, w). No backward.

    x: (B, n, h, w) maps, not negative. edge: (B, h, w) in [0, 1]. beta: above 0. radius: pixels; neighbours are
    nearer than it. Memory: about 34 maps (at radius 5) of one image on the CPU, of all images on a GPU.
    Raises ValueError for shapes and values that do not fit.
    """
    if x.dim() != 4 or edge.shape != (x.shape[0], *x.shape[2:]):
        raise ValueError(f"x is {tuple(x.shape)}, edge {tuple(edge.shape)}; must be (B, n, h, w) and (B, h, w)")
    if steps < 0 or radius < 2 or not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"steps {steps}, radius {radius}, beta {beta}: must be 0 or more, 2 or more, above 0")
    return _random_walk(x, edge, steps, float(beta), radius)
