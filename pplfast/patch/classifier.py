"""Patch learning over any block list: plain, progressive and explicit classifiers.

Legend: B images, S patched branches, K grid, C channels of the last block, H x W its size for the unsplit image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pplfast.kernels import cam_head
from pplfast.models.backbone import Backbone, Network
from pplfast.models.dropout import dropout
from pplfast.patch.branches import Cut, run_branches
from pplfast.patch.pooling import Pooling, pool
from pplfast.steps import VARIANTS


@dataclass(frozen=True)
class Features:
    """The last block's outputs, before the backbone's tail."""

    patched: list[tuple[Tensor, int]]  # per branch (B*K*K, C, h, w) and K
    global_map: Tensor  # (B, C, H, W)


class PatchClassifier(Network):
    """A backbone and a 1x1 classifier without bias over [M_1 ; ... ; M_S ; global].

    Plain: S = 0. Progressive: S = 1, cut where `set_cuts` says; with no cut set, the patched half sees the
    unsplit image. Explicit: all cuts at once, each from features without gradient to the blocks below the cut.

    Source of the method: arXiv 2209.07828.

    Args:
        backbone: any pplfast.models.Backbone.
        classes: number of classes.
        variant: "plain", "ppl" (progressive) or "explicit".
        dropout: probability of dropping a pooled channel of an image in training; the same distribution as
            dropping whole channels of the concatenated map.
        branches: S of the explicit variant.
        pooling: of each branch's features: a mode of kernels.patch_pool, or float32 (B, C, H, W) -> (B, C). With
            another than the mean a map's mean is no longer its class's logit; maps are made as ever.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        variant: str,
        dropout: float = 0.0,
        branches: int = 1,
        pooling: Pooling = "mean",
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {tuple(VARIANTS)}, not {variant!r}")
        self.backbone = backbone
        self.variant = variant
        self.dropout = dropout
        self.pooling = pooling
        self.branches = {"plain": 0, "ppl": 1, "explicit": branches}[variant]
        self.classifier = nn.Conv2d((self.branches + 1) * backbone.channels, classes, 1, bias=False)
        # Small enough that the loss starts at log 2 for every class, whatever the number of branches.
        nn.init.normal_(self.classifier.weight, std=0.01)
        self.cuts: tuple[Cut, ...] = ()

    def set_cuts(self, cuts: Sequence[Cut]) -> None:
        """Where the patches are cut from now on. Raises ValueError if the variant cannot take these cuts."""
        allowed = {"plain": (0,), "ppl": (0, 1), "explicit": (self.branches,)}[self.variant]
        if len(cuts) not in allowed:
            raise ValueError(
                f"a {self.variant} classifier takes {' or '.join(map(str, allowed))} cuts, not {len(cuts)}"
            )
        last = len(self.backbone.specs) - 1
        for cut in cuts:
            if not 1 <= cut.position <= last:
                raise ValueError(f"position {cut.position} is outside 1..{last}: blocks must remain on both sides")
            if cut.grid < 1:
                raise ValueError(f"grid {cut.grid} is below 1")
        self.cuts = tuple(cuts)

    def check_cuts(self) -> None:
        """Raises RuntimeError where the variant needs cuts and `set_cuts` has not named them."""
        if self.variant == "explicit" and not self.cuts:
            raise RuntimeError("set_cuts() must name the explicit classifier's cuts first")

    def features(self, images: Tensor) -> Features:
        """images (B, 3, height, width) -> the branches' last features; the blocks before a cut run once."""
        self.check_cuts()
        images = self.backbone.pad(images)
        patched, global_map = run_branches(self.backbone, images, self.cuts, detach=self.variant == "explicit")
        if self.variant == "ppl" and not self.cuts:
            patched = [(global_map, 1)]
        return Features(patched, global_map)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, height, width) -> logits float32 (B, classes).

        The mean and the classifier are linear, so the mean of the classifier's map is the classifier of the means:
        no map is merged, concatenated or classified.
        """
        features = self.features(images)
        height, width = features.global_map.shape[2:]
        tail = self.backbone.tail
        pooled = [
            pool(self.pooling, x, grid, height, width, tail)
            for x, grid in (*features.patched, (features.global_map, 1))
        ]
        # Under autocast a linear layer would round the pooled means and the logits to bf16.
        with torch.autocast(images.device.type, enabled=False):
            weight = self.classifier.weight.flatten(1)
            pooled_SC = dropout(torch.cat(pooled, dim=1).to(weight.dtype), self.dropout, 0, self.training)
            return F.linear(pooled_SC, weight)

    @torch.no_grad()
    def maps(self, images: Tensor, classes: Tensor | None = None) -> Tensor:
        """images (B, 3, height, width) -> ReLU of the classifier's maps, float32 (B, classes, H, W).

        classes: int64 (B, n), the classes wanted of each image; the result is then (B, n, H, W).
        """
        features = self.features(images)
        height, width = features.global_map.shape[2:]
        tail = self.backbone.tail
        weight = self.classifier.weight.flatten(1)
        return cam_head(
            features.patched,
            features.global_map,
            weight,
            height,
            width,
            tail.scale,
            tail.shift,
            tail.act,
            classes=classes,
        )
