"""High-dimensional Gaussian filtering on the permutohedral lattice (Adams, Baek, Davis, 2010), as the dense CRF of
Kraehenbuehl and Koltun (2011) uses it: same vertices, weights, blur and scaling, so that the results agree.

Sort-based: the vertices are the sorted unique keys, found with `torch.unique`, and a vertex's pixels lie next to each
other. So splatting is a sum over a segment: no hash table, no atomics, the same result every time.

Legend: N pixels, d feature dimensions, V = d + 1 vertices of a pixel's simplex, M vertices of the lattice, C channels.
"""

import math
import warnings
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from .backend import run, tl, triton, use_triton

SPLAT_ENTRIES = 32  # of a vertex at a time: half have 3 to 28, some thousands, so vertices do not share a program
BLUR_TILE = 128  # vertices times channels of a program
WARPS = 1


@dataclass(frozen=True)
class Lattice:
    """offsets int32 (N, V): the vertices of each pixel; weights float32 (N, V): their barycentric coordinates.

    neighbours int32 (V, M, 2): along each axis; M where there is none. starts int32 (M + 1): vertex m has the entries
    starts[m] .. starts[m + 1] - 1; entries int32 (N * V): their pixels; entry_weights float32 (N * V).
    norm float32 (N,): 1 / sqrt(filtered ones), for the symmetric normalisation.
    """

    offsets: Tensor
    weights: Tensor
    neighbours: Tensor
    starts: Tensor
    entries: Tensor
    entry_weights: Tensor
    norm: Tensor

    @property
    def alpha(self) -> float:
        """What slicing multiplies by: undoes the gain of the blur."""
        return 1 / (1 + 2.0 ** (1 - self.offsets.shape[1]))

    # On the CPU a splat and a slice are products with a sparse matrix: 40 and 13 times as fast as `index_add_` and
    # indexing (167,500 pixels, 3 channels, one thread).
    @cached_property
    def splat_matrix(self) -> Tensor:
        """(M + 1, N)"""
        starts = torch.cat((self.starts, self.starts[-1:]))
        return _csr(starts, self.entries, self.entry_weights, len(self.offsets))

    @cached_property
    def slice_matrix(self) -> Tensor:
        """(N, M + 1)"""
        count, corners = self.offsets.shape
        starts = torch.arange(count + 1, dtype=torch.int32, device=self.offsets.device) * corners
        return _csr(starts, self.offsets.reshape(-1), self.weights.reshape(-1), len(self.starts))


def _csr(starts: Tensor, columns: Tensor, values: Tensor, width: int) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(starts, columns, values, (len(starts) - 1, width), check_invariants=False)


