"""Random walk of maps over the pixels, steered by an edge map: sparse steps in place of powers of a dense matrix.

Definition (IRN, arXiv 1904.05044, section 4; its public code): the affinity of two pixels closer than `radius` is
1 - the maximum of the edge map on the straight path between them, A = affinity^beta with ones on its diagonal, T is A
with every column divided by its sum, and the result is (maps * (1 - edge)) T^steps, each map a row vector.

Column j of T has 69 non-zeros at radius 5: a step replaces each pixel's value by a weighted mean over its neighbours.
So 2^t applications of T to the few maps give what the usual code computes by squaring a dense N x N matrix t times.

And a third of them is enough. A is symmetric, so T is similar to a symmetric matrix with its spectrum in [-1, 1], where
z^n is a sum of Chebyshev polynomials whose weights fall like exp(-k^2 / 2n): the first sqrt(2 n log(2 / epsilon)) of
them leave less than epsilon (Sachdeva and Vishnoi 2013, theorem 3.3). For 2^8 steps and 1e-8, 90 applications of T.
Their rounding errors are measured to be those of the 256 steps: 3e-5 of the value, at small values too.
"""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import run, tl, triton, use_triton

BLOCK, WARPS = 128, 4
MAPS_PER_PROGRAM = 4  # more maps than an image usually has classes; a program reads the weights once for all of them
EPSILON = 1e-8  # weight of the Chebyshev polynomials left out; below a float32 rounding


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


@cache
def power_weights(steps: int) -> tuple[float, ...]:
    """c with z^steps = sum over k of c[k] T_k(z) up to EPSILON for |z| <= 1, T_k the Chebyshev polynomials; sum 1.

    c[k] = 2 * binomial(n, (n - k) / 2) / 2^n where n - k is even, half of that at k = 0, and 0 elsewhere.
    """

    def weight(k: int) -> float:
        if (steps - k) % 2:
            return 0.0
        up, down = (steps + k) // 2, (steps - k) // 2
        size = math.lgamma(steps + 1) - math.lgamma(up + 1) - math.lgamma(down + 1) - steps * math.log(2)
        return (2 if k else 1) * math.exp(size)

    weights = [weight(k) for k in range(steps + 1)]
    rest = 0.0
    while rest + weights[-1] < EPSILON:
        rest += weights.pop()
    return tuple(value / (1 - rest) for value in weights)


def random_walk_plain(x: Tensor, edge: Tensor, steps: int, beta: float = 10.0, radius: int = 5) -> Tensor:
    """The definition as a stencil, step by step; see `random_walk`."""
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
    total = 1 + sum((weight for _, weight in pairs), start=torch.zeros_like(edge))
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
    coefficients = power_weights(steps)
    maps = [x.new_zeros(count, size + 2 * margin) for _ in range(2)]
    step, total = x.new_empty(count, size), x.new_empty(count, size)
    for index in range(len(x)):
        walls.fill_(1)
        walls[middle].view(height, row)[:, :width] = edge[index]
        weights.zero_()
        for plane, (dy, dx), _offset in zip(weights, neighbours(radius), offsets, strict=True):
            barrier = plane[middle]
            for y, x_ in straight_path(dy, dx):
                at = margin + y * row + x_
                torch.maximum(barrier, walls[at : at + size], out=barrier)
            barrier.neg_().add_(1).pow_(beta)
        taps = [(plane[middle], offset) for plane, offset in zip(weights, offsets, strict=True)]
        taps += [
            (plane[margin - offset : margin - offset + size], -offset)
            for plane, offset in zip(weights, offsets, strict=True)
        ]
        share = sum(weight for weight, _ in taps).add_(1).reciprocal_()
        sources = [[plane[:, margin + offset : margin + offset + size] for _, offset in taps] for plane in maps]
        middles = [plane[:, middle] for plane in maps]
        middles[0].view(count, height, row)[..., :width] = x[index] * (1 - edge[index])
        middles[1].zero_()
        torch.mul(middles[0], coefficients[0], out=total)
        for k in range(1, len(coefficients)):
            last, before = 1 - k % 2, k % 2  # T_{k-1} and T_{k-2}, whose place T_k takes
            torch.mul(taps[0][0], sources[last][0], out=step)
            for (weight, _), source in zip(taps[1:], sources[last][1:], strict=True):
                step.addcmul_(weight, source)
            # Its own value last: behind an edge the weights are tiny, and each added to it would be rounded to its
            # size. That alone made the result of 256 steps 30 times less exact.
            step.add_(middles[last]).mul_(share)
            torch.sub(step, middles[before], out=middles[before])
            if k == 1:
                share *= 2  # T_1 is one step; from here on T_k = 2 * step of T_{k-1} - T_{k-2}
            if coefficients[k]:
                total.add_(middles[before], alpha=coefficients[k])
        out[index] = total.view(count, height, row)[..., :width].clamp_(min=0)


