"""ResNet-50 and -101 under torchvision's parameter names, layer4 with stride 1 (output stride 16), no dilation."""

import torch.nn.functional as F
from torch import Tensor, nn

from pplfast.benchmarks.reference.backbone import ReferenceBackbone


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)), inplace=True)


class ResNet(ReferenceBackbone):
    """Blocks `stem` (with the max pooling) and every bottleneck, `layer1.0` .. `layer4.2`; 2048 channels."""

    channels = 2048

    def __init__(self, counts: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        names, self.strides = ["stem"], [4]
        inputs = 64
        for i, (count, stride) in enumerate(zip(counts, (1, 2, 2, 1)), start=1):
            layer = nn.Sequential()
            for j in range(count):
                layer.append(Bottleneck(inputs, 32 * 2**i, stride if j == 0 else 1))
                inputs = 128 * 2**i
                names.append(f"layer{i}.{j}")
                self.strides.append(stride if j == 0 else 1)
            setattr(self, f"layer{i}", layer)
        self.names = names

    def _bottlenecks(self, first: int, last: int) -> list[nn.Module]:
        """Those among blocks first..last-1."""
        return [self.get_submodule(name) for name in self.names[first:last] if name != "stem"]

    def frozen_modules(self, count: int) -> list[nn.Module]:
        """The modules of the first `count` blocks."""
        return [self.conv1, self.bn1, *self._bottlenecks(0, count)] if count > 0 else []

    def run(self, x: Tensor, first: int, last: int) -> Tensor:
        """Blocks first..last-1 (positions in `names`)."""
        if first == 0 and last > 0:
            x = F.max_pool2d(F.relu(self.bn1(self.conv1(x)), inplace=True), 3, 2, 1)
        for block in self._bottlenecks(first, last):
            x = block(x)
        return x
