"""Depthwise convolution between two activations in one pass (C++, depthwise.cpp); PyTorch's own without a compiler."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pplfast.cpu.native import library
from pplfast.kernels import backend
from pplfast.kernels.layout import empty_packed, packed
from pplfast.kernels.tail import ACTS

KERNEL_SIZES, STRIDES = (3, 5), (1, 2)
NATIVE_DTYPES = (torch.float32, torch.bfloat16)
BOUNDS = {"none": (0.0, 0.0), "relu": (0.0, float("inf")), "relu6": (0.0, 6.0)}


def depthwise_act_plain(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: list[int], before: str, after: str
) -> Tensor:
    """The definition: after(conv(pad(before(x)), weight) + bias); padding: left, right, top, bottom, as in F.pad."""
    y = F.conv2d(F.pad(activate(x, before), padding), weight, bias, stride, groups=x.shape[1])
    return activate(y, after)


def activate(x: Tensor, name: str, inplace: bool = False) -> Tensor:
    if name == "none":
        return x
    return F.relu6(x, inplace=inplace) if name == "relu6" else F.relu(x, inplace=inplace)


class _Shape(ctypes.Structure):
    """`Shape` of depthwise.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n", "h", "w", "c", "oh", "ow")),
        *((name, ctypes.c_int) for name in ("top", "left")),
        *((name, ctypes.c_float) for name in ("lo_in", "hi_in", "lo_out", "hi_out")),
        *((name, ctypes.c_int) for name in ("clamp_in", "clamp_out", "threads")),
    ]


def is_native(x: Tensor, weight: Tensor, stride: int) -> bool:
    """Whether the C++ kernel takes these: maps in float32 or bf16, float32 weights, 3x3 or 5x5, stride 1 or 2."""
    fits = (x.device.type == "cpu" and x.dtype in NATIVE_DTYPES and weight.dtype == torch.float32
            and weight.shape[1] == 1 and weight.shape[0] == x.shape[1] and weight.shape[2] == weight.shape[3]
            and weight.shape[2] in KERNEL_SIZES and stride in STRIDES)  # fmt: skip
    return fits and not backend.forced_plain() and library().functions is not None


def _functions() -> ctypes.CDLL:
    functions = library().functions
    assert functions is not None, "is_native() asks for the library first"
    return functions


def _sizes(x: Tensor, weight: Tensor, stride: int, padding: list[int]) -> tuple[int, int]:
    left, right, top, bottom = padding
    kernel = weight.shape[2]
    return (x.shape[2] + top + bottom - kernel) // stride + 1, (x.shape[3] + left + right - kernel) // stride + 1


def _shape(x: Tensor, size: Sequence[int], padding: list[int], before: str, after: str) -> _Shape:
    n, c, h, w = x.shape
    left, _, top, _ = padding
    return _Shape(n, h, w, c, *size, top, left, *BOUNDS[before], *BOUNDS[after], before != "none", after != "none",
                  torch.get_num_threads())  # fmt: skip


def _by_taps(weight: Tensor) -> Tensor:
    """(C, 1, k, k) -> (k*k, C), as the C++ kernels read it."""
    return weight.flatten(1).t().contiguous()


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _forward_into(
    y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: list[int], before: str, after: str
) -> None:
    """x, y: dense channels_last tensors."""
    taps, bias = _by_taps(weight), None if bias is None else bias.float().contiguous()
    shape = _shape(x, y.shape[2:], padding, before, after)
    failed = _functions().pplfast_depthwise_forward(
        _pointer(x), _pointer(taps), _pointer(bias), _pointer(y), weight.shape[2], stride,
        int(x.dtype == torch.bfloat16), ctypes.byref(shape))  # fmt: skip
    assert not failed, "is_native() lets only the compiled sizes through"


