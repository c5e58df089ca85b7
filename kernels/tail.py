"""The pointwise tail shared by the kernels: act(x * scale + shift), and its derivative.

`scale` and `shift` are the float32 (C,) affine map of a frozen BatchNorm, or None for the identity.
"""

import torch
from torch import Tensor

ACTS = ("none", "relu", "relu6")


def check_act(act: str) -> None:
    if act not in ACTS:
        raise ValueError(f"act is {act!r}; known: {', '.join(ACTS)}")


def widen(x: Tensor) -> Tensor:
    """float32, the dtype of every accumulation here; float64 (gradient checks) is kept."""
    return x if x.dtype == torch.float64 else x.float()


def affine_act(x: Tensor, scale: Tensor | None, shift: Tensor | None, act: str, dim: int = 1) -> Tensor:
    """act(x * scale + shift) in float32, channels on axis `dim`. Differentiable; the definition."""
    check_act(act)
    shape = [1] * x.dim()
    shape[dim] = x.shape[dim]
    y = widen(x)
    if scale is not None:
        y = y * scale.view(shape)
    if shift is not None:
        y = y + shift.view(shape)
    return y.relu() if act == "relu" else y.clamp(0, 6) if act == "relu6" else y
