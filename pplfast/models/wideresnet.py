"""WideResNet-38, the field's classifier since 2018, under its published PyTorch parameter names."""

from typing import NamedTuple, cast

from torch import Tensor, nn

from pplfast.kernels import add_scale_act, scale_act
from pplfast.models.backbone import IMAGENET_MEAN, IMAGENET_STD, Activation, Backbone, BlockSpec
from pplfast.models.dropout import dropout
from pplfast.models.layers import Conv, FrozenBatchNorm


class UnitRow(NamedTuple):
    group: str
    units: int
    mid: int
    out: int
    stride: int  # of the first unit
    first_dilation: int  # of the first convolution of the first unit
    dilation: int


UNITS = (
    UnitRow("b2", 3, 128, 128, 2, 1, 1),
    UnitRow("b3", 3, 256, 256, 2, 1, 1),
    UnitRow("b4", 6, 512, 512, 2, 1, 1),
    UnitRow("b5", 3, 512, 1024, 1, 1, 2),
)
BOTTLENECKS = (("b6", 2048, 0.3), ("b7", 4096, 0.5))  # name, channels, dropout; dilation 4
STEM_CHANNELS = 64


class PreActivationUnit(nn.Module):
    """BN-ReLU-conv twice; the shortcut convolution, where there is one, sees the activated input.

    bn_branch2a stands alone, since a ReLU parts it from its convolution; the later ones fold into the convolution
    before them.
    """

    def __init__(self, inputs: int, mid: int, outputs: int, stride: int, first_dilation: int, dilation: int):
        super().__init__()
        self.bn_branch2a = FrozenBatchNorm(inputs)
        self.conv_branch2a = Conv(inputs, mid, 3, stride, first_dilation)
        self.bn_branch2b1 = FrozenBatchNorm(mid)
        self.conv_branch2b1 = Conv(mid, outputs, 3, 1, dilation)
        self.conv_branch1 = None if inputs == outputs and stride == 1 else Conv(inputs, outputs, 1, stride)

    def forward(
        self, x: Tensor, activated: Tensor | None, following: Activation | None
    ) -> tuple[Tensor, Tensor | None]:
        if activated is None:
            activated = scale_act(x, *self.bn_branch2a.affine(), "relu")
        y = self.conv_branch2b1(self.conv_branch2a(activated, self.bn_branch2b1, "relu"))
        return add(y, x if self.conv_branch1 is None else self.conv_branch1(activated), following)

    @property
    def last_conv(self) -> Conv:
        return self.conv_branch2b1


class PreActivationBottleneck(nn.Module):
    """BN-ReLU-conv three times (1x1, 3x3, 1x1), with dropout of whole channels before the last two: as `layer` and
    the one after it."""

    def __init__(self, inputs: int, outputs: int, dilation: int, dropout: float, layer: int):
        super().__init__()
        self.dropout, self.layer = dropout, layer
        self.bn_branch2a = FrozenBatchNorm(inputs)
        self.conv_branch2a = Conv(inputs, outputs // 4, 1)
        self.bn_branch2b1 = FrozenBatchNorm(outputs // 4)
        self.conv_branch2b1 = Conv(outputs // 4, outputs // 2, 3, 1, dilation)
        self.bn_branch2b2 = FrozenBatchNorm(outputs // 2)
        self.conv_branch2b2 = Conv(outputs // 2, outputs, 1)
        self.conv_branch1 = Conv(inputs, outputs, 1)

    def forward(
        self, x: Tensor, activated: Tensor | None, following: Activation | None
    ) -> tuple[Tensor, Tensor | None]:
        if activated is None:
            activated = scale_act(x, *self.bn_branch2a.affine(), "relu")
        y = self.conv_branch2a(activated, self.bn_branch2b1, "relu")
        y = self.conv_branch2b1(self._drop(y, 0), self.bn_branch2b2, "relu")
        return add(self.conv_branch2b2(self._drop(y, 1)), self.conv_branch1(activated), following)

    def _drop(self, y: Tensor, place: int) -> Tensor:
        return dropout(y, self.dropout, self.layer + place, self.training)

    @property
    def last_conv(self) -> Conv:
        return self.conv_branch2b2


def add(x: Tensor, shortcut: Tensor, following: Activation | None) -> tuple[Tensor, Tensor | None]:
    """x + shortcut, which may take the place of x, and in the same pass what the next unit begins with."""
    return (x.add_(shortcut), None) if following is None else add_scale_act(x, shortcut, *following, inplace=True)


class WideResNet38(Backbone):
    """Blocks `conv1a`, `b2`, `b2_1`, ... `b6`, `b7`, every unit one block; bn7 and ReLU are the tail. Stride 8."""

    name = "wrn38"
    mean = IMAGENET_MEAN
    std = IMAGENET_STD
    frozen_default = 4  # conv1a, b2, b2_1, b2_2
    tail_act = "relu"

    def __init__(self) -> None:
        super().__init__()
        self.conv1a = Conv(3, STEM_CHANNELS, 3)
        specs = [BlockSpec("conv1a", 1, STEM_CHANNELS)]
        inputs = STEM_CHANNELS
        for row in UNITS:
            for unit in range(row.units):
                name = f"{row.group}_{unit}" if unit else row.group
                stride, dilation = (1, row.dilation) if unit else (row.stride, row.first_dilation)
                self.add_module(name, PreActivationUnit(inputs, row.mid, row.out, stride, dilation, row.dilation))
                specs.append(BlockSpec(name, stride, row.out))
                inputs = row.out
        for name, outputs, rate in BOTTLENECKS:
            self.add_module(name, PreActivationBottleneck(inputs, outputs, 4, rate, layer=2 * len(specs)))
            specs.append(BlockSpec(name, 1, outputs))
            inputs = outputs
        self.bn7 = FrozenBatchNorm(inputs)
        self.specs = tuple(specs)
        self._scale_residual_branches()

    def block_modules(self, index: int) -> list[nn.Module]:
        return [self.get_submodule(self.specs[index].name)]

    def preactivation(self, index: int) -> Activation | None:
        if index == 0:
            return None
        return *self._unit(index).bn_branch2a.affine(), "relu"

    def _block(
        self, index: int, x: Tensor, activated: Tensor | None, following: Activation | None
    ) -> tuple[Tensor, Tensor | None]:
        if index == 0:
            return self.conv1a(x), None
        return self._unit(index)(x, activated, following)

    def _tail_norm(self) -> FrozenBatchNorm:
        return self.bn7

    def _residual_ends(self) -> list[Conv]:
        return [self._unit(index).last_conv for index in range(1, len(self.specs))]

    def _unit(self, index: int) -> PreActivationUnit | PreActivationBottleneck:
        """Block `index`, which is not the first."""
        return cast(PreActivationUnit | PreActivationBottleneck, self.get_submodule(self.specs[index].name))
