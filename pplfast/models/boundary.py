"""The boundary network: one edge map from the features of several blocks of a frozen backbone."""

import itertools
import math
import operator
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pplfast.kernels import Cells, place
from pplfast.models.backbone import Backbone, Network
from pplfast.models.efficientnet import FACTORS

STRIDE = 4  # pixels between the values of the edge map; that of the CAMs' files
CHANNELS, GROUPS = 32, 4  # of each block's features, after a 1x1 convolution and a group normalisation

# The last block at each scale, from edges to objects; a group's name means its last block. Of other backbones see
# `last_blocks`.
TAPS = {
    **dict.fromkeys(FACTORS, ("group1", "group2", "group3", "group5", "group7")),
    "resnet50": ("stem", "layer1", "layer2", "layer3", "layer4"),
    "resnet101": ("stem", "layer1", "layer2", "layer3", "layer4"),
    "wrn38": ("b2_2", "b3_2", "b4_5", "b5_2", "b7"),
}


class BoundaryNet(Network):
    """Class boundaries as in IRN (arXiv 1904.05044, section 4.1; its `EdgeDisplacement` without displacements).

    Each tap's features, without gradient to the backbone, go through a 1x1 convolution to 32 channels and a group
    normalisation, are brought to stride 4, each cell to its place, and through ReLU; a 1x1 convolution over all of them
    gives the edge map.
    """

    def __init__(self, backbone: Backbone, taps: Sequence[str] | None = None) -> None:
        super().__init__()
        backbone.freeze(len(backbone.specs))
        self.backbone = backbone
        taps = taps or TAPS.get(backbone.name) or last_blocks(backbone)
        self.positions = tuple(backbone.position(name) for name in taps)
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(backbone.specs[position].channels, CHANNELS, 1, bias=False), nn.GroupNorm(GROUPS, CHANNELS)
            )
            for position in self.positions
        )
        self.edge = nn.Conv2d(CHANNELS * len(self.positions), 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) -> edge logits (B, ceil(H/4), ceil(W/4)), whose cells share the image evenly; the sigmoid
        of a logit is the edge."""
        height, width = images.shape[2:]
        size = -(-height // STRIDE), -(-width // STRIDE)
        target = Cells.over(height, size[0]), Cells.over(width, size[1])
        parts, x, done = [], self.backbone.pad(images), 0
        with torch.no_grad():
            features = []
            for position in self.positions:
                x = self.backbone.run(x, done, position + 1)
                features.append(x)
                done = position + 1
        for position, feature, head in zip(self.positions, features, self.heads, strict=True):
            cells = self.backbone.cells(position + 1)
            rows, columns = math.ceil(height / cells.step), math.ceil(width / cells.step)
            parts.append(F.relu(place(head(feature[:, :, :rows, :columns]), cells, target, size)))
        return self.edge(torch.cat(parts, dim=1)).squeeze(1)


def last_blocks(backbone: Backbone) -> list[str]:
    """The last block at each stride."""
    strides = itertools.accumulate((spec.stride for spec in backbone.specs), operator.mul)
    return list({stride: spec.name for stride, spec in zip(strides, backbone.specs, strict=True)}.values())
