"""The two layers that the backbones are made of: a BatchNorm that is only an affine map, and a convolution that
absorbs it.

In this field's classifiers BatchNorm keeps its ImageNet statistics and is not trained. It is then the affine map
y = x * scale + shift, and behind a convolution it costs nothing: conv(x, w) * scale + shift = conv(x, w * scale) +
shift, exact up to rounding, with the gradient reaching w through the product.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pplfast.kernels.depthwise import depthwise_act, depthwise_act_rows, is_native, sizes_behind
from pplfast.kernels.winograd import MIN_CHANNELS, MIN_TILES, tiles, winograd_conv, winograd_weight

# Of a strided 1x1 convolution with fewer channels than this, oneDNN's weight gradient in channels_last writes past its
# workspace: wrong gradients, a crash, or two threads that wait for each other for ever. Seen here below 8 channels with
# AVX2 (oneDNN of torch 2.13.0); its issue 6035 says below 16 with AVX-512. Taking each stride-th cell first avoids it.
ONEDNN_BLOCK = 16


class FrozenBatchNorm(nn.Module):
    """BatchNorm2d with inference statistics for ever. All four tensors are buffers: no optimizer can move them.

    State names are those of nn.BatchNorm2d, without `num_batches_tracked`.
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self._affine: tuple[tuple, Tensor, Tensor] | None = None

    def affine(self) -> tuple[Tensor, Tensor]:
        """(scale, shift), each (C,), in the buffers' dtype; computed once for given buffers."""
        state = fingerprint(self.weight, self.bias, self.running_mean, self.running_var)
        if self._affine is None or self._affine[0] != state:
            with _kept():
                scale = self.weight * (self.running_var + self.eps).rsqrt()
                self._affine = (state, scale, self.bias - self.running_mean * scale)
        return self._affine[1], self._affine[2]

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)

    def relu(self, x: Tensor) -> Tensor:
        """relu(self(x)), keeping one tensor for the backward pass instead of two."""
        return _AffineRelu.apply(x, self.running_mean, self.running_var, self.weight, self.bias, self.eps)

    def _apply(self, fn, recurse=True):
        self._affine = None
        return super()._apply(fn, recurse)


class _AffineRelu(torch.autograd.Function):
    """relu(batch_norm(x)) with frozen statistics, saving its result alone.

    The convolution behind it saves that same tensor, so in front of a pre-activation unit this keeps nothing extra;
    autograd's own batch_norm would keep x as well, although frozen statistics never need it.
    """

    @staticmethod
    def forward(ctx, x, mean, var, weight, bias, eps):
        y = F.batch_norm(x, mean, var, weight, bias, eps=eps).relu_()
        ctx.save_for_backward(y, weight * (var + eps).rsqrt())
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        y, scale = ctx.saved_tensors
        grad = torch.ops.aten.threshold_backward(grad, y, 0)
        return grad.mul_(scale.to(grad.dtype).view(1, -1, 1, 1)), None, None, None, None, None


