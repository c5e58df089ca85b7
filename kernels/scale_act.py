"""The pointwise work between two convolutions in one pass: residual sum, affine map of a BatchNorm, activation."""

import math
from typing import Any

import torch
from torch import Tensor

from .backend import run, tl, triton, use_triton
from .layout import ROW_OPTIONS, TILE_BYTES, empty_packed, packed
from .tail import act_slope, act_value, affine_act, check_tail, load_channels, tail_packed

VECTOR = 8  # neighbouring channels that a thread takes at once: 16 bytes of a half type
MOST_ROWS = 1024  # V-tuples of a program: with more, the offsets of single numbers (V = 1) fill the registers


def add_scale_act_plain(
    x: Tensor, residual: Tensor | None, scale: Tensor | None, shift: Tensor | None, act: str
) -> tuple[Tensor, Tensor]:
    """The definition, differentiable: z = x + residual in x's dtype, and act(z * scale + shift) of it."""
    z = x if residual is None else x + residual
    return z, affine_act(z, scale, shift, act).to(x.dtype)


# Bytes, E = size of an element, N = B*C*H*W:
#   forward   read N (x), N (residual, where there is one), write N (y), N (z, where it is wanted):   E * (2 to 4) N
#   backward  read N (grad y), N (y, only with an activation), N (grad z, where there is one), write N: E * (2 to 4) N
# Eager reads and writes N for the bias, the sum, the affine map and the activation each: E * 8 to 9 N forward.
# Numbers are taken V at a time, V channels of one pixel (V divides C): one division gives the channels of V numbers,
# and their scale and shift come in 16-byte loads. Neither a size nor C is compiled in.
@triton.jit
def _places(ROWS, GROUPS, BR: tl.constexpr, V: tl.constexpr):
    """Offsets int64 [BR, V] of this program's numbers and their channels [BR, V], both with their mask. ROWS: V-tuples
    of the tensor; GROUPS: those of one pixel."""
    first = tl.program_id(0).to(tl.int64) * BR
    o_row = tl.arange(0, BR)
    o_v = tl.arange(0, V)
    group = ((first % GROUPS).to(tl.int32) + o_row) % GROUPS
    o_x = ((first + o_row) * V)[:, None] + o_v[None, :]
    m_x = (first + o_row < ROWS)[:, None] & (o_v < V)[None, :]
    return o_x, (group * V)[:, None] + o_v[None, :], m_x


