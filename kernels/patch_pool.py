"""Tail + pooling of each patch + aggregation over the image, in one read of the last feature map."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .backend import run, triton, use_triton
from .geometry import valid_extents
from .layout import empty_packed, last, packed, row_launch
from .pool_triton import pool_backward_kernel, pool_kernel
from .tail import affine_act, check_tail, slope_last, tail_last

MODES = ("mean", "max", "lse")
SHARPNESS = 5.0  # r of log-sum-exp pooling; Pinheiro and Collobert, CVPR 2015


def patch_pool_plain(
    patches: Tensor, grid: int, height: int, width: int,
    scale: Tensor | None = None, shift: Tensor | None = None, act: str = "none",
    mode: str = "mean", sharpness: float = SHARPNESS,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The definition: mask the cells outside height x width, reduce over each patch and over the image."""
    count, channels, h, w = patches.shape
    k2, device = grid * grid, patches.device
    rows = torch.tensor(valid_extents(h, grid, height), device=device)
    columns = torch.tensor(valid_extents(w, grid, width), device=device)
    inside_row = torch.arange(h, device=device) < rows[:, None]
    inside_column = torch.arange(w, device=device) < columns[:, None]
    inside = inside_row[:, None, :, None] & inside_column[None, :, None, :]
    inside = inside.reshape(k2, 1, h * w).expand(k2, channels, h * w)

    values = affine_act(patches, scale, shift, act).reshape(count // k2, k2, channels, h * w)
    per_patch = _reduce(values, inside, mode, sharpness)
    pooled = _reduce(values.transpose(1, 2).flatten(2), inside.transpose(0, 1).flatten(1), mode, sharpness)
    return per_patch, pooled


def _reduce(values: Tensor, inside: Tensor, mode: str, sharpness: float) -> Tensor:
    """Over the last axis, cells with `inside` only; 0 where there are none."""
    cells = inside.sum(-1)
    if mode == "mean":
        return values.masked_fill(~inside, 0).sum(-1) / cells.clamp(min=1)
    lowest = values.masked_fill(~inside, torch.finfo(values.dtype).min / max(1.0, sharpness))
    if mode == "max":
        result = lowest.max(-1).values
    else:
        result = (torch.logsumexp(sharpness * lowest, -1) - cells.clamp(min=1).log()) / sharpness
    return torch.where(cells > 0, result, 0)


class _Geometry:
    """Sizes of a pooling of patches x."""

    def __init__(self, x: Tensor, grid: int, height: int, width: int) -> None:
        count, self.channels, self.h, self.w = x.shape
        self.grid, self.height, self.width = grid, height, width
        self.batch = count // (grid * grid)

    def tiles(self, x_last: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(patch, tile (B, rows, columns, C)) of the patches that have cells inside, from the packed NHWC view."""
        x_last = x_last.view(self.batch, self.grid, self.grid, self.h, self.w, self.channels)
        for ky, rows in enumerate(valid_extents(self.h, self.grid, self.height)):
            for kx, columns in enumerate(valid_extents(self.w, self.grid, self.width)):
                if rows and columns:
                    yield ky * self.grid + kx, x_last[:, ky, kx, :rows, :columns]


def _forward(x: Tensor, size: _Geometry, scale: Tensor | None, shift: Tensor | None, act: str, mode: str, r: float,
             per_patch: Tensor, pooled: Tensor, arg: Tensor) -> None:  # fmt: skip
    """Plain version on a packed x; fills the outputs."""
    per_patch.zero_()
    cells = size.height * size.width
    weights = torch.zeros(size.grid**2, 1, dtype=per_patch.dtype, device=x.device)
    for p, part in size.tiles(last(x)):
        rows, columns = part.shape[1:3]
        weights[p] = rows * columns / cells
        if mode == "mean" and act == "none":  # the affine map commutes with the mean: apply it to C numbers
            per_patch[:, p] = tail_last(part.mean((1, 2), dtype=per_patch.dtype), scale, shift, act)
            continue
        z = tail_last(part, scale, shift, act)
        if mode == "mean":
            per_patch[:, p] = z.mean((1, 2))
        elif mode == "max":
            best = z.flatten(1, 2).max(1)
            per_patch[:, p] = best.values
            arg[:, p] = best.indices // columns * size.w + best.indices % columns
        else:
            per_patch[:, p] = (torch.logsumexp(r * z.flatten(1, 2), 1) - torch.tensor(rows * columns).log()) / r
    if mode == "mean":
        pooled.copy_((per_patch * weights).sum(1))
        return
    kept = per_patch.masked_fill(weights == 0, -torch.inf)
    if mode == "max":
        best = kept.max(1)
        pooled.copy_(best.values)
        arg[:, -1] = best.indices
    else:
        pooled.copy_(torch.logsumexp(r * kept + weights.log(), 1) / r)


def _backward(grad_patch: Tensor | None, grad_pooled: Tensor | None, x: Tensor, size: _Geometry,
              scale: Tensor | None, shift: Tensor | None, act: str, mode: str, r: float, per_patch: Tensor,
              pooled: Tensor, arg: Tensor, grad_x: Tensor) -> None:  # fmt: skip
    """Plain version on a packed x; fills the packed grad_x."""
    grad_x.zero_()
    nothing = per_patch.new_zeros(())
    for (p, part), (_, target) in zip(size.tiles(last(x)), size.tiles(last(grad_x)), strict=True):
        own = nothing if grad_patch is None else grad_patch[:, p, None, None]
        shared = nothing if grad_pooled is None else grad_pooled[:, None, None]
        rows, columns = part.shape[1:3]
        cells, total = rows * columns, size.height * size.width
        if mode == "mean":
            grad = own / cells + shared / total
        elif mode == "max":
            y, c = torch.arange(rows, device=x.device), torch.arange(columns, device=x.device)
            here = (y[:, None] * size.w + c)[None, :, :, None] == arg[:, p, None, None]
            grad = here * (own + shared * (arg[:, -1, None, None] == p))
        else:
            z = tail_last(part, scale, shift, act)
            grad = own / cells * ((z - per_patch[:, p, None, None]) * r).exp()
            grad = grad + shared / total * ((z - pooled[:, None, None]) * r).exp()
        target.copy_(slope_last(part, scale, shift, act, grad))


def _outputs(x: Tensor, grid: int, mode: str) -> tuple[Tensor, Tensor, Tensor]:
    batch = x.shape[0] // (grid * grid)
    wide = torch.promote_types(x.dtype, torch.float32)
    k2, channels = grid * grid, x.shape[1]
    return (
        x.new_empty((batch, k2, channels), dtype=wide),
        x.new_empty((batch, channels), dtype=wide),
        # of max: where each maximum sits, for the backward (row p: cell of patch p; last row: patch of the image)
        x.new_empty((batch, k2 + 1, channels) if mode == "max" else (0,), dtype=torch.int32),
    )


POOL_TILE_BYTES = 8192


def pool_options(mode: str) -> dict[str, int]:
    """With 4 warps a thread has four 16-byte loads in flight, and four programs fit a multiprocessor of an H100: 32 KB
    on their way, which its bandwidth needs. Of "max" and "lse" that many values, with what they carry, do not fit the
    registers. Without a stated limit ptxas stops at 48 or 64 registers in some variants and spills 8 bytes for it."""
    return {"num_warps": 4 if mode == "mean" else 8, "maxnreg": 128}


def pool_tile(batch: int, channels: int, dtype: torch.dtype) -> tuple[int, int]:
    """(cells, channels) of one step: wide rows where that leaves enough programs to fill a large GPU, else 32."""
    fitting = (block for block in (128, 64) if block <= channels and batch * triton.cdiv(channels, block) >= 512)
    block_c = next(fitting, 32)
    return POOL_TILE_BYTES // dtype.itemsize // block_c, block_c


@torch.library.custom_op("pplfast::patch_pool", mutates_args=())
def _patch_pool(
    x: Tensor, grid: int, height: int, width: int, scale: Tensor | None, shift: Tensor | None, act: str,
    mode: str, sharpness: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    x, outputs = packed(x), _outputs(x, grid, mode)
    size = _Geometry(x, grid, height, width)
    if use_triton(x):
        block_p, block_c = pool_tile(size.batch, size.channels, x.dtype)
        launch = (size.batch, triton.cdiv(size.channels, block_c))
        run(
            pool_kernel, launch, x, x, scale, shift, *outputs, grid, size.h, size.w, height, width, size.channels,
            sharpness, ACT=act, MODE=mode, BP=block_p, BC=block_c, **pool_options(mode),
        )  # fmt: skip
    else:
        _forward(x, size, scale, shift, act, mode, sharpness, *outputs)
    return outputs


@_patch_pool.register_fake
def _(
    x: Tensor, grid: int, height: int, width: int, scale: Tensor | None, shift: Tensor | None, act: str,
    mode: str, sharpness: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return _outputs(x, grid, mode)


@torch.library.custom_op("pplfast::patch_pool_backward", mutates_args=())
def _patch_pool_backward(
    grad_patch: Tensor | None, grad_pooled: Tensor | None, x: Tensor, per_patch: Tensor, pooled: Tensor, arg: Tensor,
    grid: int, height: int, width: int, scale: Tensor | None, shift: Tensor | None, act: str, mode: str,
    sharpness: float,
) -> Tensor:  # fmt: skip
    x, grad_x = packed(x), empty_packed(x, x.shape)
    size = _Geometry(x, grid, height, width)
    if use_triton(x):
        grads = [None if grad is None else grad.contiguous() for grad in (grad_patch, grad_pooled)]
        launch, blocks = row_launch(size.batch * grid * grid * size.h, size.w, size.channels, x.dtype)
        run(
            pool_backward_kernel, launch, x, *grads, x, grad_x, scale, shift, per_patch, pooled, arg, grid, size.h,
            size.w, height, width, size.channels, sharpness, ACT=act, MODE=mode, **blocks,
        )  # fmt: skip
    else:
        _backward(grad_patch, grad_pooled, x, size, scale, shift, act, mode, sharpness, per_patch, pooled, arg, grad_x)
    return grad_x


@_patch_pool_backward.register_fake
def _(grad_patch: Tensor | None, grad_pooled: Tensor | None, x: Tensor, *others: object) -> Tensor:
    return empty_packed(x, x.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, ctx.grid, ctx.height, ctx.width, scale, shift, *ctx.options = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(x, scale, shift, *output)
    ctx.set_materialize_grads(False)


def _autograd(
    ctx: Any, grad_patch: Tensor | None, grad_pooled: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    x, scale, shift, *outputs = ctx.saved_tensors
    grad_x = None
    if grad_patch is not None or grad_pooled is not None:
        grad_x = torch.ops.pplfast.patch_pool_backward(
            grad_patch, grad_pooled, x, *outputs, ctx.grid, ctx.height, ctx.width, scale, shift, *ctx.options
        )
    return grad_x, *(None,) * 8


_patch_pool.register_autograd(_autograd, setup_context=_setup)


def _check(x: Tensor, scale: Tensor | None, shift: Tensor | None, act: str, mode: str, sharpness: float) -> None:
    check_tail(x.shape[1], scale, shift, act)
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; known: {', '.join(MODES)}")
    if sharpness <= 0:
        raise ValueError(f"sharpness is {sharpness}; must be above 0")


def patch_pool(
    patches: Tensor, grid: int, height: int, width: int,
    scale: Tensor | None = None, shift: Tensor | None = None, act: str = "none",
    mode: str = "mean", sharpness: float = SHARPNESS,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Pool act(x * scale + shift) over each patch and over the image; grid 1 is ordinary global pooling.

    patches: (B*K*K, C, h, w). Cells outside the merged height x width map count nothing. Returns per_patch
    (B, K*K, C), 0 for patches without a cell inside, and pooled (B, C), over all cells of the image (for "mean": the
    mean of per_patch weighted by cells); both float32 (float64 for float64). mode: "mean", "max" (the gradient goes
    to one maximum) or "lse", log(mean(exp(sharpness * z))) / sharpness. Differentiable with respect to `patches`.
    Raises ValueError for sizes that do not fit and unknown modes.
    """
    _check(patches, scale, shift, act, mode, sharpness)
    count, _, h, w = patches.shape
    if count % (grid * grid) or grid * h < height or grid * w < width:
        raise ValueError(f"patches {tuple(patches.shape)} of a {grid} x {grid} grid do not cover {height} x {width}")
    return _patch_pool(patches, grid, height, width, scale, shift, act, mode, sharpness)[:2]
