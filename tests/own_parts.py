"""A backbone, losses and poolings as a user of pplfast would write them, and some that are wrong."""

import torch.nn.functional as F
from torch import Tensor, nn

from pplfast import Backbone, BlockSpec


class Tiny(Backbone):
    """Four blocks under torch's own BatchNorm; stride 16."""

    mean = (120.0, 120.0, 120.0)
    std = (60.0, 60.0, 60.0)
    layout = ((8, 4), (16, 2), (32, 2), (32, 1))

    def __init__(self, output_stride: int = 16) -> None:
        super().__init__()
        self.specs = tuple(BlockSpec(f"part{i}", stride, width) for i, (width, stride) in enumerate(self.layout))
        inputs = [3, *(spec.channels for spec in self.specs)]
        self.parts = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs[i], spec.channels, 2 * spec.stride + 1, spec.stride, spec.stride, bias=False),
                nn.BatchNorm2d(spec.channels),
                nn.ReLU(),
            )
            for i, spec in enumerate(self.specs)
        )

    def block_modules(self, index: int) -> list[nn.Module]:
        return [self.parts[index]]


class Misstated(Tiny):
    """Its first block halves its input, and says that it quarters it."""

    def __init__(self) -> None:
        super().__init__()
        self.parts[0][0].stride = (2, 2)


class Unowned(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Linear(2, 2)


class Bare(Tiny):
    """Its blocks cannot be trained: they hold nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.AvgPool2d(spec.stride, ceil_mode=True) for spec in self.specs)


class Ownerless(Tiny):
    def block_modules(self, index: int) -> list[nn.Module]:
        return [self.blocks[index]]  # they are called parts


class Numbered(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.specs = 4


class Open(Tiny):
    def __init__(self, *arguments, **named) -> None:
        super().__init__()


class Needing(Tiny):
    def __init__(self, depth: int) -> None:
        super().__init__()


class Failing(Tiny):
    def __init__(self) -> None:
        raise RuntimeError("no depth")


def focal(logits: Tensor, labels: Tensor) -> Tensor:
    entropy = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return ((1 - (-entropy).exp()) ** 2 * entropy).mean(1)


def batch_mean(logits: Tensor, labels: Tensor) -> Tensor:
    return focal(logits, labels).mean()


def other_words(prediction: Tensor, target: Tensor) -> Tensor:
    return focal(prediction, target)


def maximum(features: Tensor) -> Tensor:
    return features.amax((2, 3))


def flat(features: Tensor) -> Tensor:
    return features.mean()
