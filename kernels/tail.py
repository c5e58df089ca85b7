"""The pointwise tail shared by the kernels: act(x * scale + shift), and its derivative.

`scale` and `shift` are the float32 (C,) affine map of a frozen BatchNorm, or None for the identity; they get no
gradient. `act` is "none", "relu" or "relu6".
"""

import torch
from torch import Tensor

from .backend import tl, triton

ACTS = ("none", "relu", "relu6")


def check_tail(channels: int, scale: Tensor | None, shift: Tensor | None, act: str) -> None:
    if act not in ACTS:
        raise ValueError(f"act is {act!r}; known: {', '.join(ACTS)}")
    for name, value in (("scale", scale), ("shift", shift)):
        if value is not None and (value.shape != (channels,) or not value.is_contiguous()):
            raise ValueError(f"{name} has shape {tuple(value.shape)}; must be contiguous, ({channels},)")


def widen(x: Tensor) -> Tensor:
    """float32, the dtype of every accumulation here; float64 (gradient checks) is kept."""
    return x if x.dtype == torch.float64 else x.float()


def affine_act(x: Tensor, scale: Tensor | None, shift: Tensor | None, act: str) -> Tensor:
    """The definition, in float32: act(x * scale + shift), channels on axis 1. Differentiable."""
    check_tail(x.shape[1], scale, shift, act)
    shape = (1, -1) + (1,) * (x.dim() - 2)
    y = widen(x)
    if scale is not None:
        y = y * scale.view(shape)
    if shift is not None:
        y = y + shift.view(shape)
    return y.relu() if act == "relu" else torch.nn.functional.relu6(y) if act == "relu6" else y


def tail_last(x: Tensor, scale: Tensor | None, shift: Tensor | None, act: str) -> Tensor:
    """affine_act without autograd for channels on the last axis. May return `x` itself."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    if scale is not None and shift is not None:
        y = torch.addcmul(shift.to(wide), x, scale.to(wide))  # one pass; a half-precision x is promoted on the way
    elif scale is not None:
        y = x * scale.to(wide)
    elif shift is not None:
        y = x + shift.to(wide)
    else:
        y = x.to(wide)
    if act == "none":
        return y
    fresh = y is not x
    if act == "relu":
        return y.relu_() if fresh else y.relu()
    return y.clamp_(0, 6) if fresh else y.clamp(0, 6)


def tail_packed(x: Tensor, scale: Tensor | None, shift: Tensor | None, act: str) -> Tensor:
    """affine_act without autograd for a packed (N, C, H, W), in x's dtype: a new packed tensor.

    PyTorch's batch normalisation walks channels_last tensors with any number of channels at full speed; a broadcast
    product takes three times as long for the few channels of early blocks.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    zeros, ones = x.new_zeros(x.shape[1], dtype=wide), x.new_ones(x.shape[1], dtype=wide)
    scale, shift = ones if scale is None else scale.to(wide), zeros if shift is None else shift.to(wide)
    # PyTorch 2.11 refuses an eps of 0; 1 + 1e-30 is 1 in float32 and float64.
    y = torch.nn.functional.batch_norm(x, zeros, ones, scale, shift, eps=1e-30)
    return y.relu_() if act == "relu" else y.clamp_(0, 6) if act == "relu6" else y


def slope_last(x: Tensor, scale: Tensor | None, shift: Tensor | None, act: str, grad: Tensor) -> Tensor:
    """grad * d tail_last(x) / dx, in float32; `grad` broadcasts against `x`."""
    scaled = grad if scale is None else grad * scale.to(grad.dtype)
    if act == "none":
        return scaled.expand(x.shape)
    z = tail_last(x, scale, shift, "none")
    # Selections, not products: an infinite gradient of a closed unit has to vanish.
    scaled = scaled.to(z.dtype).expand(z.shape)
    if act == "relu":
        return torch.ops.aten.threshold_backward(scaled, z, 0)
    return torch.ops.aten.hardtanh_backward(scaled, z, 0, 6)


@triton.jit
def load_channels(pointer, o_c, m_c, absent: tl.constexpr):  # [BC] float32, `absent` everywhere without a pointer
    if pointer is None:
        return tl.full(o_c.shape, absent, tl.float32)
    else:
        return tl.load(pointer + o_c, mask=m_c, other=0.0).to(tl.float32)


@triton.jit
def act_value(b_z, ACT: tl.constexpr):
    if ACT != "none":
        b_z = tl.where(b_z < 0, 0.0, b_z)  # comparisons, not maximum: NaN has to pass
    if ACT == "relu6":
        b_z = tl.where(b_z > 6, 6.0, b_z)
    return b_z


@triton.jit
def act_slope(b_grad, b_z, ACT: tl.constexpr):  # b_grad * act'(b_z)
    if ACT == "relu":
        b_grad = tl.where(b_z > 0, b_grad, 0.0)
    if ACT == "relu6":
        b_grad = tl.where((b_z > 0) & (b_z < 6), b_grad, 0.0)
    return b_grad