@triton.jit(do_not_specialize=["ROWS", "GROUPS"])
def scale_act_kernel(
    x, residual, scale, shift, z, y, ROWS, GROUPS, ACT: tl.constexpr, BR: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    o_x, o_c, m_x = _places(ROWS, GROUPS, BR, V)
    b_z = tl.load(x + o_x, mask=m_x, other=0.0)  # [BR, V]
    if residual is not None:
        b_r = tl.load(residual + o_x, mask=m_x, other=0.0).to(tl.float32)
        b_z = (b_z.to(tl.float32) + b_r).to(b_z.dtype)
    if z is not None:
        tl.store(z + o_x, b_z, mask=m_x)
    b_y = b_z.to(tl.float32) * load_channels(scale, o_c, m_x, 1.0) + load_channels(shift, o_c, m_x, 0.0)
    tl.store(y + o_x, act_value(b_y, ACT).to(y.dtype.element_ty), mask=m_x)


@triton.jit(do_not_specialize=["ROWS", "GROUPS"])
def scale_act_backward_kernel(
    grad_z, grad_y, y, scale, grad_x, ROWS, GROUPS, ACT: tl.constexpr, BR: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    o_x, o_c, m_x = _places(ROWS, GROUPS, BR, V)
    b_grad = tl.load(grad_y + o_x, mask=m_x, other=0.0).to(tl.float32)  # [BR, V]
    if y is not None:
        b_grad = act_slope(b_grad, tl.load(y + o_x, mask=m_x, other=0.0).to(tl.float32), ACT)
    b_grad *= load_channels(scale, o_c, m_x, 1.0)
    if grad_z is not None:
        b_grad += tl.load(grad_z + o_x, mask=m_x, other=0.0).to(tl.float32)
    tl.store(grad_x + o_x, b_grad.to(grad_x.dtype.element_ty), mask=m_x)


def flat_launch(numbers: int, channels: int, dtype: torch.dtype) -> tuple[tuple[int], tuple[int, int], dict[str, int]]:
    """Launch grid, the arguments ROWS and GROUPS, block sizes and options, for a packed tensor of `numbers`."""
    vector = math.gcd(channels, VECTOR)
    rows, block = numbers // vector, min(TILE_BYTES // dtype.itemsize // vector, MOST_ROWS)
    return (triton.cdiv(rows, block),), (rows, channels // vector), {"BR": block, "V": vector, **ROW_OPTIONS}


def _forward(
    x: Tensor, residual: Tensor | None, scale: Tensor | None, shift: Tensor | None, act: str, keep_sum: bool,
    inplace: bool = False,
) -> tuple[Tensor | None, Tensor]:  # fmt: skip
    """(z, where it is kept, y); inplace: one of the two takes the place of x, which is packed."""
    x, residual = packed(x), None if residual is None else packed(residual)
    if use_triton(x):
        kept = (x if inplace else empty_packed(x, x.shape)) if keep_sum else None
        y = x if inplace and not keep_sum else empty_packed(x, x.shape)
        launch, sizes, blocks = flat_launch(x.numel(), x.shape[1], x.dtype)
        run(scale_act_kernel, launch, x, x, residual, scale, shift, kept, y, *sizes, ACT=act, **blocks)
        return kept, y
    z = x if residual is None else x.add_(residual) if inplace else x + residual
    y = tail_packed(z, scale, shift, act)
    return z if keep_sum else None, x.copy_(y) if inplace and not keep_sum else y


def _backward(grad_z: Tensor | None, grad_y: Tensor, y: Tensor | None, scale: Tensor | None, act: str) -> Tensor:
    """The gradient of x and of the residual alike. `y` is needed for its activation alone, None for "none"."""
    grad_y, grad_z = packed(grad_y), None if grad_z is None else packed(grad_z)
    if use_triton(grad_y):
        grad_x = empty_packed(grad_y, grad_y.shape)
        launch, sizes, blocks = flat_launch(grad_y.numel(), grad_y.shape[1], grad_y.dtype)
        run(scale_act_backward_kernel, launch, grad_y, grad_z, grad_y, y, scale, grad_x, *sizes, ACT=act, **blocks)
        return grad_x
    grad = grad_y
    # Selections, not products: an infinite gradient of a closed unit has to vanish.
    if act == "relu":
        grad = torch.ops.aten.threshold_backward(grad, y, 0)
    elif act == "relu6":
        grad = torch.ops.aten.hardtanh_backward(grad, y, 0, 6)
    if scale is not None:
        grad = grad * scale.to(torch.promote_types(grad.dtype, torch.float32)).view(1, -1, 1, 1)
    if grad_z is not None:
        grad = grad + grad_z
    return packed(grad.to(grad_y.dtype))


class _ScaleAct(torch.autograd.Function):
    """Not a registered operator, as the other kernels are: there are a hundred or more of these in a step, and an
    operator's dispatch takes the host three to four times as long. Compilers get the plain definition."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor | None, scale: Tensor | None, shift: Tensor | None, act: str,
                keep_sum: bool) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
        z, y = _forward(x, residual, scale, shift, act, keep_sum)
        ctx.act = act
        ctx.save_for_backward(None if act == "none" else y, scale)
        ctx.set_materialize_grads(False)  # a sum or an activation that nobody uses costs nothing
        return y if z is None else (z, y)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_z, grad_y = grads if len(grads) == 2 else (None, grads[0])
        y, scale = ctx.saved_tensors
        if grad_y is None or (grad_z is None and y is None and scale is None):
            grad = grad_z if grad_y is None else grad_y  # it only passes through
        else:
            grad = _backward(grad_z, grad_y, y, scale, ctx.act)
        return grad, grad if ctx.needs_input_grad[1] else None, None, None, None, None


def _check(x: Tensor, residual: Tensor | None, scale: Tensor | None, shift: Tensor | None, act: str) -> None:
    check_tail(x.shape[1], scale, shift, act)
    if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
        raise ValueError(f"residual is {residual.dtype} {tuple(residual.shape)}, x {x.dtype} {tuple(x.shape)}")


def _writable(x: Tensor, residual: Tensor | None) -> bool:
    """Whether x can be overwritten: no gradient has to find its way back, and its layout is the result's."""
    needed = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, residual))
    return not needed and x.is_contiguous(memory_format=torch.channels_last)


def scale_act(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, act: str, residual: Tensor | None = None,
    inplace: bool = False,
) -> Tensor:  # fmt: skip
    """act((x + residual) * scale + shift) in one pass: (B, C, H, W), channels_last, in x's dtype.

    The sum is rounded to that dtype as if it were stored; all else is float32, rounded once. For the backward pass
    the result alone is kept, and for act "none" nothing. Gradients go to x and residual. Inside torch.compile it is
    the plain definition, which Inductor fuses itself. inplace: x may be overwritten, and is where no gradient is
    wanted: a tensor of its size less. Raises ValueError for an unknown act, a scale or shift that is not (C,), a
    residual of another shape or dtype than x.
    """
    _check(x, residual, scale, shift, act)
    if torch.compiler.is_compiling():
        return add_scale_act_plain(x, residual, scale, shift, act)[1]
    if inplace and _writable(x, residual):
        return _forward(x, residual, scale, shift, act, keep_sum=False, inplace=True)[1]
    return _ScaleAct.apply(x, residual, scale, shift, act, False)


def add_scale_act(
    x: Tensor, residual: Tensor, scale: Tensor | None, shift: Tensor | None, act: str, inplace: bool = False
) -> tuple[Tensor, Tensor]:
    """(z, y): z = x + residual, and what `scale_act` makes of it, both in one pass: the end of one pre-activation block
    and the beginning of the next. inplace: z may take the place of x."""
    _check(x, residual, scale, shift, act)
    if torch.compiler.is_compiling():
        return add_scale_act_plain(x, residual, scale, shift, act)
    if inplace and _writable(x, residual):
        z, y = _forward(x, residual, scale, shift, act, keep_sum=True, inplace=True)
        assert z is not None, "keep_sum"
        return z, y
    return _ScaleAct.apply(x, residual, scale, shift, act, True)