class Conv(nn.Conv2d):
    """Convolution without bias, optionally followed by a frozen BatchNorm in the same operation.

    `same`: TensorFlow's "same" padding, whose extra row and column lie at the bottom and right; else torch's
    symmetric padding that keeps the size at stride 1. Weights stay NCHW at rest (DeepSpeed's initialize fails on
    channels_last ones) and become channels_last on their way into the operation.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1,
                 same: bool = False):
        super().__init__(inputs, outputs, kernel, stride, 0 if same else dilation * (kernel // 2), dilation, groups,
                         bias=False)
        self.same = same
        self.winograd = False  # see `use_winograd`
        self._transformed: tuple[Tensor, Tensor] | None = None  # the folded weight and its transform
        self._folded: tuple[tuple, Tensor, Tensor | None] | None = None

    def reset_parameters(self) -> None:
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def forward(self, x: Tensor, bn: FrozenBatchNorm | None = None) -> Tensor:
        """x (B, C, H, W) -> bn(conv(x)), a new tensor that the caller may change in place."""
        return self._convolve(x, *self._operands(bn, self._dtype(x)))

    def on_rows(self, x: Tensor, bn: FrozenBatchNorm | None = None) -> Tensor:
        """`forward` of a 1x1 convolution on cells (n, C) -> (n, C')."""
        weight, bias = self._operands(bn, self._dtype(x))
        return F.linear(x, weight.flatten(1), bias)

    def depthwise_on_rows(self, x: Tensor, sizes: list[int], bn: FrozenBatchNorm, before: str, after: str
                          ) -> tuple[Tensor, list[int]]:
        """`depthwise` of maps as rows, kernels.depthwise.depthwise_act_rows, and their sizes behind it."""
        stride, paddings = self.stride[0], []
        for height, width in zip(sizes[1::3], sizes[2::3], strict=True):
            (top, bottom), (left, right) = self._paddings((height, width))
            paddings += [left, right, top, bottom]
        with torch.autocast(x.device.type, enabled=False):
            y = depthwise_act_rows(x, *self._operands(bn, self.weight.dtype), sizes, stride, paddings, before, after)
        return y, sizes_behind(sizes, self.kernel_size[0], stride, paddings)

    def depthwise(self, x: Tensor, bn: FrozenBatchNorm, before: str, after: str) -> Tensor:
        """after(bn(conv(before(x)))) of a depthwise convolution, in one pass on CPUs; x may be changed in place.

        before, after: "none", "relu" or "relu6".
        """
        (top, bottom), (left, right) = self._paddings(x.shape[2:])
        padding, stride = (left, right, top, bottom), self.stride[0]
        device, dtype = x.device.type, self.weight.dtype
        if device != "cpu" and torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        if not is_native(x, self.weight, stride):  # which takes maps in bf16 beside weights in float32
            # On CPUs PyTorch's backward pass of a depthwise convolution is twice as slow in bf16 as in float32.
            x = x.to(dtype)
        with torch.autocast(device, enabled=False):
            return depthwise_act(x, *self._operands(bn, dtype), stride, padding, before, after)

    def _dtype(self, x: Tensor) -> torch.dtype:
        """Of a dense product with x."""
        device = x.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.weight.dtype

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        (top, bottom), (left, right) = self._paddings(x.shape[2:])
        padding = (top, left)
        if top != bottom or left != right:
            x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
        if self.winograd and padding == (1, 1) and x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu" \
                and not torch.is_grad_enabled() and tiles(x) >= MIN_TILES:
            if self._transformed is None or self._transformed[0] is not weight:
                with _kept():
                    self._transformed = (weight, winograd_weight(weight.detach()))
            return winograd_conv(x, self._transformed[1], bias)
        stride = self.stride
        if self.kernel_size == (1, 1) and stride != (1, 1) and self.in_channels < ONEDNN_BLOCK:
            x, stride = x[:, :, ::stride[0], ::stride[1]], (1, 1)
        return F.conv2d(x, weight, bias, stride, padding, self.dilation, self.groups)

    def _paddings(self, sizes: Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """sizes: height, width -> (top, bottom), (left, right)."""
        if not self.same:
            return (self.padding[0],) * 2, (self.padding[1],) * 2
        height, width = (same_padding(size, self.kernel_size[i], self.stride[i], self.dilation[i])
                         for i, size in enumerate(sizes))
        return height, width

    def _operands(self, bn: FrozenBatchNorm | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of conv + BN. Kept between calls where no gradient has to reach the weight.

        A training step changes weights through `.data`, which leaves no trace in the tensor's version; so in
        training mode only weights without gradient are kept, and train() and eval() forget what was kept.
        """
        grad = self.weight.requires_grad and torch.is_grad_enabled()
        if grad or (self.training and self.weight.requires_grad):
            folded = _folded_once.get()
            if folded is None:
                return self._fold(bn)
            if (self, grad) not in folded:
                folded[self, grad] = self._fold(bn)
            return folded[self, grad]
        scale_shift = () if bn is None else bn.affine()
        state = (dtype, fingerprint(self.weight, *scale_shift))
        if self._folded is None or self._folded[0] != state:
            with _kept():
                weight, bias = self._fold(bn)
                self._folded = (state, weight.to(dtype), None if bias is None else bias.to(dtype))
        return self._folded[1], self._folded[2]

    def _fold(self, bn: FrozenBatchNorm | None) -> tuple[Tensor, Tensor | None]:
        if bn is None:
            return self.weight.contiguous(memory_format=torch.channels_last), None
        scale, shift = bn.affine()
        weight = self.weight * scale.view(-1, 1, 1, 1)
        return weight.contiguous(memory_format=torch.channels_last), shift

    def train(self, mode: bool = True):
        self._folded = self._transformed = None
        return super().train(mode)

    def _apply(self, fn, recurse=True):
        self._folded = self._transformed = None
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args, **kwargs):
        self._folded = self._transformed = None
        super()._load_from_state_dict(*args, **kwargs)


_folded_once: ContextVar[dict | None] = ContextVar("folded_once", default=None)


@contextmanager
def folded_once() -> Iterator[None]:
    """For one forward pass that runs some convolutions several times: each weight is folded, and its gradient sent
    back through that, once for all of them."""
    token = _folded_once.set({})
    try:
        yield
    finally:
        _folded_once.reset(token)


def use_winograd(model: nn.Module) -> None:
    """Let the wide 3x3 convolutions of stride 1 run by Winograd's algorithm where that is faster: float32 on CPUs,
    without gradients. The results change in the fifth digit, and each such layer keeps four times its weight."""
    for module in model.modules():
        if isinstance(module, Conv):
            module.winograd = (module.kernel_size == (3, 3) and module.stride == (1, 1) and module.dilation == (1, 1)
                               and module.groups == 1 and min(module.weight.shape[:2]) >= MIN_CHANNELS)


@contextmanager
def _kept() -> Iterator[None]:
    """For tensors kept between calls: without gradient, and usable in training though made in inference mode."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """TensorFlow's "same" padding (before, after) along one axis: the output has ceil(size / stride) cells."""
    outputs = math.ceil(size / stride)
    total = max((outputs - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return total // 2, total - total // 2


def fingerprint(*tensors: Tensor) -> tuple[tuple[int, int], ...]:
    """Changes when a tensor is replaced, or changed in place other than through `.data`."""
    return tuple((tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors)
