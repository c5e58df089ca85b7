"""Mean-field inference of the dense CRF (Kraehenbuehl and Koltun, 2011) with a Gaussian and a bilateral Potts term, for
a batch of images of one shape. Gives what pydensecrf gives, up to rounding.

Legend: B images, C labels, H x W pixels, N = B * H * W.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from .backend import run, tl, triton, use_triton
from .permutohedral import Lattice, build_lattice, gather, spread

TILE, WARPS = 128, 1  # pixels times labels of a program: with more, the gathers of 9 vertices fill the registers
CACHED = 8  # Gaussian lattices kept: they depend on the shape alone


@dataclass(frozen=True)
class CrfTerms:
    """Standard deviations in pixels (sxy) and grey levels (srgb), and the weights of the two Potts terms."""

    gaussian_sxy: float
    gaussian_compat: float
    bilateral_sxy: float
    bilateral_srgb: float
    bilateral_compat: float
    iterations: int = 10


def mean_field(images: Tensor, unary: Tensor, terms: CrfTerms) -> Tensor:
    """images uint8 (B, H, W, 3), unary float32 (B, C, H, W) -> marginals float32 (B, C, H, W), on their device.

    A label whose unary is infinite in an image stays at 0 there: images of a batch may have fewer labels than C.
    Raises ValueError for shapes that do not fit.
    """
    batch, labels, height, width = unary.shape
    if images.shape != (batch, height, width, 3) or images.dtype != torch.uint8:
        raise ValueError(f"images {images.dtype} {tuple(images.shape)} do not match the unary {tuple(unary.shape)}")
    gaussian = gaussian_lattice(batch, height, width, terms.gaussian_sxy, unary.device)
    bilateral = build_lattice(*_bilateral_features(images, terms))
    energy = unary.float().permute(0, 2, 3, 1).reshape(-1, labels).contiguous()
    q = torch.softmax(-energy, 1)
    for _ in range(terms.iterations):
        q = _update(energy, q, gaussian, bilateral, terms)
    return q.reshape(batch, height, width, labels).permute(0, 3, 1, 2).contiguous()


def _update(energy: Tensor, q: Tensor, gaussian: Lattice, bilateral: Lattice, terms: CrfTerms) -> Tensor:
    """softmax(-energy + sum of the weighted filters of q)."""
    smooth = [
        (lattice, spread(lattice, q, lattice.norm), weight)
        for lattice, weight in ((gaussian, terms.gaussian_compat), (bilateral, terms.bilateral_compat))
    ]
    if not use_triton(q):
        logits = -energy
        for lattice, cells, weight in smooth:
            logits = logits + gather(lattice, cells) * (weight * lattice.alpha * lattice.norm)[:, None]
        return torch.softmax(logits, 1)
    out = torch.empty_like(q)
    count, labels = q.shape
    (first, cells_g, weight_g), (second, cells_b, weight_b) = smooth
    block = triton.next_power_of_2(labels)
    pixels = update_pixels(block)
    run(
        update_kernel,
        (triton.cdiv(count, pixels),),
        q,
        energy,
        cells_g,
        first.offsets,
        first.weights,
        first.norm,
        cells_b,
        second.offsets,
        second.weights,
        second.norm,
        out,
        weight_g * first.alpha,
        weight_b * second.alpha,
        count,
        labels,
        VG=first.offsets.shape[1],
        VB=second.offsets.shape[1],
        BP=pixels,
        BC=block,
        num_warps=WARPS,
    )
    return out


def update_pixels(labels: int) -> int:
    """Pixels of a program, for a power of 2 of labels."""
    return max(1, TILE // labels)


# Bytes: V * 4 * C gathered a pixel and lattice (from L2 where the cells fit), 8 * V + 4 for offsets, weights and norm,
# 4 * C of energy read and of q written. Slice, scaling, sum and softmax apart would move 4 * C about ten times more.
@triton.jit(do_not_specialize=("N", "NC"))
def update_kernel(
    energy, cells_g, offsets_g, weights_g, norm_g, cells_b, offsets_b, weights_b, norm_b, out, factor_g, factor_b,
    N, NC,
    VG: tl.constexpr, VB: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """One program: BP pixels, all NC labels. energy, out (N, NC); of each lattice cells (M + 1, NC), offsets and
    weights (N, V)."""
    o_p = tl.program_id(0).to(tl.int64) * BP + tl.arange(0, BP)
    m_p = o_p < N
    o_c = tl.arange(0, BC)
    m = m_p[:, None] & (o_c < NC)[None, :]
    logits = -tl.load(energy + o_p[:, None] * NC + o_c[None, :], mask=m, other=float("inf"))  # [BP, BC]
    scale_g = tl.load(norm_g + o_p, mask=m_p, other=0.0) * factor_g
    logits += scale_g[:, None] * _slice(cells_g, offsets_g, weights_g, o_p, m_p, o_c, NC, VG, BP, BC)
    scale_b = tl.load(norm_b + o_p, mask=m_p, other=0.0) * factor_b
    logits += scale_b[:, None] * _slice(cells_b, offsets_b, weights_b, o_p, m_p, o_c, NC, VB, BP, BC)
    # Rows beyond N are all -inf: their maximum is set to 0 so that they do not become NaN.
    peak = tl.where(m_p, tl.max(logits, 1), 0.0)
    b_e = tl.exp(logits - peak[:, None])
    total = tl.where(m_p, tl.sum(b_e, 1), 1.0)
    tl.store(out + o_p[:, None] * NC + o_c[None, :], b_e / total[:, None], mask=m)


@triton.jit
def _slice(cells, offsets, weights, o_p, m_p, o_c, NC, V: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr):
    total = tl.zeros([BP, BC], tl.float32)
    for j in tl.static_range(V):
        vertex = tl.load(offsets + o_p * V + j, mask=m_p, other=0).to(tl.int64)
        b_w = tl.load(weights + o_p * V + j, mask=m_p, other=0.0)
        total += b_w[:, None] * tl.load(
            cells + vertex[:, None] * NC + o_c[None, :], mask=m_p[:, None] & (o_c < NC)[None, :], other=0.0
        )
    return total


def _bilateral_features(images: Tensor, terms: CrfTerms) -> tuple[Tensor, Tensor]:
    """float32 (N, 5): x, y, r, g, b in standard deviations; the image of each pixel int64 (N,)."""
    batch, height, width = images.shape[:3]
    place = _positions(height, width, images.device) / terms.bilateral_sxy
    colours = images.reshape(batch, -1, 3).float() / terms.bilateral_srgb
    features = torch.cat((place.expand(batch, -1, -1), colours), 2).reshape(-1, 5)
    return features, torch.arange(batch, device=images.device).repeat_interleave(height * width)


def _positions(height: int, width: int, device: torch.device) -> Tensor:
    """float32 (H * W, 2): x, y."""
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    return torch.stack((x, y), 2).reshape(-1, 2).float()


_lattices: OrderedDict[tuple[int, int, int, float, str], Lattice] = OrderedDict()


def gaussian_lattice(batch: int, height: int, width: int, sxy: float, device: torch.device) -> Lattice:
    """Of `batch` images side by side; built once for a shape."""
    key = (batch, height, width, sxy, str(device))
    if key not in _lattices:
        features = (_positions(height, width, device) / sxy).repeat(batch, 1)
        groups = torch.arange(batch, device=device).repeat_interleave(height * width)
        _lattices[key] = build_lattice(features, groups)
        while len(_lattices) > CACHED:
            _lattices.popitem(last=False)
    _lattices.move_to_end(key)
    return _lattices[key]