def _backward_into(
    grad_x: Tensor | None,
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    stride: int,
    padding: list[int],
    before: str,
    after: str,
) -> Tensor:
    """All dense channels_last tensors -> the gradients of the taps and of the bias, (k*k + 1, C)."""
    taps, kernel, threads = _by_taps(weight), weight.shape[2], torch.get_num_threads()
    chunks = max(1, min(x.shape[0], threads))  # of images, summed apart, so that no two threads add to one number
    partial = torch.empty((chunks, kernel * kernel + 1, x.shape[1]))
    shape = _shape(x, y.shape[2:], padding, before, after)
    failed = _functions().pplfast_depthwise_backward(
        _pointer(grad), _pointer(x), _pointer(y), _pointer(taps), _pointer(grad_x), _pointer(partial),
        ctypes.c_int64(chunks), kernel, stride, int(x.dtype == torch.bfloat16), ctypes.byref(shape))  # fmt: skip
    assert not failed, "is_native() lets only the compiled sizes through"
    return partial.sum(0)


def _by_weight(sums: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """What `_backward_into` returns -> the gradients of weight and bias."""
    return sums[:-1].t().contiguous().view(weight.shape), sums[-1].clone()


@torch.library.custom_op("pplfast::depthwise_act", mutates_args=())
def _depthwise_act(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: list[int], before: str, after: str
) -> Tensor:
    x = packed(x)
    y = empty_packed(x, (*x.shape[:2], *_sizes(x, weight, stride, padding)))
    _forward_into(y, x, weight, bias, stride, padding, before, after)
    return y


@_depthwise_act.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: list[int], before: str, after: str
) -> Tensor:
    return empty_packed(x, (*x.shape[:2], *_sizes(x, weight, stride, padding)))


@torch.library.custom_op("pplfast::depthwise_act_backward", mutates_args=())
def _depthwise_act_backward(
    grad: Tensor, x: Tensor, y: Tensor, weight: Tensor, stride: int, padding: list[int], before: str, after: str,
    need_x: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x (empty unless `need_x`), weight and bias."""
    x = packed(x)
    grad_x = empty_packed(x, x.shape) if need_x else None
    sums = _backward_into(grad_x, packed(grad), x, packed(y), weight, stride, padding, before, after)
    return x.new_empty(0) if grad_x is None else grad_x, *_by_weight(sums, weight)


@_depthwise_act_backward.register_fake
def _(
    grad: Tensor, x: Tensor, y: Tensor, weight: Tensor, stride: int, padding: list[int], before: str, after: str,
    need_x: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    grad_x = empty_packed(x, x.shape) if need_x else x.new_empty(0)
    return grad_x, weight.new_empty(weight.shape), weight.new_empty(weight.shape[0])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _bias, *ctx.options = inputs
    ctx.save_for_backward(x, output, weight)


def _autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    need_x, _, need_bias, *_ = ctx.needs_input_grad
    grad_x, grad_weight, grad_bias = torch.ops.pplfast.depthwise_act_backward(
        grad, *ctx.saved_tensors, *ctx.options, need_x
    )
    return grad_x if need_x else None, grad_weight, grad_bias if need_bias else None, *(None,) * 4


_depthwise_act.register_autograd(_autograd, setup_context=_setup)


def depthwise_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: tuple[int, int, int, int],
    before: str,
    after: str,
) -> Tensor:
    """after(conv(before(x), weight) + bias), each channel by itself; x (B, C, H, W) may be overwritten. Differentiable.

    weight: (C, 1, k, k); bias (C,) or None; padding: zeros at the left, right, top and bottom of before(x); before,
    after: "none", "relu" or "relu6". The C++ kernel takes float32 or bf16 maps with float32 weights and sums in
    float32. Raises ValueError for unknown activations.
    """
    if before not in ACTS or after not in ACTS:
        raise ValueError(f"before is {before!r}, after {after!r}; known: {', '.join(ACTS)}")
    if is_native(x, weight, stride):
        return _depthwise_act(x, weight, bias, stride, list(padding), before, after)
    left, right, top, bottom = padding
    x = activate(x, before, inplace=True)
    if left == right and top == bottom:
        own = (top, left)
    else:
        x, own = F.pad(x, padding), (0, 0)
    return activate(F.conv2d(x, weight, bias, stride, own, groups=x.shape[1]), after, inplace=True)
