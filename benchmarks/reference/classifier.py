"""Patch learning over a reference backbone: split, merge, concatenate, 1x1 classifier map, global average pooling."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pplfast.benchmarks.reference.backbone import ReferenceBackbone


def split_patches(x: Tensor, grid: int, stride: int) -> Tensor:
    """Cut (B, C, H, W) into grid x grid patches and stack them on the batch axis, patch by patch.

    The map is zero-padded at the bottom and the right, so that a patch's sides are multiples of `stride`, the stride
    of the blocks that follow: then the merged map lines up with the unsplit one.
    """
    height, width = (math.ceil(math.ceil(size / grid) / stride) * stride for size in x.shape[2:])
    x = F.pad(x, (0, grid * width - x.shape[3], 0, grid * height - x.shape[2]))
    rows = torch.chunk(x, grid, dim=2)
    return torch.cat([patch for row in rows for patch in torch.chunk(row, grid, dim=3)], dim=0)


def merge_patches(patches: Tensor, grid: int, height: int, width: int) -> Tensor:
    """Stitch patches in the order of `split_patches` and crop to (B, C, height, width)."""
    parts = torch.chunk(patches, grid * grid, dim=0)
    rows = [torch.cat(parts[row * grid : (row + 1) * grid], dim=3) for row in range(grid)]
    return torch.cat(rows, dim=2)[:, :, :height, :width]


class ReferenceClassifier(nn.Module):
    """Patch learning with `cuts` [(position, grid)]: none is the plain classifier, one the implicit variant.

    `explicit` gives every patched branch a detached map, so that no gradient of it reaches the blocks before it.
    `position` is the number of the block after which the patches are cut. BN always uses its stored statistics.
    """

    def __init__(
        self,
        backbone: ReferenceBackbone,
        classes: int,
        cuts: list[tuple[int, int]],
        explicit: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone, self.cuts, self.explicit = backbone, list(cuts), explicit
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d((len(cuts) + 1) * backbone.channels, classes, 1, bias=False)
        self.train()

    def train(self, mode: bool = True) -> "ReferenceClassifier":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def freeze(self, count: int) -> None:
        """No gradients for the first `count` blocks and for any BN."""
        for module in self.backbone.frozen_modules(count):
            module.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)

    def features(self, images: Tensor) -> Tensor:
        """[M_1 ; ... ; M_S ; global], (B, (S+1)*C, H, W)."""
        backbone, count = self.backbone, len(self.backbone.names)
        # To multiples of all strides, so that the patches' windows lie as those of the unsplit image.
        bottom, right = (-side % math.prod(backbone.strides) for side in images.shape[2:])
        x, start, branches = F.pad(images, (0, right, 0, bottom)), 0, []
        for position, grid in self.cuts:
            x = backbone.run(x, start, position + 1)
            start = position + 1
            patches = split_patches(x.detach() if self.explicit else x, grid, math.prod(backbone.strides[start:]))
            branches.append((backbone.run(patches, start, count), grid))
        x = backbone.run(x, start, count)
        merged = [merge_patches(patches, grid, *x.shape[2:]) for patches, grid in branches]
        return torch.cat([*merged, x], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes)."""
        maps = self.classifier(self.dropout(self.features(images)))
        return F.adaptive_avg_pool2d(maps, 1).flatten(1)

    def maps(self, images: Tensor) -> Tensor:
        """Class activation maps after ReLU (B, classes, H, W)."""
        return F.relu(self.classifier(self.features(images)))
