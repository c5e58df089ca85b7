"""The convolutions of the backbones as CPUs run them fastest."""

from typing import Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from pplfast.cpu.depthwise import activate, depthwise_act, is_native
from pplfast.cpu.winograd import MIN_CHANNELS, MIN_TILES, tiles, winograd_conv, winograd_weight
from pplfast.models.efficientnet import MBConv
from pplfast.models.layers import Conv, FrozenBatchNorm, Kept, product_dtype


class CpuConv(Conv):
    """oneDNN adds the bias within the convolution, and its fresh result takes residual and activation in place.

    Without gradients the wide 3x3 convolutions of stride 1 run by Winograd's algorithm in float32; each such layer
    keeps four times its weight.
    """

    def forward(
        self, x: Tensor, bn: FrozenBatchNorm | None = None, act: str = "none", residual: Tensor | None = None
    ) -> Tensor:
        weight, bias = self.operands(bn, product_dtype(x, self.weight))
        x, padding = self.pad(x)
        if self._gains_by_winograd(x, weight):
            transformed = self._transformed.get((weight,), lambda: winograd_weight(weight))
            y = winograd_conv(x, transformed, bias)
        else:
            y = F.conv2d(x, weight, bias, self.stride, padding, self.dilation, self.groups)
        return activate(y if residual is None else y.add_(residual), act, inplace=True)

    @property
    def _transformed(self) -> Kept[Tensor]:
        """The weight as `winograd_conv` takes it."""
        return self.__dict__.setdefault("_winograd", Kept())

    def _gains_by_winograd(self, x: Tensor, weight: Tensor) -> bool:
        fits = (
            self.kernel_size == (3, 3)
            and self.padding == (1, 1)
            and self.stride == self.dilation == (1, 1)
            and self.groups == 1
            and min(weight.shape[:2]) >= MIN_CHANNELS
        )
        return (
            fits and x.dtype == weight.dtype == torch.float32 and not torch.is_grad_enabled() and tiles(x) >= MIN_TILES
        )

    def train(self, mode: bool = True) -> Self:
        self._transformed.forget()
        return super().train(mode)

    def depthwise(self, x: Tensor, bn: FrozenBatchNorm, before: str, after: str) -> Tensor:
        """after(bn(conv(before(x)))) of a depthwise convolution; x may be changed in place."""
        (top, bottom), (left, right) = self.paddings(*x.shape[2:])
        dtype, stride = self.weight.dtype, self.stride[0]
        if not is_native(x, self.weight, stride):  # which takes maps in bf16 beside weights in float32
            x = x.to(dtype)  # PyTorch's own backward pass is twice as slow in bf16
        with torch.autocast("cpu", enabled=False):
            return depthwise_act(x, *self.operands(bn, dtype), stride, (left, right, top, bottom), before, after)


class CpuMBConv(MBConv):
    """The activation between expansion and depthwise convolution is part of the latter's pass."""

    def forward(self, x: Tensor) -> Tensor:
        y, before = x, "none"
        if self._expand_conv is not None:
            y, before = self._expand_conv(x, self._bn0), "relu6"
        y = cast(CpuConv, self._depthwise_conv).depthwise(y, self._bn1, before, "relu6")
        return self._project_conv(y, self._bn2, residual=x if self.residual else None)
