"""What a recipe and a variant mean for one backbone: the kind of classifier, and its stages."""

from dataclasses import dataclass

from pplfast.errors import UserError
from pplfast.models import Backbone, create
from pplfast.patch.branches import Cut
from pplfast.patch.classifier import PatchClassifier
from pplfast.patch.pooling import POOLINGS, check_pooling
from pplfast.recipe import Length, Recipe, StageConfig


@dataclass(frozen=True)
class StagePlan:
    """One stage of training: one DeepSpeed engine, one run of the learning rate from its start to zero."""

    names: tuple[str, ...]  # of the blocks after which the patches are cut
    cuts: tuple[Cut, ...]
    lengths: tuple[Length, ...]  # it is as long as all of them together: `schedules.steps_of_stage`
    lr: float  # factor on optim.lr
    title: str = "no patches"  # of a stage without patches, in logs

    @property
    def grids(self) -> tuple[int, ...]:
        return tuple(cut.grid for cut in self.cuts)

    def __str__(self) -> str:
        parts = [f"{name} {grid}x{grid}" for name, grid in zip(self.names, self.grids, strict=True)]
        return " + ".join(parts) or self.title


def build_model(recipe: Recipe, variant: str, classes: int) -> tuple[PatchClassifier, tuple[StagePlan, ...]]:
    """The classifier with its weights loaded and its early blocks frozen, and the stages to train.

    Raises UserError for a backbone, weight file, pooling, position or grid that cannot be.
    """
    pooling = POOLINGS.find(recipe.model.pooling)
    check_pooling(recipe.model.pooling, pooling)
    backbone, _ = create(recipe.model.backbone, weights=recipe.model.weights, output_stride=recipe.model.output_stride)
    frozen = recipe.model.frozen_blocks
    backbone.freeze(backbone.frozen_default if frozen < 0 else frozen)
    stages = plan_stages(recipe, variant, backbone)
    branches = len(stages[0].cuts)
    model = PatchClassifier(backbone, classes, variant, recipe.model.dropout, branches, pooling)
    return model, stages


def plan_stages(recipe: Recipe, variant: str, backbone: Backbone) -> tuple[StagePlan, ...]:
    """Plain and explicit have one stage, as long as all of the recipe's, which progressive has."""
    if variant == "plain":
        return (StagePlan((), (), recipe.stages, 1.0),)
    if variant == "explicit":
        found = {}  # the same cut twice is one branch
        for stage in recipe.stages:
            if stage.position:
                found[cut_after(backbone, stage.position, stage.grid)] = stage.position
        if not found:
            raise UserError("variant explicit: no stage of the recipe has a position; name one, or train plain")
        return (StagePlan(tuple(found.values()), tuple(found), recipe.stages, 1.0),)
    return tuple(_progressive_stage(backbone, stage) for stage in recipe.stages)


def cut_after(backbone: Backbone, name: str, grid: int) -> Cut:
    """The cut after the block called `name`. Raises UserError naming the blocks that can be cut after."""
    position = backbone.position(name) + 1
    if position == len(backbone.specs):
        names = ", ".join(spec.name for spec in backbone.specs[:-1])
        raise UserError(f"position '{name}': no block of {backbone.name} follows it; choose one of: {names}")
    return Cut(position, grid)


def _progressive_stage(backbone: Backbone, stage: StageConfig) -> StagePlan:
    if not stage.position:
        return StagePlan((), (), (stage,), stage.lr)
    return StagePlan((stage.position,), (cut_after(backbone, stage.position, stage.grid),), (stage,), stage.lr)