@cache
def _path_table(radius: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """int32 (pairs, 2) offsets, (pairs + 1) where each pair's cells begin, (cells, 2) the cells of all paths."""
    pairs = neighbours(radius)
    paths = [straight_path(*pair) for pair in pairs]
    starts = [sum(map(len, paths[:k])) for k in range(len(paths) + 1)]
    cells = [cell for path in paths for cell in path]
    offsets, begins, all_cells = (torch.tensor(x, dtype=torch.int32, device=device) for x in (pairs, starts, cells))
    return offsets, begins, all_cells


# Bytes, N pixels, P pairs: read 4 * N, write 4 * P * N; the paths' cells (7 a pair) come from the L1 cache.
@triton.jit(do_not_specialize=("H", "W"))
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


# Bytes, N pixels, C maps: read 4 * P * N weights (from the L2 cache: 1.6 MB for a 375 x 500 image at stride 4), read
# 12 * C * N, write 8 * C * N. The second end of a pair is the same number at p - offset, and the column sum is added up
# on the way.
@triton.jit(do_not_specialize=("H", "W", "MAPS"))
def walk_step_kernel(
    last, before, sums, weights, offsets, H, W, PAIRS, MAPS, factor, coefficient, BC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """before = factor * step(last) - before; sums += coefficient * before. All float32 (B, MAPS, H*W).

    One program: BLOCK pixels of BC maps of one image.
    """
    image = tl.program_id(1).to(tl.int64)
    o_p = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    o_c = tl.program_id(2) * BC + tl.arange(0, BC)
    m_p = o_p < H * W
    m_cp = (o_c < MAPS)[:, None] & m_p[None, :]
    Y = o_p // W
    X = o_p % W
    offset = (image * MAPS + o_c[:, None]) * H * W + o_p[None, :]  # [BC, BLOCK]
    p_last = last + offset
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
        acc += b_ahead[None, :] * tl.load(p_last + shift, mask=m_cp & ahead[None, :], other=0.0)
        acc += b_behind[None, :] * tl.load(p_last - shift, mask=m_cp & behind[None, :], other=0.0)
    # Its own value last: behind an edge the weights are tiny, and each added to it would be rounded to its size.
    acc += tl.load(p_last, mask=m_cp, other=0.0)
    value = factor * (acc / (1.0 + total)[None, :]) - tl.load(before + offset, mask=m_cp, other=0.0)
    tl.store(before + offset, value, mask=m_cp)
    tl.store(sums + offset, tl.load(sums + offset, mask=m_cp, other=0.0) + coefficient * value, mask=m_cp)


def walk_launch(batch: int, maps: int, height: int, width: int, tile: int) -> tuple[int, int, int]:
    return triton.cdiv(height * width, BLOCK), batch, triton.cdiv(maps, tile)


def _launch(x: Tensor, edge: Tensor, steps: int, beta: float, radius: int, out: Tensor) -> None:
    batch, count, height, width = x.shape
    offsets, starts, cells = _path_table(radius, x.device)
    tile = min(MAPS_PER_PROGRAM, triton.next_power_of_2(count))
    launch = walk_launch(batch, count, height, width, tile)
    weights = torch.empty(batch, len(offsets), height, width, dtype=torch.float32, device=x.device)
    run(
        walk_weights_kernel, launch[:2], x, edge, starts, cells, weights, beta, height, width, len(offsets),
        BLOCK=BLOCK, num_warps=WARPS,
    )  # fmt: skip
    maps = x * (1 - edge)[:, None], torch.zeros_like(x)
    coefficients = power_weights(steps)
    torch.mul(maps[0], coefficients[0], out=out)
    for k in range(1, len(coefficients)):
        run(
            walk_step_kernel, launch, x, maps[1 - k % 2], maps[k % 2], out, weights,
            offsets, height, width, len(offsets), count, 1.0 if k == 1 else 2.0, coefficients[k], BC=tile, BLOCK=BLOCK,
            num_warps=WARPS,
        )  # fmt: skip
    out.clamp_(min=0)


@torch.library.custom_op("pplfast::random_walk", mutates_args=())
def _random_walk(x: Tensor, edge: Tensor, steps: int, beta: float, radius: int) -> Tensor:
    x, edge = x.float().contiguous(), edge.float().contiguous()
    out = torch.empty_like(x)
    compute = _launch if use_triton(x) else _plain
    compute(x, edge, steps, beta, radius, out)
    return out


@_random_walk.register_fake
def _(x: Tensor, edge: Tensor, steps: int, beta: float, radius: int) -> Tensor:
    return torch.empty(x.shape, dtype=torch.float32, device=x.device)


def random_walk(x: Tensor, edge: Tensor, steps: int, beta: float = 10.0, radius: int = 5) -> Tensor:
    """(x * (1 - edge)) T^steps in float32, (B, n, h, w), not negative. No backward.

    x: (B, n, h, w) maps, not negative. edge: (B, h, w) in [0, 1]. beta: above 0. radius: pixels; neighbours are
    nearer than it. Memory: about 34 maps (at radius 5) of one image on the CPU, of all images on a GPU.
    Raises ValueError for shapes and values that do not fit.
    """
    if x.dim() != 4 or edge.shape != (x.shape[0], *x.shape[2:]):
        raise ValueError(f"x is {tuple(x.shape)}, edge {tuple(edge.shape)}; must be (B, n, h, w) and (B, h, w)")
    if steps < 0 or radius < 2 or not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"steps {steps}, radius {radius}, beta {beta}: must be 0 or more, 2 or more, above 0")
    return _random_walk(x, edge, steps, float(beta), radius)
