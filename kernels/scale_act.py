"""The pointwise work between two convolutions in one pass: residual sum, affine map of a BatchNorm, activation."""

import math

import torch
from torch import Tensor

from .backend import needs_no_operator, run, tl, triton, use_triton
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
    x: Tensor, residual: Tensor | None, scale: Tensor | None, shift: Tensor | None, act: str, keep_sum: bool
) -> tuple[Tensor | None, Tensor]:
    x, residual = packed(x), None if residual is None else packed(residual)
    if use_triton(x):
        y, z = empty_packed(x, x.shape), empty_packed(x, x.shape) if keep_sum else None
        launch, sizes, blocks = flat_launch(x.numel(), x.shape[1], x.dtype)
        run(scale_act_kernel, launch, x, x, residual, scale, shift, z, y, *sizes, ACT=act, **blocks)
        return z, y
    z = x if residual is None else x + residual
    return z, tail_packed(z, scale, shift, act)


def _scale_act(
    x: Tensor, residual: Tensor | None, scale: Tensor | None, shift: Tensor | None, act: str
) -> Tensor:
    return _forward(x, residual, scale, shift, act, keep_sum=False)[1]


def _add_scale_act(
    x: Tensor, residual: Tensor, scale: Tensor | None, shift: Tensor | None, act: str
) -> tuple[Tensor, Tensor]:
    return _forward(x, residual, scale, shift, act, keep_sum=True)


@torch.library.custom_op("pplfast::scale_act_", mutates_args=("x",))
def _scale_act_inplace(
    x: Tensor, residual: Tensor | None, scale: Tensor | None, shift: Tensor | None, act: str
) -> None:
    """x, packed, becomes the result."""
    if use_triton(x):
        launch, sizes, blocks = flat_launch(x.numel(), x.shape[1], x.dtype)
        residual = None if residual is None else packed(residual)
        run(scale_act_kernel, launch, x, x, residual, scale, shift, None, x, *sizes, ACT=act, **blocks)
    else:
        x.copy_(_scale_act(x, residual, scale, shift, act))


@torch.library.custom_op("pplfast::add_scale_act_", mutates_args=("x",))
def _add_scale_act_inplace(
    x: Tensor, residual: Tensor, scale: Tensor | None, shift: Tensor | None, act: str
) -> Tensor:
    """x, packed, becomes the sum; the result is returned."""
    if not use_triton(x):
        return tail_packed(x.add_(residual), scale, shift, act)
    y = empty_packed(x, x.shape)
    launch, sizes, blocks = flat_launch(x.numel(), x.shape[1], x.dtype)
    run(scale_act_kernel, launch, x, x, packed(residual), scale, shift, x, y, *sizes, ACT=act, **blocks)
    return y


@_add_scale_act_inplace.register_fake
def _(x, residual, scale, shift, act):
    return empty_packed(x, x.shape)


_scale_act_op = torch.library.custom_op("pplfast::scale_act", _scale_act, mutates_args=())
_add_scale_act_op = torch.library.custom_op("pplfast::add_scale_act", _add_scale_act, mutates_args=())


@_scale_act_op.register_fake
def _(x, residual, scale, shift, act):
    return empty_packed(x, x.shape)


@_add_scale_act_op.register_fake
def _(x, residual, scale, shift, act):
    return empty_packed(x, x.shape), empty_packed(x, x.shape)


@torch.library.custom_op("pplfast::scale_act_backward", mutates_args=())
def _scale_act_backward(
    grad_z: Tensor | None, grad_y: Tensor, y: Tensor | None, scale: Tensor | None, act: str
) -> Tensor:
    """`y` is needed for its activation alone, None for "none"."""
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


@_scale_act_backward.register_fake
def _(grad_z, grad_y, y, scale, act):
    return empty_packed(grad_y, grad_y.shape)


def _setup(ctx, inputs, output) -> None:
    y = output[-1] if isinstance(output, tuple) else output
    ctx.act = inputs[4]
    ctx.save_for_backward(None if ctx.act == "none" else y, inputs[2])
    ctx.set_materialize_grads(False)  # a sum or an activation that nobody uses costs nothing


def _gradient(ctx, grad_z: Tensor | None, grad_y: Tensor | None) -> Tensor | None:
    """Of x and of the residual alike, in one pass; without one where the gradient only passes through."""
    y, scale = ctx.saved_tensors
    if grad_y is None or (grad_z is None and y is None and scale is None):
        return grad_z if grad_y is None else grad_y
    return torch.ops.pplfast.scale_act_backward(grad_z, grad_y, y, scale, ctx.act)


def _scale_act_autograd(ctx, grad_y):
    grad = _gradient(ctx, None, grad_y)
    return grad, grad if ctx.needs_input_grad[1] else None, None, None, None


def _add_scale_act_autograd(ctx, grad_z, grad_y):
    grad = _gradient(ctx, grad_z, grad_y)
    return grad, grad, None, None, None


_scale_act_op.register_autograd(_scale_act_autograd, setup_context=_setup)
_add_scale_act_op.register_autograd(_add_scale_act_autograd, setup_context=_setup)


def _check(x: Tensor, residual: Tensor | None, scale: Tensor | None, shift: Tensor | None, act: str) -> None:
    check_tail(x.shape[1], scale, shift, act)
    if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
        raise ValueError(f"residual is {residual.dtype} {tuple(residual.shape)}, x {x.dtype} {tuple(x.shape)}")


def _free(x: Tensor, residual: Tensor | None) -> bool:
    return needs_no_operator(x) and (residual is None or needs_no_operator(residual))


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
    wanted: a tensor of its size less. Raises ValueError for an unknown act, a scale or shift that is not (C,), a residual
    of another shape or dtype than x.
    """
    _check(x, residual, scale, shift, act)
    if torch.compiler.is_compiling():
        return add_scale_act_plain(x, residual, scale, shift, act)[1]
    if inplace and _writable(x, residual):
        _scale_act_inplace(x, residual, scale, shift, act)
        return x
    return (_scale_act if _free(x, residual) else _scale_act_op)(x, residual, scale, shift, act)


def add_scale_act(
    x: Tensor, residual: Tensor, scale: Tensor | None, shift: Tensor | None, act: str, inplace: bool = False
) -> tuple[Tensor, Tensor]:
    """(z, y): z = x + residual, and what `scale_act` makes of it, both in one pass: the end of one pre-activation block
    and the beginning of the next. inplace: z may take the place of x."""
    _check(x, residual, scale, shift, act)
    if torch.compiler.is_compiling():
        return add_scale_act_plain(x, residual, scale, shift, act)
    if inplace and _writable(x, residual):
        return x, _add_scale_act_inplace(x, residual, scale, shift, act)
    return (_add_scale_act if _free(x, residual) else _add_scale_act_op)(x, residual, scale, shift, act)
