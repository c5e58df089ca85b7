"""What of a recipe a training would stumble over, found before anything is trained: all entries call this.

That the values are of their kinds and ranges, and go together, is seen to wherever a recipe is read or made.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from pplfast.errors import UserError
from pplfast.models import NAMES, Backbone, create
from pplfast.models.boundary import STRIDE
from pplfast.models.registry import DEFAULT_STRIDE, _package_file
from pplfast.models.segmentation import SegmentationNet
from pplfast.patch.pooling import POOLINGS, check_pooling
from pplfast.precision import default_device
from pplfast.recipe import AffinityConfig, ModelConfig, OptimConfig, Recipe, SegmentationConfig
from pplfast.train.engine import check_compile, check_precision, share_batch
from pplfast.train.loss import LOSSES, check_loss
from pplfast.train.plan import plan_stages


def check_recipe(recipe: Recipe, variants: Sequence[str], classes: int, world: int = 1, compiled: str = "") -> None:
    """All that the chain trains of these variants, its boundary and its segmentation network included where the recipe
    has them. classes: of the data set. world: how many ranks will train. compiled: TrainOptions.compile.

    Weight files have to be there; they are not read. Raises UserError naming the setting and the remedy.
    """
    check_classifier(recipe, variants, classes)
    _check_optim(recipe.optim, "optim", world, compiled)
    if recipe.affinity.trained:
        check_affinity(recipe.affinity)
        _check_optim(recipe.affinity.optim, "affinity.optim", world, compiled)
    if recipe.segmentation.trained:
        check_segmentation(recipe.segmentation)
        _check_optim(recipe.segmentation.optim, "segmentation.optim", world, compiled)


def check_classifier(recipe: Recipe, variants: Sequence[str], classes: int) -> None:
    if not recipe.stages:
        raise UserError(f"recipe {recipe.name}: has no stages; add a [[stages]] table")
    check_loss(recipe.loss, LOSSES.find(recipe.loss), classes)
    check_pooling(recipe.model.pooling, POOLINGS.find(recipe.model.pooling))
    backbone = _check_model(recipe.model, "model")
    for variant in variants:
        plan_stages(recipe, variant, backbone)


def check_affinity(config: AffinityConfig) -> None:
    if config.augment.crop % STRIDE:
        raise UserError(f"affinity.augment.crop = {config.augment.crop}: must be a multiple of {STRIDE}")


def check_segmentation(config: SegmentationConfig) -> None:
    backbone = _check_model(config.model, "segmentation.model")
    SegmentationNet(backbone, 2, config.head)


def _check_model(model: ModelConfig, table: str) -> Backbone:
    """The backbone, without weights; its names and shapes take no memory, but for own ones, whose code may want
    numbers."""
    with _of_table(table):
        with torch.device("meta" if model.backbone in NAMES else "cpu"):
            backbone, _ = create(model.backbone, output_stride=model.output_stride)
        backbone.freeze(max(model.frozen_blocks, 0))
        if model.weights == "auto":
            _package_file(model.backbone)
    stride = math.prod(spec.stride for spec in backbone.specs)
    if model.output_stride not in (stride, DEFAULT_STRIDE):
        raise UserError(f"{table}.output_stride = {model.output_stride}: {model.backbone} has {stride}; leave it out")
    if model.weights not in ("auto", "none") and not Path(model.weights).is_file():
        raise UserError(
            f"{table}.weights = '{model.weights}': no such file; give ImageNet weights of {model.backbone}, 'auto' or "
            f"'none'"
        )
    return backbone


def _check_optim(optim: OptimConfig, table: str, world: int, compiled: str) -> None:
    with _of_table(table.removesuffix("optim").removesuffix(".")):
        check_precision(optim, torch.device(default_device()))
        check_compile(compiled, share_batch(optim, world))


@contextmanager
def _of_table(table: str) -> Iterator[None]:
    """Errors of functions that do not know which table a setting is in say so."""
    try:
        yield
    except UserError as error:
        raise UserError(f"[{table}] {error}" if table else str(error)) from error
