"""Segmentation networks: a backbone and one of three heads, logits of every class at the head's stride."""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pplfast.errors import UserError
from pplfast.kernels import Cells, place
from pplfast.models.backbone import Backbone, Network
from pplfast.models.efficientnet import FACTORS

HEADS = ("auto", "light", "largefov", "aspp")
HEAD_OF_BACKBONE = {
    **dict.fromkeys(FACTORS, "light"),
    "wrn38": "largefov",
    "resnet50": "aspp",
    "resnet101": "aspp",
}
LIGHT_CHANNELS, LIGHT_GROUPS = 128, 8
LOW_STRIDE = 8  # of the features that the light head adds detail from
LARGEFOV_CHANNELS, LARGEFOV_DILATION = 512, 12
ASPP_DILATIONS = (6, 12, 18, 24)


class SegmentationNet(Network):
    """A backbone and a head: images (B, 3, H, W) -> logits (B, rows, h, w). rows: classes and the background.

    Heads: "light": LR-ASPP (MobileNetV3, arXiv 1905.02244, section 6.4) with group normalisation, from the last
    features and those at stride 8. "largefov": DeepLab-LargeFOV, two 3x3 convolutions of dilation 12, as this field
    puts it on WideResNet-38. "aspp": DeepLab v2 (arXiv 1606.00915), the sum of four 3x3 convolutions. "auto": the
    usual one of the backbone; of an own one "light" where it has features at stride 8, else "aspp".
    """

    def __init__(self, backbone: Backbone, rows: int, head: str = "auto") -> None:
        super().__init__()
        if head not in HEADS:
            raise UserError(f"segmentation.head '{head}': must be one of {', '.join(HEADS)}")
        self.backbone = backbone
        self.head_name = usual_head(backbone) if head == "auto" else head
        self.low: int | None = None
        channels = backbone.channels
        if self.head_name == "light":
            self.low = _low_position(backbone)
            self.head: nn.Module = LightHead(channels, backbone.specs[self.low].channels, rows)
        elif self.head_name == "largefov":
            self.head = nn.Sequential(
                _dilated(channels, LARGEFOV_CHANNELS, LARGEFOV_DILATION),
                nn.ReLU(inplace=True),
                _dilated(LARGEFOV_CHANNELS, rows, LARGEFOV_DILATION),
            )
        else:
            self.head = Aspp(channels, rows)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) -> logits (B, rows, ceil(H / step), ceil(W / step)) of `cells`."""
        last, padded = len(self.backbone.specs), self.backbone.pad(images)
        if self.low is None:
            return self.head(self.backbone.tail(self.backbone.run(padded, 0, last)))
        low = self.backbone.run(padded, 0, self.low + 1)
        features = self.backbone.tail(self.backbone.run(low, self.low + 1, last))
        rows, columns = math.ceil(images.shape[2] / self.cells.step), math.ceil(images.shape[3] / self.cells.step)
        return self.head(features, low[:, :, :rows, :columns], self.cells.seen_from(self.backbone.cells()))

    @property
    def cells(self) -> Cells:
        """Where the logits lie, in pixels of the image."""
        return self.backbone.cells(None if self.low is None else self.low + 1)


class LightHead(nn.Module):
    def __init__(self, channels: int, low_channels: int, rows: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, LIGHT_CHANNELS, 1, bias=False)
        self.norm = nn.GroupNorm(LIGHT_GROUPS, LIGHT_CHANNELS)
        self.gate = nn.Conv2d(channels, LIGHT_CHANNELS, 1)
        self.high = nn.Conv2d(LIGHT_CHANNELS, rows, 1)
        self.detail = nn.Conv2d(low_channels, rows, 1)

    def forward(self, x: Tensor, low: Tensor, places: Cells) -> Tensor:
        """places: of the cells of `low`, counted in those of x."""
        y = F.relu(self.norm(self.reduce(x))) * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        height, width = low.shape[2:]
        return place(self.high(y), Cells(0, 1), (places, places), (height, width)) + self.detail(low)


class Aspp(nn.Module):
    def __init__(self, channels: int, rows: int) -> None:
        super().__init__()
        branches = [_dilated(channels, rows, dilation) for dilation in ASPP_DILATIONS]
        for branch in branches:  # as published: all four start small, since their sum is the logit
            nn.init.normal_(branch.weight, std=0.01)
            nn.init.zeros_(cast(Tensor, branch.bias))  # torch says None where there is none
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return sum(branch(x) for branch in self.branches)


def _dilated(inputs: int, outputs: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation)


def usual_head(backbone: Backbone) -> str:
    """What "auto" means."""
    return HEAD_OF_BACKBONE.get(backbone.name) or ("aspp" if _last_at_low_stride(backbone) is None else "light")


def _last_at_low_stride(backbone: Backbone) -> int | None:
    """The last block at stride 8, where others follow it."""
    stride, found = 1, None
    for index, spec in enumerate(backbone.specs):
        stride *= spec.stride
        if stride == LOW_STRIDE:
            found = index
    return None if found == len(backbone.specs) - 1 else found


def _low_position(backbone: Backbone) -> int:
    found = _last_at_low_stride(backbone)
    if found is None:
        raise UserError(
            f"segmentation.head 'light': {backbone.name} has no features at stride {LOW_STRIDE} before its "
            "last ones; choose largefov or aspp"
        )
    return found