def build_lattice(features: Tensor, groups: Tensor | None = None) -> Lattice:
    """features float32 (N, d), in units of the filter's standard deviations.

    groups int64 (N,): pixels of different groups share no vertex (one lattice for a batch of images); None: one group.
    Raises ValueError where the features span more cells than an int64 can number.
    """
    count, d = features.shape
    rem0, rank, weights = _simplex(features)
    # Keys of the V vertices, by their first d coordinates: the last follows from them.
    canonical = torch.tensor(
        [[i if j <= d - i else i - (d + 1) for j in range(d + 1)] for i in range(d + 1)], device=features.device
    )
    keys = rem0[:, None, :d] + canonical[:, rank[:, :d]].permute(1, 0, 2)  # (N, V, d)
    codes, steps = _encode(keys.reshape(-1, d), groups, d)
    vertices, inverse, counts = torch.unique(codes, return_inverse=True, return_counts=True)
    entry_order = torch.argsort(inverse, stable=True)
    neighbours = torch.stack(
        [torch.stack([_find(vertices, vertices + sign * step) for sign in (1, -1)], dim=1) for step in steps]
    )
    flat = weights.reshape(-1)
    bare = Lattice(
        inverse.reshape(count, d + 1).int(),
        weights,
        neighbours.int(),
        torch.cat((counts.new_zeros(1), counts.cumsum(0))).int(),
        (entry_order // (d + 1)).int(),
        flat[entry_order],
        torch.ones(count, device=features.device),
    )
    total = filter_values(bare, torch.ones(count, 1, device=features.device))[:, 0]
    return replace(bare, norm=(total + 1e-20).rsqrt())


def _simplex(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The remainder-0 vertex int64 (N, V), the rank of each coordinate int64 (N, V), barycentric weights (N, V)."""
    count, d = features.shape
    scale = [math.sqrt(2 / 3) * (d + 1) / math.sqrt((i + 2) * (i + 1)) for i in range(d)]
    elevated = features.new_empty(count, d + 1)
    total = torch.zeros_like(features[:, 0])
    for k in range(d, 0, -1):  # in the order of the sums in the original, for the same rounding
        cf = features[:, k - 1] * scale[k - 1]
        elevated[:, k] = total - k * cf
        total = total + cf
    elevated[:, 0] = total
    rounded = torch.round(elevated * (1 / (d + 1)))  # half to even
    rem0 = rounded * (d + 1)
    surplus = rounded.sum(1, keepdim=True).long()
    difference = elevated - rem0
    # rank: how many coordinates have a larger difference; of equal ones the first counts as larger.
    i, j = torch.arange(d + 1, device=features.device)[:, None], torch.arange(d + 1, device=features.device)[None]
    larger = (difference[:, None, :] > difference[:, :, None]) | (
        (difference[:, None, :] == difference[:, :, None]) & (j < i)
    )
    rank = larger.sum(2) + surplus
    low, high = rank < 0, rank > d
    rem0 = rem0 + (d + 1) * low - (d + 1) * high
    rank = rank + (d + 1) * low.long() - (d + 1) * high.long()
    v = (elevated - rem0) * (1 / (d + 1))
    barycentric = features.new_zeros(count, d + 2)
    barycentric.scatter_add_(1, d - rank, v)
    barycentric.scatter_add_(1, d - rank + 1, -v)
    barycentric[:, 0] += 1 + barycentric[:, d + 1]
    return rem0.long(), rank, barycentric[:, : d + 1].contiguous()


def _encode(keys: Tensor, groups: Tensor | None, d: int) -> tuple[Tensor, list[int]]:
    """One int64 per key, and for each of the V axes the difference of a neighbour's code."""
    low = keys.amin(0) - (d + 1)  # room for neighbours, which must not run into the next row
    sizes = (keys.amax(0) + (d + 1) - low + 1).tolist()
    strides = [math.prod(sizes[k + 1 :]) for k in range(d)]
    cells = math.prod(sizes)
    group_count = 1 if groups is None else int(groups.max()) + 1
    if cells * group_count >= 2**63:
        raise ValueError(
            f"the features span {cells:.1e} cells for each of {group_count} groups, more than an int64 "
            "can number; use larger standard deviations or fewer images at a time"
        )
    codes = ((keys - low) * torch.tensor(strides, device=keys.device)).sum(1)
    if groups is not None:
        codes += groups.repeat_interleave(d + 1) * cells
    # A step along axis j changes all coordinates by -1 and the j-th by +d; the last axis has no coordinate of its own.
    ones = -sum(strides)
    return codes, [ones + (d + 1) * strides[j] for j in range(d)] + [ones]


def _find(vertices: Tensor, wanted: Tensor) -> Tensor:
    """Positions of `wanted` in the sorted `vertices`; their number where absent."""
    at = torch.searchsorted(vertices, wanted).clamp_(max=len(vertices) - 1)
    return torch.where(vertices[at] == wanted, at, len(vertices))


def filter_plain(lattice: Lattice, values: Tensor) -> Tensor:
    """The definition: values float32 (N, C) -> splat, blur along each axis in turn, slice -> (N, C); no norm."""
    cells = splat_plain(lattice, values)
    for axis in range(len(lattice.neighbours)):
        cells = blur_plain(lattice, cells, axis)
    return lattice.alpha * (cells[lattice.offsets.long()] * lattice.weights[:, :, None]).sum(1)


def splat_plain(lattice: Lattice, values: Tensor) -> Tensor:
    """(N, C) -> (M + 1, C); the last row, of the absent neighbours, is 0."""
    cells = values.new_zeros(lattice.neighbours.shape[1] + 1, values.shape[1])
    for j in range(lattice.offsets.shape[1]):
        cells.index_add_(0, lattice.offsets[:, j], values * lattice.weights[:, j, None])
    return cells


def blur_plain(lattice: Lattice, cells: Tensor, axis: int) -> Tensor:
    first, second = lattice.neighbours[axis].unbind(1)
    result = torch.zeros_like(cells)
    result[:-1] = cells[:-1] + 0.5 * (cells[first] + cells[second])
    return result


# Bytes of a splat: the values of N * V entries, 4 * C each, mostly from L2 (a pixel is read V times), 8 an entry for
# its pixel and weight, 4 * C a vertex written. Of a blur: three reads and a write of 4 * C and 8 a vertex.
@triton.jit(do_not_specialize=("NC",))
def splat_kernel(values, starts, entries, entry_weights, norm, out, NC, BE: tl.constexpr, BC: tl.constexpr):
    """One program: one vertex, BE of its entries at a time. values (N, NC), norm (N,) -> out (M + 1, NC)."""
    vertex = tl.program_id(0).to(tl.int64)
    start = tl.load(starts + vertex)
    end = tl.load(starts + vertex + 1)
    o_c = tl.arange(0, BC)
    total = tl.zeros([BC], tl.float32)
    for at in range(start, end, BE):
        o_e = at + tl.arange(0, BE)
        m_e = o_e < end
        pixel = tl.load(entries + o_e, mask=m_e, other=0).to(tl.int64)
        b_w = tl.load(entry_weights + o_e, mask=m_e, other=0.0) * tl.load(norm + pixel, mask=m_e, other=0.0)
        b_v = tl.load(values + pixel[:, None] * NC + o_c[None, :], mask=m_e[:, None] & (o_c < NC)[None, :], other=0.0)
        total += tl.sum(b_w[:, None] * b_v, 0)  # [BE, BC] -> [BC]
    tl.store(out + vertex * NC + o_c, total, mask=o_c < NC)


@triton.jit(do_not_specialize=("M", "NC"), do_not_specialize_on_alignment=("neighbours",))
def blur_kernel(cells, neighbours, out, M, NC, BV: tl.constexpr, BC: tl.constexpr):
    """One program: BV vertices. cells, out (M + 1, NC); neighbours (M, 2) of one axis. The zero row stays zero."""
    o_v = tl.program_id(0) * BV + tl.arange(0, BV)
    m_v = o_v < M
    o_c = tl.arange(0, BC)
    m = m_v[:, None] & (o_c < NC)[None, :]
    first = tl.load(neighbours + o_v * 2, mask=m_v, other=0).to(tl.int64)
    second = tl.load(neighbours + o_v * 2 + 1, mask=m_v, other=0).to(tl.int64)
    o_own = o_v.to(tl.int64)[:, None] * NC + o_c[None, :]
    total = tl.load(cells + first[:, None] * NC + o_c[None, :], mask=m, other=0.0)
    total += tl.load(cells + second[:, None] * NC + o_c[None, :], mask=m, other=0.0)
    tl.store(out + o_own, tl.load(cells + o_own, mask=m, other=0.0) + 0.5 * total, mask=m)


def blur_vertices(channels: int) -> int:
    """Vertices of a program of the blur, for a power of 2 of channels."""
    return max(1, BLUR_TILE // channels)


def spread(lattice: Lattice, values: Tensor, norm: Tensor) -> Tensor:
    """Splat of norm * values and blur: float32 (N, C) -> cells (M + 1, C), whose last row is 0."""
    if not use_triton(values):
        scaled = values * norm[:, None]
        cells = splat_plain(lattice, scaled) if values.is_cuda else lattice.splat_matrix @ scaled
        for axis in range(len(lattice.neighbours)):
            cells = blur_plain(lattice, cells, axis)
        return cells
    values = values.contiguous()
    axes, vertices = lattice.neighbours.shape[:2]
    channels, block = values.shape[1], triton.next_power_of_2(values.shape[1])
    cells = values.new_zeros(vertices + 1, channels)
    other = torch.zeros_like(cells)
    at_once = blur_vertices(block)
    run(
        splat_kernel,
        (vertices,),
        values,
        values,
        lattice.starts,
        lattice.entries,
        lattice.entry_weights,
        norm,
        cells,
        channels,
        BE=SPLAT_ENTRIES,
        BC=block,
        num_warps=WARPS,
    )
    for axis in range(axes):
        run(
            blur_kernel,
            (triton.cdiv(vertices, at_once),),
            values,
            cells,
            lattice.neighbours[axis],
            other,
            vertices,
            channels,
            BV=at_once,
            BC=block,
            num_warps=WARPS,
        )
        cells, other = other, cells
    return cells


def gather(lattice: Lattice, cells: Tensor) -> Tensor:
    """Slice without alpha and norm: (M + 1, C) -> (N, C)."""
    if cells.is_cuda:
        return (cells[lattice.offsets.long()] * lattice.weights[:, :, None]).sum(1)
    return lattice.slice_matrix @ cells


def filter_values(lattice: Lattice, values: Tensor) -> Tensor:
    """values float32 (N, C) -> (N, C), without the norm. The Triton kernels where `use_triton` says so."""
    return lattice.alpha * gather(lattice, spread(lattice, values, torch.ones_like(lattice.norm)))
