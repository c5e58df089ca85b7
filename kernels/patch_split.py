"""P, the patch operation: (B, C, H, W) -> (B*K*K, C, h, w), alone or fused with the next block's BN affine + act."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import needs_no_operator, run, tl, triton, use_triton
from .geometry import PatchGrid, valid_extents
from .layout import SIZES, elements, empty_packed, last, packed, patch_row, row_launch, tile
from .patch_merge import patch_merge
from .tail import act_slope, act_value, affine_act, check_tail, load_channels, slope_last, tail_packed


def patch_split_plain(x: Tensor, grid: int, stride: int) -> Tensor:
    """The definition: pad with zeros at the bottom and right, cut, stack on the batch axis."""
    batch, channels, height, width = x.shape
    cut = PatchGrid(height, width, grid, stride)
    h, w = cut.patch_height, cut.patch_width
    whole = F.pad(x, (0, grid * w - width, 0, grid * h - height))
    tiles = whole.reshape(batch, channels, grid, h, grid, w).permute(0, 2, 4, 1, 3, 5)
    return tiles.reshape(batch * grid * grid, channels, h, w)


def patch_split_act_plain(
    x: Tensor, grid: int, stride: int, scale: Tensor | None, shift: Tensor | None, act: str
) -> tuple[Tensor, Tensor]:
    """The definition: split, then BN affine and activation, so that padding cells hold act(shift)."""
    patches = patch_split_plain(x, grid, stride)
    return patches, affine_act(patches, scale, shift, act).to(x.dtype)


# Bytes, E = size of an element, N = B*C*H*W, P = B*K*K*C*h*w (= N without padding):
#   forward   read N, write P (raw) and P (activated):            E * (N + 2 P), with raw alone E * (N + P)
#   backward  read P (grad raw), P (grad activated), N (x), write N: E * (2 N + 2 P)
# Eager reads and writes N for the copy, for the affine map and for the activation: E * 6 N forward.
@triton.jit(do_not_specialize=SIZES)
def _split_kernel(
    x, raw, activated, scale, shift, K, h, w, H, W, C,
    ACT: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    patch_pixel, map_pixel, inside, _, _ = patch_row(tl.program_id(0), K, h, w, H, W)
    o_p, o_c = tile(BP, BC)
    m_c = o_c < C
    m_x = (o_p < inside)[:, None] & m_c[None, :]
    m_out = (o_p < w)[:, None] & m_c[None, :]
    o_out = elements(patch_pixel, o_p, o_c, C)
    b_x = tl.load(x + elements(map_pixel, o_p, o_c, C), mask=m_x, other=0.0)  # [BP, BC]
    tl.store(raw + o_out, b_x, mask=m_out)
    if activated is not None:
        b_scale = load_channels(scale, o_c, m_c, 1.0)
        b_shift = load_channels(shift, o_c, m_c, 0.0)
        b_y = act_value(b_x.to(tl.float32) * b_scale[None, :] + b_shift[None, :], ACT)
        tl.store(activated + o_out, b_y.to(activated.dtype.element_ty), mask=m_out)


@triton.jit(do_not_specialize=SIZES)
def _split_act_backward_kernel(
    grad_raw, grad_activated, x, grad_x, scale, shift, K, h, w, H, W, C,
    ACT: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    patch_pixel, map_pixel, inside, _, _ = patch_row(tl.program_id(0), K, h, w, H, W)
    o_p, o_c = tile(BP, BC)
    m_c = o_c < C
    m_x = (o_p < inside)[:, None] & m_c[None, :]
    o_x = elements(map_pixel, o_p, o_c, C)
    o_patch = elements(patch_pixel, o_p, o_c, C)
    b_scale = load_channels(scale, o_c, m_c, 1.0)
    b_shift = load_channels(shift, o_c, m_c, 0.0)
    b_z = tl.load(x + o_x, mask=m_x, other=0.0).to(tl.float32) * b_scale[None, :] + b_shift[None, :]  # [BP, BC]
    b_grad = tl.load(grad_activated + o_patch, mask=m_x, other=0.0).to(tl.float32) * b_scale[None, :]
    b_grad = act_slope(b_grad, b_z, ACT)
    if grad_raw is not None:
        b_grad += tl.load(grad_raw + o_patch, mask=m_x, other=0.0).to(tl.float32)
    tl.store(grad_x + o_x, b_grad.to(grad_x.dtype.element_ty), mask=m_x)


def _split_into(x: Tensor, cut: PatchGrid, raw: Tensor) -> None:
    """Plain version of the copy, on packed tensors: one strided copy, or one for each patch if K leaves a rest."""
    grid, h, w = cut.grid, cut.patch_height, cut.patch_width
    source, target = last(x), last(raw).view(x.shape[0], grid, grid, h, w, x.shape[1])
    if (grid * h, grid * w) == (cut.height, cut.width):
        target.copy_(source.view(x.shape[0], grid, h, grid, w, x.shape[1]).transpose(2, 3))
        return
    for ky, rows in enumerate(valid_extents(h, grid, cut.height)):
        for kx, columns in enumerate(valid_extents(w, grid, cut.width)):
            part = target[:, ky, kx]
            part[:, :rows, :columns] = source[:, ky * h : ky * h + rows, kx * w : kx * w + columns]
            part[:, rows:] = 0
            part[:, :rows, columns:] = 0


def _patch_shape(x: Tensor, cut: PatchGrid) -> tuple[int, int, int, int]:
    return x.shape[0] * cut.patches, x.shape[1], cut.patch_height, cut.patch_width


def _launch_split(x: Tensor, cut: PatchGrid, raw: Tensor, activated: Tensor | None, scale: Tensor | None,
                  shift: Tensor | None, act: str) -> None:  # fmt: skip
    count, channels, h, w = raw.shape
    launch, blocks = row_launch(count * h, w, channels, x.dtype)
    run(
        _split_kernel, launch, x, x, raw, activated, scale, shift, cut.grid, h, w, cut.height, cut.width, channels,
        ACT=act, **blocks,
    )  # fmt: skip


def _grid_of(x: Tensor, grid: int, stride: int) -> PatchGrid:
    height, width = x.shape[2:]
    return PatchGrid(height, width, grid, stride)


def _split(x: Tensor, grid: int, stride: int) -> Tensor:
    cut = _grid_of(x, grid, stride)
    x, raw = packed(x), empty_packed(x, _patch_shape(x, cut))
    if use_triton(x):
        _launch_split(x, cut, raw, None, None, None, "none")
    else:
        _split_into(x, cut, raw)
    return raw


_patch_split = torch.library.custom_op("pplfast::patch_split", _split, mutates_args=())


@_patch_split.register_fake
def _(x: Tensor, grid: int, stride: int) -> Tensor:
    return empty_packed(x, _patch_shape(x, _grid_of(x, grid, stride)))


def _split_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ctx.grid, _ = inputs
    ctx.size = x.shape[2:]


def _split_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return patch_merge(grad, ctx.grid, *ctx.size), None, None


_patch_split.register_autograd(_split_backward, setup_context=_split_setup)


def _split_act(
    x: Tensor, grid: int, stride: int, scale: Tensor | None, shift: Tensor | None, act: str
) -> tuple[Tensor, Tensor]:
    cut = _grid_of(x, grid, stride)
    x, raw = packed(x), empty_packed(x, _patch_shape(x, cut))
    if use_triton(x):
        activated = empty_packed(x, raw.shape)
        _launch_split(x, cut, raw, activated, scale, shift, act)
        return raw, activated
    _split_into(x, cut, raw)
    return raw, tail_packed(raw, scale, shift, act)


_patch_split_act = torch.library.custom_op("pplfast::patch_split_act", _split_act, mutates_args=())


@_patch_split_act.register_fake
def _(x: Tensor, grid: int, stride: int, scale: Tensor | None, shift: Tensor | None, act: str) -> tuple[Tensor, Tensor]:
    shape = _patch_shape(x, _grid_of(x, grid, stride))
    return empty_packed(x, shape), empty_packed(x, shape)


@torch.library.custom_op("pplfast::patch_split_act_backward", mutates_args=())
def _patch_split_act_backward(
    grad_raw: Tensor | None, grad_activated: Tensor, x: Tensor, grid: int, scale: Tensor | None,
    shift: Tensor | None, act: str,
) -> Tensor:  # fmt: skip
    channels, height, width = x.shape[1:]
    h, w = grad_activated.shape[2:]
    x, grad_activated = packed(x), packed(grad_activated)
    grad_raw = None if grad_raw is None else packed(grad_raw)
    grad_x = empty_packed(x, x.shape)
    if use_triton(x):
        launch, blocks = row_launch(grad_activated.shape[0] * h, w, channels, x.dtype)
        run(
            _split_act_backward_kernel, launch, x, grad_raw, grad_activated, x, grad_x, scale, shift, grid, h, w,
            height, width, channels, ACT=act, **blocks,
        )  # fmt: skip
        return grad_x
    wide = torch.promote_types(x.dtype, torch.float32)
    shape = (x.shape[0], grid, grid, h, w, channels)
    for ky, rows in enumerate(valid_extents(h, grid, height)):
        for kx, columns in enumerate(valid_extents(w, grid, width)):
            here = (slice(None), slice(ky * h, ky * h + rows), slice(kx * w, kx * w + columns))
            inside = (slice(None), ky, kx, slice(rows), slice(columns))
            grad = last(grad_activated).view(shape)[inside].to(wide)
            grad = slope_last(last(x)[here], scale, shift, act, grad)
            if grad_raw is not None:
                grad = grad + last(grad_raw).view(shape)[inside]
            last(grad_x)[here] = grad
    return grad_x


@_patch_split_act_backward.register_fake
def _(grad_raw: Tensor | None, grad_activated: Tensor, x: Tensor, *options: object) -> Tensor:
    return empty_packed(x, x.shape)


def _split_act_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, ctx.grid, _, scale, shift, ctx.act = inputs
    ctx.save_for_backward(x, scale, shift)
    ctx.set_materialize_grads(False)  # a block with a convolution shortcut never uses the raw patches


def _split_act_backward(ctx: Any, grad_raw: Tensor | None, grad_activated: Tensor | None) -> tuple[Tensor | None, ...]:
    x, scale, shift = ctx.saved_tensors
    if grad_activated is None and grad_raw is None:
        grad_x = None
    elif grad_activated is None:
        grad_x = patch_merge(grad_raw, ctx.grid, *x.shape[2:])
    else:
        grad_x = torch.ops.pplfast.patch_split_act_backward(
            grad_raw, grad_activated, x, ctx.grid, scale, shift, ctx.act
        )
    return grad_x, None, None, None, None, None


_patch_split_act.register_autograd(_split_act_backward, setup_context=_split_act_setup)


def patch_split(x: Tensor, grid: int, stride: int) -> Tensor:
    """Cut x (B, C, H, W) into K x K patches: (B*K*K, C, h, w), channels_last, same dtype. Differentiable.

    `stride` is the product of the strides of the layers that follow: h and w are the smallest multiples of it with
    K*h >= H and K*w >= W; the padding at the bottom and right is 0. Raises ValueError for sizes below 1.
    """
    return (_split if needs_no_operator(x) else _patch_split)(x, grid, stride)


def patch_split_act(
    x: Tensor, grid: int, stride: int, scale: Tensor | None, shift: Tensor | None, act: str
) -> tuple[Tensor, Tensor]:
    """patch_split and act(x * scale + shift) of it in one pass: (patches, activated), each (B*K*K, C, h, w).

    Padding cells of `activated` hold act(shift): what a pre-activation block sees in zero-padded patches. Gradients
    go to `x` alone. Raises ValueError for an unknown act or a scale or shift that is not (C,).
    """
    check_tail(x.shape[1], scale, shift, act)
    return (_split_act if needs_no_operator(x) else _patch_split_act)(x, grid, stride, scale, shift, act)
