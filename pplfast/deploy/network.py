"""The segmentation network as it is exported: from an image to probabilities and labels, in torch's own operations.

Same result as `labels.segment.Segmenter` at scale 1, without flip or CRF. What keeps that one from being exported for
images of all sizes is written anew here: convolutions whose padding depends on the size, and `kernels.place`, which
chooses cells in Python. Both get simpler, as an image is padded to a multiple of all strides first.
"""

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pplfast.data.classes import BACKGROUND, ClassList
from pplfast.kernels.backend import force
from pplfast.models.layers import Conv, FrozenBatchNorm, fold, same_padding
from pplfast.models.segmentation import LightHead, SegmentationNet


class ExportedNetwork(nn.Module):
    """model: in eval mode, on the CPU; it is copied. classes: those of its rows after the background's."""

    mean: Tensor
    std: Tensor
    values: Tensor

    def __init__(self, model: SegmentationNet, classes: ClassList) -> None:
        super().__init__()
        self.model = with_plain_convolutions(model)
        self.register_buffer("mean", torch.tensor(model.backbone.mean))
        self.register_buffer("std", torch.tensor(model.backbone.std))
        self.register_buffer("values", torch.tensor([BACKGROUND, *classes.ids], dtype=torch.uint8))
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image uint8 (N, H, W, 3), RGB -> probabilities float32 (N, rows, H, W), labels uint8 (N, H, W): of the most
        likely row, 0 background, else the class's value in masks."""
        height, width = image.shape[1], image.shape[2]
        # Contiguous: of other strides torch.export asks how they depend on the size.
        x = ((image.float() - self.mean) / self.std).permute(0, 3, 1, 2).contiguous()
        stride, cells = self.model.backbone.stride, self.model.cells
        logits = self._logits(F.pad(x, (0, _up(width, stride) - width, 0, _up(height, stride) - height)))
        step = int(cells.step)
        for axis, size in ((3, width), (2, height)):  # columns first: there are few rows yet
            logits = along(logits, axis, cells.first, step, size, (size + step - 1) // step)
        probabilities = logits.softmax(1)
        rows = probabilities.argmax(1)
        return probabilities, self.values.index_select(0, rows.flatten()).view(rows.shape)

    def _logits(self, x: Tensor) -> Tensor:
        """Of a padded image, (N, rows, h, w). The light head's `SegmentationNet` keeps only cells that show some of the
        image; here the others are there too, and `forward` takes none of them."""
        backbone, head, low = self.model.backbone, self.model.head, self.model.low
        last = len(backbone.specs)
        if low is None:
            logits: Tensor = head(backbone.tail(backbone.run(x, 0, last)))
            return logits
        assert isinstance(head, LightHead), "of the heads only this one takes features of an earlier block"
        early = backbone.run(x, 0, low + 1)
        late = backbone.tail(backbone.run(early, low + 1, last))
        gate = torch.sigmoid(head.gate(late.mean((2, 3), keepdim=True)))
        y: Tensor = head.high(F.relu(head.norm(head.reduce(late))) * gate)
        cells = backbone.cells().seen_from(self.model.cells)
        for axis in (3, 2):
            y = along(y, axis, cells.first, int(cells.step), early.shape[axis], y.shape[axis])
        detail: Tensor = head.detail(early)
        return y + detail


def _up(size: int, stride: int) -> int:
    """The next multiple of the stride, as torch.export simplifies it."""
    return (size + stride - 1) // stride * stride


def along(x: Tensor, axis: int, first: float, step: int, size: int, count: int) -> Tensor:
    """x at places 0 .. size - 1 along an axis, whose cells i < count lie at first + i * step: linear between two of
    them, the outermost cell's value beyond it. As `kernels.place`, but the work grows with the size alone, and places
    are whole numbers and one of `step` fractions: exact however far from 0."""
    ahead = [(part - first) / step for part in range(step)]  # of a cell's own pixels, in cells
    below = torch.tensor([math.floor(part) for part in ahead])
    share = torch.tensor([part - math.floor(part) for part in ahead], dtype=x.dtype)
    place = torch.arange(size)
    cell = place // step
    part = place - cell * step
    low = cell + below.index_select(0, part)
    weight = share.index_select(0, part).view(-1, *[1] * (x.ndim - 1 - axis))
    near = x.index_select(axis, low.clamp(0, count - 1))
    far = x.index_select(axis, (low + 1).clamp(0, count - 1))
    return near + (far - near) * weight


def with_plain_convolutions(model: SegmentationNet) -> SegmentationNet:
    """A copy in which every `Conv` is a `PlainConv`. With which BatchNorm each is called, a run on a small image
    tells."""
    model = copy.deepcopy(model).eval()
    called: dict[nn.Module, FrozenBatchNorm | None] = {}

    def note(conv: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        called[conv] = args[1] if len(args) > 1 else kwargs.get("bn")

    convs = {name: module for name, module in model.named_modules() if isinstance(module, Conv)}
    hooks = [conv.register_forward_pre_hook(note, with_kwargs=True) for conv in convs.values()]
    side = 2 * model.backbone.stride
    with torch.no_grad(), force("plain"):
        model(torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    for name, conv in convs.items():
        model.set_submodule(name, PlainConv(conv, called.get(conv)))
    return model


class PlainConv(nn.Module):
    """What `Conv` computes with one BatchNorm for ever, which its weight and bias have absorbed, on maps whose sizes
    are multiples of its stride: its padding is then always the same."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, conv: Conv, bn: FrozenBatchNorm | None) -> None:
        super().__init__()
        scale, shift = (None, None) if bn is None else bn.affine()
        with torch.no_grad():
            self.register_buffer("weight", fold(conv.weight, scale, torch.float32).contiguous())
        self.register_buffer("bias", None if shift is None else shift.float())
        self.stride, self.dilation, self.groups = conv.stride, conv.dilation, conv.groups
        (top, bottom), (left, right) = (_paddings(conv, axis) for axis in (0, 1))
        even = top == bottom and left == right
        self.padding = (top, left) if even else (0, 0)
        self.before = None if even else (left, right, top, bottom)

    def forward(
        self, x: Tensor, bn: FrozenBatchNorm | None = None, act: str = "none", residual: Tensor | None = None
    ) -> Tensor:
        """bn: the one that is absorbed."""
        x = x if self.before is None else F.pad(x, self.before)
        y = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        y = y if residual is None else y + residual
        return F.relu(y) if act == "relu" else F.relu6(y) if act == "relu6" else y


def _paddings(conv: Conv, axis: int) -> tuple[int, int]:
    """(before, after) along the rows' or columns' axis of a map of whole strides."""
    if not conv.same:
        return conv.padding[axis], conv.padding[axis]
    stride = conv.stride[axis]
    return same_padding(stride, conv.kernel_size[axis], stride, conv.dilation[axis])
