"""WideResNet-38 (the field's "ResNet38"): pre-activation, output stride 8, published PyTorch parameter names."""

import torch.nn.functional as F
from torch import Tensor, nn

from pplfast.benchmarks.reference.backbone import ReferenceBackbone


class Unit(nn.Module):
    """BN-ReLU-conv twice; the 1x1 shortcut, where there is one, acts on the tensor after BN-ReLU."""

    def __init__(
        self, inputs: int, middle: int, outputs: int, stride: int = 1, first_dilation: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = nn.Conv2d(inputs, middle, 3, stride, first_dilation, first_dilation, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(middle)
        self.conv_branch2b1 = nn.Conv2d(middle, outputs, 3, 1, dilation, dilation, bias=False)
        self.projects = inputs != outputs or stride != 1
        if self.projects:
            self.conv_branch1 = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn_branch2a(x), inplace=True)
        shortcut = self.conv_branch1(y) if self.projects else x
        y = self.conv_branch2a(y)
        y = self.conv_branch2b1(F.relu(self.bn_branch2b1(y), inplace=True))
        return shortcut + y


class BottleneckUnit(nn.Module):
    """1x1, dilated 3x3, 1x1, each after BN-ReLU (and dropout of whole channels before the last two)."""

    def __init__(self, inputs: int, outputs: int, dilation: int, dropout: float) -> None:
        super().__init__()
        quarter, half = outputs // 4, outputs // 2
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = nn.Conv2d(inputs, quarter, 1, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(quarter)
        self.conv_branch2b1 = nn.Conv2d(quarter, half, 3, 1, dilation, dilation, bias=False)
        self.bn_branch2b2 = nn.BatchNorm2d(half)
        self.conv_branch2b2 = nn.Conv2d(half, outputs, 1, bias=False)
        self.conv_branch1 = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn_branch2a(x), inplace=True)
        shortcut = self.conv_branch1(y)
        y = self.conv_branch2a(y)
        y = self.conv_branch2b1(self.dropout(F.relu(self.bn_branch2b1(y), inplace=True)))
        y = self.conv_branch2b2(self.dropout(F.relu(self.bn_branch2b2(y), inplace=True)))
        return shortcut + y


class WideResNet38(ReferenceBackbone):
    """Blocks `conv1a`, `b2` .. `b7`; the features are those after bn7 + ReLU, 4096 channels."""

    names = (
        "conv1a",
        "b2",
        "b2_1",
        "b2_2",
        "b3",
        "b3_1",
        "b3_2",
        "b4",
        "b4_1",
        "b4_2",
        "b4_3",
        "b4_4",
        "b4_5",
        "b5",
        "b5_1",
        "b5_2",
        "b6",
        "b7",
    )
    channels = 4096

    def __init__(self) -> None:
        super().__init__()
        self.strides = [2 if name in ("b2", "b3", "b4") else 1 for name in self.names]
        self.conv1a = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        inputs = 64
        for name in self.names[1:14]:
            stage = int(name[1])
            middle, outputs = (512, 1024) if stage == 5 else (32 * 2**stage, 32 * 2**stage)
            dilation = 2 if stage == 5 else 1
            setattr(self, name, Unit(inputs, middle, outputs, 2 if name in ("b2", "b3", "b4") else 1, 1, dilation))
            inputs = outputs
        self.b5_1, self.b5_2 = Unit(1024, 512, 1024, 1, 2, 2), Unit(1024, 512, 1024, 1, 2, 2)
        self.b6 = BottleneckUnit(1024, 2048, 4, 0.3)
        self.b7 = BottleneckUnit(2048, 4096, 4, 0.5)
        self.bn7 = nn.BatchNorm2d(4096)

    def frozen_modules(self, count: int) -> list[nn.Module]:
        """The modules of the first `count` blocks."""
        return [getattr(self, name) for name in self.names[:count]]

    def run(self, x: Tensor, first: int, last: int) -> Tensor:
        """Blocks first..last-1 (positions in `names`)."""
        for name in self.names[first:last]:
            x = getattr(self, name)(x)
        return F.relu(self.bn7(x), inplace=True) if last == len(self.names) else x
