"""Running the patched branches and the global branch through one block list, each block as few times as possible."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pplfast.kernels import patch_split, patch_split_act
from pplfast.models.backbone import Backbone
from pplfast.models.dropout import branches
from pplfast.models.layers import folded_once


@dataclass(frozen=True)
class Cut:
    """Cut into grid x grid patches the features after the first `position` blocks."""

    position: int
    grid: int


@dataclass
class _Group:
    """Branches whose patches have one shape: they run through the blocks as one batch."""

    x: Tensor
    activated: Tensor | None  # of the next block's pre-activation, where the split already computed it
    cuts: list[int]
    sizes: list[int]  # patches of each cut on the batch axis


def remaining_stride(backbone: Backbone, position: int) -> int:
    """The product of the strides of the blocks after the first `position`."""
    return math.prod([spec.stride for spec in backbone.specs[position:]])  # torch.compile takes no generator


def run_branches(
    backbone: Backbone, images: Tensor, cuts: Sequence[Cut], detach: bool
) -> tuple[list[tuple[Tensor, int]], Tensor]:
    """Images (B, 3, height, width) -> per cut (patches (B*K*K, C, h, w), K), and the global map (B, C, H, W).

    The prefix is shared by all branches. A branch that reaches another cut's position with the shape of the patches
    split there joins them: the remaining blocks run once over the larger batch (with the same K it always fits, since
    both heights are the smallest multiple of the remaining stride that covers the map).

    detach: no gradient flows from a patched branch into the blocks before its cut.
    """
    groups: list[_Group] = []
    x, done = images, 0
    with folded_once():
        for index in sorted(range(len(cuts)), key=lambda i: cuts[i].position):
            cut = cuts[index]
            x = _advance(backbone, x, groups, done, cut.position)
            _split(backbone, x.detach() if detach else x, cut, index, groups)
            done = cut.position
        global_map = _advance(backbone, x, groups, done, len(backbone.specs))
    patched: list[tuple[Tensor, int]] = [(global_map, 1)] * len(cuts)
    for group in groups:
        for index, patches in zip(group.cuts, group.x.split(group.sizes), strict=True):
            patched[index] = (patches, cuts[index].grid)
    return patched, global_map


def _advance(backbone: Backbone, x: Tensor, groups: list[_Group], first: int, last: int) -> Tensor:
    """Blocks first .. last - 1, on all groups and on the global branch's x, which is returned."""
    if first == last:
        return x
    for group in groups:
        with branches([(index + 1, rows) for index, rows in zip(group.cuts, group.sizes, strict=True)]):
            group.x, group.activated = backbone.run(group.x, first, last, activated=group.activated), None
    return backbone.run(x, first, last)


def _split(backbone: Backbone, x: Tensor, cut: Cut, index: int, groups: list[_Group]) -> None:
    """Cut x, and let its patches join a group of their shape, or form one."""
    stride = remaining_stride(backbone, cut.position)
    pre = backbone.preactivation(cut.position)
    if groups or pre is None:
        patches, activated = patch_split(x, cut.grid, stride), None
    else:
        patches, activated = patch_split_act(x, cut.grid, stride, *pre)
    for group in groups:
        if group.x.shape[1:] == patches.shape[1:]:
            group.x = torch.cat((group.x, patches))
            group.cuts.append(index)
            group.sizes.append(len(patches))
            return
    groups.append(_Group(patches, activated, [index], [len(patches)]))
