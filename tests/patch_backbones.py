"""Tiny backbones of the three families, for tests that want every position of a whole network in float64."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pplfast.models.backbone import Backbone, BlockSpec, Tail


class Affine(nn.Module):
    """A frozen BatchNorm: an affine map per channel, without gradient as in the real backbones."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.rand(channels) + 0.5)
        self.register_buffer("shift", torch.randn(channels) * 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.view(1, -1, 1, 1) + self.shift.view(1, -1, 1, 1)


class PostActivation(nn.Module):
    """conv - affine - act, with a shortcut where shapes allow: EfficientNet-like (depthwise) or ResNet-like."""

    def __init__(self, c_in: int, c_out: int, stride: int, depthwise: bool) -> None:
        super().__init__()
        self.stride, self.shortcut = stride, stride == 1 and c_in == c_out
        groups = c_in if depthwise else 1
        convolution = SameConv if depthwise else nn.Conv2d
        self.spatial = convolution(c_in, c_in, 3, stride, 1, groups=groups, bias=False)
        self.affine = Affine(c_in)
        self.point = nn.Conv2d(c_in, c_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.point(F.relu6(self.affine(self.spatial(x))))
        return x + y if self.shortcut else y


class PreActivation(nn.Module):
    """affine - ReLU - conv, the shortcut convolution behind the activation, as in WideResNet-38."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.affine = Affine(c_in)
        self.conv = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.branch = nn.Conv2d(c_in, c_out, 1, stride, bias=False) if (c_in, stride) != (c_out, 1) else None

    def forward(self, x: Tensor, activated: Tensor | None = None) -> Tensor:
        if activated is None:
            activated = F.relu(self.affine(x))
        return self.conv(activated) + (x if self.branch is None else self.branch(activated))


class SameConv(nn.Conv2d):
    """With TensorFlow's padding: of an even size one cell at the bottom and right alone, where it has stride 2."""

    def forward(self, x: Tensor) -> Tensor:
        needed = [
            max((-(-side // stride) - 1) * stride + 3 - side, 0) for side, stride in zip(x.shape[2:], self.stride)
        ]
        (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in needed)
        return F.conv2d(F.pad(x, (left, right, top, bottom)), self.weight, None, self.stride, 0, 1, self.groups)


class TinyBackbone(Backbone):
    """Blocks of (channels, stride), whose windows lie as in the family."""

    def __init__(self, family: str, layout: tuple[tuple[int, int], ...] = ((4, 2), (4, 1), (6, 2), (6, 1), (5, 2))):
        super().__init__()
        self.family = family
        self.specs = tuple(BlockSpec(f"block{i + 1}", stride, channels) for i, (channels, stride) in enumerate(layout))
        sizes = [3, *(channels for channels, _ in layout)]
        make = {
            "effnet": lambda i, o, s: PostActivation(i, o, s, depthwise=True),
            "resnet": lambda i, o, s: PostActivation(i, o, s, depthwise=False),
            "preact": PreActivation,
        }[family]
        self.blocks = nn.ModuleList(make(sizes[i], *layout[i]) for i in range(len(layout)))
        self.last = Affine(self.channels)
        self.runs: list[tuple[int, int, int]] = []  # first, last, batch of each call

    @property
    def tail(self) -> Tail:
        if self.family == "resnet":
            return Tail(None, None, "relu")
        return Tail(self.last.scale, self.last.shift, "relu6" if self.family == "effnet" else "relu")

    def block_modules(self, index: int) -> list[nn.Module]:
        return [self.blocks[index]]

    def preactivation(self, index: int) -> tuple[Tensor, Tensor, str] | None:
        if self.family != "preact":
            return None
        affine = self.blocks[index].affine
        return affine.scale, affine.shift, "relu"

    def run(self, x: Tensor, first: int, last: int, activated: Tensor | None = None) -> Tensor:
        self.runs.append((first, last, len(x)))
        for block in self.blocks[first:last]:
            x = block(x) if activated is None else block(x, activated)
            activated = None
        return x
