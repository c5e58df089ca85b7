"""ResNet-50 and -101 under torchvision's parameter names, layer4 with stride 1 (output stride 16), no dilation."""

import torch.nn.functional as F
from torch import Tensor, nn


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                                            nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)), inplace=True)


class ResNet(nn.Module):
    """Blocks `stem` and `layer1` .. `layer4`; 2048 channels."""

    names = ("stem", "layer1", "layer2", "layer3", "layer4")
    strides = (4, 1, 2, 2, 1)
    channels = 2048

    def __init__(self, counts: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        inputs = 64
        for i, (count, stride) in enumerate(zip(counts, self.strides[1:])):
            width = 64 * 2**i
            blocks = [Bottleneck(inputs if j == 0 else 4 * width, width, stride if j == 0 else 1)
                      for j in range(count)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
            inputs = 4 * width

    def frozen_modules(self, count: int) -> list[nn.Module]:
        """The modules of the first `count` blocks."""
        stem = [self.conv1, self.bn1] if count > 0 else []
        return stem + [getattr(self, name) for name in self.names[1:max(count, 1)]]

    def run(self, x: Tensor, first: int, last: int) -> Tensor:
        """Blocks first..last-1 (positions in `names`)."""
        for name in self.names[first:last]:
            if name == "stem":
                x = F.max_pool2d(F.relu(self.bn1(self.conv1(x)), inplace=True), 3, 2, 1)
            else:
                x = getattr(self, name)(x)
        return x
