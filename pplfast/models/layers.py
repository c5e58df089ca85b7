"""The two layers that the backbones are made of: a BatchNorm that is only an affine map, and a convolution that
absorbs it.

In this field's classifiers BatchNorm keeps its ImageNet statistics and is not trained. It is then the affine map
y = x * scale + shift, and behind a convolution it costs nothing: conv(x, w) * scale + shift = conv(x, w * scale) +
shift, exact up to rounding, with the gradient reaching w through the product. The shift, a residual and the activation
take one pass over the convolution's result.
"""

import math
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Generic, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pplfast.kernels import depthwise, scale_act
from pplfast.kernels.backend import use_triton

Value = TypeVar("Value")


class FrozenBatchNorm(nn.Module):
    """BatchNorm2d with inference statistics for ever. All four tensors are buffers: no optimizer can move them.

    State names are those of nn.BatchNorm2d, without `num_batches_tracked`.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self._affine: Kept[tuple[Tensor, Tensor]] = Kept()

    def affine(self) -> tuple[Tensor, Tensor]:
        """(scale, shift), each (C,), in the buffers' dtype; computed once for given buffers."""
        return self._affine.get((self.weight, self.bias, self.running_mean, self.running_var), self._compute)

    def _compute(self) -> tuple[Tensor, Tensor]:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        return scale_act(x, *self.affine(), "none")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._affine.forget()
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's has no annotations


