"""Running the patched branches and the global branch through one block list, each block as few times as possible."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pplfast.kernels import patch_split, patch_split_act
from pplfast.models.layers import folded_once
from pplfast.patch.borders import SharedPatches, can_share


@dataclass(frozen=True)
class PatchStage:
    """Cut into grid x grid patches the features after the first `position` blocks."""

    position: int
    grid: int


@dataclass
class _Group:
    """Branches whose patches have one shape: they run through the blocks as one batch."""

    x: Tensor  # not while `shared`
    activated: Tensor | None  # of the next block's pre-activation, where the split already computed it
    stages: list[int]
    sizes: list[int]  # patches of each stage on the batch axis
    shared: SharedPatches | None = None  # as long as most cells equal the global branch's

    def leave(self) -> None:
        """From here on, patches by themselves."""
        if self.shared is not None:
            self.x, self.shared = self.shared.patches(), None


def remaining_stride(backbone: nn.Module, position: int) -> int:
    """The product of the strides of the blocks after the first `position`."""
    return math.prod(spec.stride for spec in backbone.specs[position:])


def run_branches(backbone: nn.Module, images: Tensor, stages: Sequence[PatchStage],
                 detach: bool) -> tuple[list[tuple[Tensor, int]], Tensor]:
    """Images (B, 3, height, width) -> per stage (patches (B*K*K, C, h, w), K), and the global map (B, C, H, W).

    The prefix is shared by all branches. A branch that reaches another stage's position with the shape of the patches
    split there joins them: the remaining blocks run once over the larger batch (with the same K it always fits, since
    both heights are the smallest multiple of the remaining stride that covers the map).

    detach: no gradient flows from a patched branch into the blocks before its cut.
    """
    with folded_once():
        return _run_branches(backbone, images, stages, detach)


def _run_branches(backbone: nn.Module, images: Tensor, stages: Sequence[PatchStage],
                  detach: bool) -> tuple[list[tuple[Tensor, int]], Tensor]:
    groups: list[_Group] = []
    x, done = images, 0
    for index in sorted(range(len(stages)), key=lambda i: stages[i].position):
        stage = stages[index]
        x = _advance(backbone, x, groups, done, stage.position)
        done = stage.position
        _split(backbone, x, stage, index, groups, detach)
    global_map = _advance(backbone, x, groups, done, len(backbone.specs))
    for group in groups:
        group.leave()

    patched: list[tuple[Tensor, int]] = [(global_map, 1)] * len(stages)
    for group in groups:
        for index, patches in zip(group.stages, group.x.split(group.sizes), strict=True):
            patched[index] = (patches, stages[index].grid)
    return patched, global_map


def _advance(backbone: nn.Module, x: Tensor, groups: list[_Group], first: int, last: int) -> Tensor:
    while first < last and any(group.shared for group in groups):
        x = _advance_shared(backbone, x, groups, first)
        first += 1
    if first == last:
        return x
    if any(group.activated is not None for group in groups):  # then each has its own beginning
        for group in groups:
            group.x = backbone.run(group.x, first, last, activated=group.activated)
            group.activated = None
        return backbone.run(x, first, last)
    *patched, x = backbone.run_all([*(group.x for group in groups), x], first, last)
    for group, patches in zip(groups, patched, strict=True):
        group.x = patches
    return x


def _advance_shared(backbone: nn.Module, x: Tensor, groups: list[_Group], index: int) -> Tensor:
    """Block `index`, unit by unit; groups that gain no more from the global branch leave it on the way."""
    alone = [group for group in groups if group.shared is None]
    for group in alone:
        group.x = backbone.run(group.x, index, index + 1, activated=group.activated)
        group.activated = None
    sharing = [group for group in groups if group.shared is not None]
    for unit in backbone.units(index):
        x = unit.run(x)
        for group in sharing:
            if group.shared is not None and group.shared.step(unit, x):
                continue
            group.leave()
            group.x = unit.run(group.x)
    return x


def _split(backbone: nn.Module, x: Tensor, stage: PatchStage, index: int, groups: list[_Group],
           detach: bool) -> None:
    stride = remaining_stride(backbone, stage.position)
    for group in groups:
        group.leave()
    if not groups and can_share(x, stage.grid, stride, detach):
        groups.append(_Group(x, None, [index], [len(x) * stage.grid**2], SharedPatches.cut(x, stage.grid)))
        return
    x = x.detach() if detach else x
    pre = backbone.preactivation(stage.position)
    if groups or pre is None:
        patches, activated = patch_split(x, stage.grid, stride), None
    else:
        patches, activated = patch_split_act(x, stage.grid, stride, *pre)
    for group in groups:
        if group.x.shape[1:] == patches.shape[1:]:
            group.x = torch.cat((group.x, patches))
            group.stages.append(index)
            group.sizes.append(len(patches))
            return
    groups.append(_Group(patches, activated, [index], [len(patches)]))
