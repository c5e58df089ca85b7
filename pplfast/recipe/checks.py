"""Settings of a recipe that cannot be, or not together, beyond the ranges of its numbers (ranges.py)."""

from collections.abc import Callable
from typing import Any

from pplfast.errors import UserError
from pplfast.recipe.ranges import short
from pplfast.recipe.settings import AugmentConfig, OptimConfig, Recipe

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def check_recipe(recipe: Recipe, source: str) -> None:
    """Raises UserError naming the source, the key and what it must be."""

    def need(condition: bool, key: str, value: Any, expected: str) -> None:
        if not condition:
            raise UserError(f"{source}: '{key}' = {short(value)}: must be {expected}")

    need(len(recipe.stages) > 0, "stages", [], "at least one [[stages]] table")
    _check_augment(recipe.augment, "augment", need)
    _check_optim(recipe.optim, "optim", need)
    _check_refinement(recipe, need)
    need(bool(recipe.cam.scales), "cam.scales", recipe.cam.scales, "one size or more")
    need(recipe.cam.precision in ("auto", "fp32", "bf16"), "cam.precision", recipe.cam.precision, "auto, fp32 or bf16")
    need(
        recipe.label.background in ("threshold", "alpha"),
        "label.background",
        recipe.label.background,
        "threshold or alpha",
    )
    for variant in recipe.variants:
        need(variant in ("plain", "ppl", "explicit"), "variants", variant, "plain, ppl or explicit")


Need = Callable[[bool, str, Any, str], None]


def _check_augment(augment: AugmentConfig, key: str, need: Need) -> None:
    low, high = augment.resize_long
    need(low <= high, f"{key}.resize_long", (low, high), "two sizes, low <= high")


def _check_optim(optim: OptimConfig, key: str, need: Need) -> None:
    need(optim.precision in PRECISIONS, f"{key}.precision", optim.precision, ", ".join(PRECISIONS))
    need(
        optim.batch % optim.accumulation == 0,
        f"{key}.batch",
        optim.batch,
        f"a multiple of {key}.accumulation = {optim.accumulation}",
    )
    need(
        not optim.micro_batch or optim.accumulation == 1,
        f"{key}.micro_batch",
        optim.micro_batch,
        f"left out with {key}.accumulation = {optim.accumulation}: one follows from the other",
    )
    need(optim.reduction in ("fp32", "bf16"), f"{key}.reduction", optim.reduction, "fp32 or bf16")


def _check_refinement(recipe: Recipe, need: Need) -> None:
    affinity, segmentation = recipe.affinity, recipe.segmentation
    need(
        affinity.background <= affinity.foreground,
        "affinity.background, foreground",
        (affinity.background, affinity.foreground),
        "thresholds with background <= foreground",
    )
    need(bool(segmentation.scales), "segmentation.scales", segmentation.scales, "one size or more")
    need(
        segmentation.model.pooling == "mean",
        "segmentation.model.pooling",
        segmentation.model.pooling,
        "left out: a segmentation network does not pool",
    )
    for key, part in (("affinity", affinity), ("segmentation", segmentation)):
        _check_augment(part.augment, f"{key}.augment", need)
        _check_optim(part.optim, f"{key}.optim", need)