class Conv(nn.Conv2d):
    """act(bn(conv(x)) + residual) without a bias of its own; BatchNorm, residual and activation are optional.

    `same`: TensorFlow's "same" padding, whose extra row and column lie at the bottom and right; else torch's
    symmetric padding that keeps the size at stride 1. Weights stay NCHW in float32 at rest (DeepSpeed's initialize
    fails on channels_last ones) and become channels_last in the operation's dtype on their way into it.
    """

    padding: tuple[int, int]  # never one of torch's names for a padding

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        same: bool = False,
    ) -> None:
        super().__init__(
            inputs, outputs, kernel, stride, 0 if same else dilation * (kernel // 2), dilation, groups, bias=False
        )
        self.same = same
        self._folded: Kept[Tensor] = Kept()

    def reset_parameters(self) -> None:
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def forward(
        self, x: Tensor, bn: FrozenBatchNorm | None = None, act: str = "none", residual: Tensor | None = None
    ) -> Tensor:
        """x (B, C, H, W), residual (B, C', H', W') -> (B, C', H', W') in the autocast dtype, else the weights'."""
        weight, shift = self.operands(bn, product_dtype(x, self.weight))
        if self._is_depthwise and use_triton(x) and residual is None and not _traced_or_trained(x, weight):
            rows, columns = self.paddings(*x.shape[2:])
            return depthwise(x.to(weight.dtype), weight, self.stride[0], (*columns, *rows), shift, act)
        x, padding = self.pad(x)
        y = F.conv2d(x, weight, None, self.stride, padding, self.dilation, self.groups)
        if shift is None and residual is None and act == "none":
            return y
        return scale_act(y, None, shift, act, residual, inplace=True)

    @property
    def _is_depthwise(self) -> bool:
        """One square filter a channel, as the kernel takes it."""
        one = self.groups == self.in_channels == self.out_channels and self.dilation == (1, 1)
        return one and self.kernel_size[0] == self.kernel_size[1] and self.stride[0] == self.stride[1]

    def pad(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The input and the padding that the operation itself can give it: the same at both ends."""
        (top, bottom), (left, right) = self.paddings(*x.shape[2:])
        if top == bottom and left == right:
            return x, (top, left)
        return F.pad(x, (left, right, top, bottom)), (0, 0)

    def paddings(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """(top, bottom), (left, right)."""
        if not self.same:
            rows, columns = self.padding
            return (rows, rows), (columns, columns)
        (kernel, _), (stride, _), (dilation, _) = self.kernel_size, self.stride, self.dilation
        return same_padding(height, kernel, stride, dilation), same_padding(width, kernel, stride, dilation)

    def operands(self, bn: FrozenBatchNorm | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """The weight of conv + BN in `dtype`, channels_last, and its shift (C',), in the BatchNorm's dtype.

        Kept between calls where no gradient has to reach the weight. A training step changes weights through `.data`,
        which leaves no trace in the tensor's version; so in training mode only weights without gradient are kept, and
        train() and eval() forget what was kept.
        """
        scale, shift = (None, None) if bn is None else bn.affine()
        if torch.compiler.is_compiling():  # the compiler itself computes once what it meets twice
            return fold(self.weight, scale, dtype), shift
        grad = self.weight.requires_grad and torch.is_grad_enabled()
        if grad or (self.training and self.weight.requires_grad):
            folded = _folded_once.get()
            if folded is None:
                return fold(self.weight, scale, dtype), shift
            key = (self, grad, dtype)
            if key not in folded:
                folded[key] = fold(self.weight, scale, dtype)
            return folded[key], shift
        sources = (self.weight,) if scale is None else (self.weight, scale)
        return self._folded.get(sources, lambda: fold(self.weight, scale, dtype), dtype), shift

    def train(self, mode: bool = True) -> Self:
        self._folded.forget()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._folded.forget()
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's has no annotations

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._folded.forget()
        super()._load_from_state_dict(*args, **kwargs)


def _traced_or_trained(x: Tensor, weight: Tensor) -> bool:
    return torch.compiler.is_compiling() or (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))


def product_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """Of a convolution of x: autocast's where it is on, else the weight's."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def fold(weight: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """weight (C', C, k, k) * scale (C',) in `dtype`, channels_last. The gradient reaches the weight."""
    if torch.compiler.is_compiling():
        product = weight if scale is None else weight * scale.view(-1, 1, 1, 1)
        return product.to(dtype, memory_format=torch.channels_last)
    return _Fold.apply(weight, scale, dtype)


class _Fold(torch.autograd.Function):
    """Product, cast and change of layout in one pass each way; autograd's own would take three forward and two back."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
        ctx.scale, ctx.dtype = scale, weight.dtype
        return _scaled(weight, scale, torch.empty_like(weight, dtype=dtype, memory_format=torch.channels_last))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        out = torch.empty_like(grad, dtype=ctx.dtype, memory_format=torch.contiguous_format)
        return _scaled(grad, ctx.scale, out), None, None


def _scaled(x: Tensor, scale: Tensor | None, out: Tensor) -> Tensor:
    return out.copy_(x) if scale is None else torch.mul(x, scale.view(-1, 1, 1, 1), out=out)


class Kept(Generic[Value]):
    """A value kept as long as the tensors that it was computed from are the same, unchanged but through `.data`."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._sources: tuple[Tensor, ...] = ()
        self._state: tuple[Hashable, ...] = ()
        self._value: list[Value] = []

    def get(self, sources: tuple[Tensor, ...], compute: Callable[[], Value], *more: Hashable) -> Value:
        """`compute()`, anew where a source or one of `more` is another than last time. What is kept has no gradient,
        and serves in training though made in inference mode."""
        if torch.compiler.is_compiling():
            return compute()
        state = (*(0 if tensor.is_inference() else tensor._version for tensor in sources), *more)
        same = len(sources) == len(self._sources) and all(map(_is, sources, self._sources))
        if not same or state != self._state:
            with torch.inference_mode(False), torch.no_grad():
                self._sources, self._state, self._value = sources, state, [compute()]
        return self._value[0]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Kept[Value]":
        return Kept()


def _is(a: object, b: object) -> bool:
    return a is b


_folded_once: ContextVar[dict[tuple["Conv", bool, torch.dtype], Tensor] | None] = ContextVar(
    "folded_once", default=None
)


def folded_once() -> AbstractContextManager[None]:
    """For one forward pass that runs some convolutions several times: each weight is folded, and its gradient sent
    back through that, once for all of them. A compiler finds that out by itself."""
    return nullcontext() if torch.compiler.is_compiling() else _fold_once()


@contextmanager
def _fold_once() -> Iterator[None]:
    token = _folded_once.set({})
    try:
        yield
    finally:
        _folded_once.reset(token)


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """TensorFlow's "same" padding (before, after) along one axis: the output has ceil(size / stride) cells."""
    outputs = math.ceil(size / stride)
    total = max((outputs - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return total // 2, total - total // 2
