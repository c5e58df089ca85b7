"""A backbone as an ordered list of blocks that can be run piecewise."""

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pplfast.errors import UserError
from pplfast.kernels import Cells
from pplfast.models.layers import Conv, FrozenBatchNorm

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # RGB, 0..255 units
IMAGENET_STD = (58.395, 57.12, 57.375)

Activation = tuple[Tensor, Tensor, str]  # act(x * scale + shift): scale (C,), shift (C,), act


@dataclass(frozen=True)
class BlockSpec:
    """What a block is called, and what it makes of (B, C, H, W): (B, channels, ceil(H/stride), ceil(W/stride)).

    shift: output cell i shows what lies at input cell i * stride + shift, where H and W are multiples of the stride.
    None: (stride - 1) / 2, the cells share the input evenly. The centre of a block's windows does not say it: trained
    weights within the windows make up for their padding (docs/method.md, "Alignment").
    """

    name: str
    stride: int  # of this block alone
    channels: int  # of its output
    shift: float | None = None


@dataclass(frozen=True)
class Tail:
    """What follows the last block: act(x * scale + shift). Applied by the pooling and CAM kernels, not by run()."""

    scale: Tensor | None  # (C,)
    shift: Tensor | None  # (C,)
    act: str  # "none" | "relu" | "relu6"

    def __call__(self, x: Tensor) -> Tensor:
        """The plain definition, (B, C, H, W) -> the same shape."""
        if self.scale is not None and self.shift is not None:
            x = x * self.scale.view(1, -1, 1, 1) + self.shift.view(1, -1, 1, 1)
        return {"none": lambda y: y, "relu": torch.relu, "relu6": nn.functional.relu6}[self.act](x)


class Backbone(nn.Module):
    """Blocks `specs[0] .. specs[-1]` and a tail; parameters carry their published names at the top level.

    Input: (B, 3, H, W), normalised with `mean` and `std` (RGB, 0..255 units). Memory format: channels_last is kept.
    BatchNorm is frozen always; the first `frozen` blocks run without gradient.
    A subclass registers its modules, sets `specs`, and gives `block_modules`: the modules that a block runs one after
    the other, each a map (B, C, H, W) -> (B, C', ceil(H/stride), ceil(W/stride)) of the spec's C' and stride. Where
    a block is more than that, `_block`. The class attributes are to be set where ImageNet's values do not hold.
    """

    name: str  # by which the registry makes one like it
    mean: ClassVar[tuple[float, float, float]] = IMAGENET_MEAN
    std: ClassVar[tuple[float, float, float]] = IMAGENET_STD
    frozen_default: ClassVar[int] = 0  # how many early blocks this field usually freezes
    tail_act: ClassVar[str] = "none"

    specs: tuple[BlockSpec, ...]

    def __init__(self) -> None:
        super().__init__()
        self.frozen = 0

    @property
    def channels(self) -> int:
        """Of the last block."""
        return self.specs[-1].channels

    @property
    def stride(self) -> int:
        """Of all blocks."""
        return math.prod([spec.stride for spec in self.specs])  # torch.compile takes no generator

    def cells(self, blocks: int | None = None) -> Cells:
        """What the cells of the map after the first `blocks` show (all, if not given), in pixels of a padded image,
        along either axis."""
        first, step = 0.0, 1
        for spec in self.specs[:blocks]:
            shift = (spec.stride - 1) / 2 if spec.shift is None else spec.shift
            first, step = first + shift * step, step * spec.stride
        return Cells(first, step)

    def pad(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) with zeros at the bottom and right, to multiples of all strides.

        The windows of every block then lie the same way in images of all sizes, and in the patches of an image as in
        the unsplit one. As in training, where what an image lacks to its crop is zero after the normalisation.
        """
        rows, columns = -images.shape[2] % self.stride, -images.shape[3] % self.stride
        if not rows and not columns:
            return images
        return F.pad(images, (0, columns, 0, rows)).contiguous(memory_format=torch.channels_last)

    @property
    def tail(self) -> Tail:
        """What follows the last block: a BatchNorm, as scale and shift, and an activation."""
        bn = self._tail_norm()
        scale, shift = (None, None) if bn is None else bn.affine()
        return Tail(scale, shift, self.tail_act)

    def run(self, x: Tensor, first: int, last: int, activated: Tensor | None = None) -> Tensor:
        """Blocks first .. last - 1 on x; the last block of all stops before the tail.

        `activated`: act(x * scale + shift) with the triple of `preactivation(first)`, where the caller has it
        already. Frozen blocks keep no activations, and no gradient passes through them to x.
        """
        if activated is not None and self.preactivation(first) is None:
            raise ValueError(f"block {self.specs[first].name} does not begin with an activation")
        grad = torch.is_grad_enabled()
        for index in range(first, last):
            following = self.preactivation(index + 1) if index + 1 < last else None
            with torch.set_grad_enabled(grad and index >= self.frozen):
                x, activated = self._block(index, x, activated, following)
        return x

    def preactivation(self, index: int) -> Activation | None:
        """(scale (C,), shift (C,), act) with which block `index` begins, or None if it begins otherwise."""
        return None

    def position(self, name: str) -> int:
        """Index in `specs` of the block called `name`; patches are cut behind that block.

        The name of a group, where it is not a block's own name, means the last block of that group: `layer2` is
        `layer2.3` in ResNet-50. In WideResNet-38 `b4` is a block's own name, its group ends with `b4_5`.
        """
        for index, spec in enumerate(self.specs):
            if spec.name == name:
                return index
        members = [index for index, spec in enumerate(self.specs) if name and spec.name.startswith(f"{name}.")]
        if not members:
            names = ", ".join(spec.name for spec in self.specs)
            raise UserError(f"position '{name}': {self.name} has no such block; choose one of: {names}")
        return members[-1]

    def freeze(self, count: int) -> None:
        """Stop training the first `count` blocks, and train all others."""
        if not 0 <= count <= len(self.specs):
            raise UserError(
                f"frozen_blocks = {count}: {self.name} has {len(self.specs)} blocks; choose 0 to {len(self.specs)}"
            )
        self.frozen = count
        for index in range(len(self.specs)):
            for module in self.block_modules(index):
                module.requires_grad_(index >= count)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, (FrozenBatchNorm, _BatchNorm)):
                module.eval()
        for index in range(self.frozen):
            for module in self.block_modules(index):
                module.eval()
        return self

    def block_modules(self, index: int) -> list[nn.Module]:
        """The modules that block `index` owns."""
        raise NotImplementedError

    def _block(
        self, index: int, x: Tensor, activated: Tensor | None, following: Activation | None
    ) -> tuple[Tensor, Tensor | None]:
        """x -> the block's output, and that behind `following`, the activation that the next block begins with, where
        it could be made in the same pass."""
        for module in self.block_modules(index):
            x = module(x)
        return x, None

    def _tail_norm(self) -> FrozenBatchNorm | None:
        return None

    def _residual_ends(self) -> list[Conv]:
        """The last convolution of each residual branch."""
        raise NotImplementedError

    @torch.no_grad()
    def _scale_residual_branches(self) -> None:
        """Called once all modules stand, on their random weights (Kaiming, fan in; identity BatchNorm).

        As a frozen BatchNorm normalises nothing, n residual branches would each add their variance: they are
        scaled by 1 / sqrt(n), so that the features of a deep network stay of the order of one.
        """
        ends = self._residual_ends()
        for conv in ends:
            conv.weight.mul_(len(ends) ** -0.5)


class Network(nn.Module):
    """A backbone and a head: all that is not the backbone's."""

    backbone: Backbone
