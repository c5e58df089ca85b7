"""Values of a recipe that cannot be, found before anything is done with them."""

from collections.abc import Callable
from typing import Any

from pplfast.errors import UserError
from pplfast.recipe.settings import AugmentConfig, OptimConfig, Recipe

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def check_recipe(recipe: Recipe, source: str) -> None:
    """Raises UserError naming the source, the key and what it must be."""

    def need(condition: bool, key: str, value: Any, expected: str) -> None:
        if not condition:
            raise UserError(f"{source}: '{key}' = {value!r}: must be {expected}")

    need(len(recipe.stages) > 0, "stages", [], "at least one [[stages]] table")
    for i, stage in enumerate(recipe.stages):
        need(stage.epochs > 0, f"stages[{i}].epochs", stage.epochs, "above 0")
        need(stage.grid >= 1, f"stages[{i}].grid", stage.grid, "1 or more")
        need(stage.lr > 0, f"stages[{i}].lr", stage.lr, "above 0")
    _check_augment(recipe.augment, "augment", need)
    _check_optim(recipe.optim, "optim", need)
    need(0 <= recipe.model.dropout < 1, "model.dropout", recipe.model.dropout, "in [0, 1)")
    _check_refinement(recipe, need)
    need(bool(recipe.cam.scales) and min(recipe.cam.scales) > 0, "cam.scales", recipe.cam.scales, "sizes above 0")
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
    need(0 < low <= high, f"{key}.resize_long", (low, high), "two sizes, low <= high")
    need(augment.crop >= 32, f"{key}.crop", augment.crop, "32 pixels or more")
    need(0 <= augment.flip <= 1, f"{key}.flip", augment.flip, "a probability")
    need(0 <= augment.jitter < 1, f"{key}.jitter", augment.jitter, "in [0, 1)")


def _check_optim(optim: OptimConfig, key: str, need: Need) -> None:
    need(optim.lr > 0, f"{key}.lr", optim.lr, "above 0")
    need(0 <= optim.momentum < 1, f"{key}.momentum", optim.momentum, "in [0, 1)")
    need(optim.batch >= 1, f"{key}.batch", optim.batch, "1 or more")
    need(optim.accumulation >= 1, f"{key}.accumulation", optim.accumulation, "1 or more")
    need(optim.precision in PRECISIONS, f"{key}.precision", optim.precision, ", ".join(PRECISIONS))
    need(optim.zero in (0, 1, 2), f"{key}.zero", optim.zero, "0, 1 or 2")
    need(optim.reduction in ("fp32", "bf16"), f"{key}.reduction", optim.reduction, "fp32 or bf16")


def _check_refinement(recipe: Recipe, need: Need) -> None:
    affinity, segmentation = recipe.affinity, recipe.segmentation
    need(affinity.epochs >= 0, "affinity.epochs", affinity.epochs, "0 (no refinement) or more")
    need(
        0 < affinity.background <= affinity.foreground < 1,
        "affinity.background, foreground",
        (affinity.background, affinity.foreground),
        "thresholds with 0 < background <= foreground < 1",
    )
    need(affinity.radius >= 2, "affinity.radius", affinity.radius, "2 or more")
    need(affinity.walk.radius >= 2, "affinity.walk.radius", affinity.walk.radius, "2 or more")
    need(affinity.walk.beta > 0, "affinity.walk.beta", affinity.walk.beta, "above 0")
    need(affinity.walk.steps >= 0, "affinity.walk.steps", affinity.walk.steps, "0 or more")
    need(segmentation.epochs >= 0, "segmentation.epochs", segmentation.epochs, "0 (no network) or more")
    need(
        bool(segmentation.scales) and min(segmentation.scales) > 0,
        "segmentation.scales",
        segmentation.scales,
        "sizes above 0",
    )
    need(
        segmentation.model.pooling == "mean",
        "segmentation.model.pooling",
        segmentation.model.pooling,
        "left out: a segmentation network does not pool",
    )
    need(segmentation.test_batch >= 1, "segmentation.test_batch", segmentation.test_batch, "1 or more")
    for key, part in (("affinity", affinity), ("segmentation", segmentation)):
        _check_augment(part.augment, f"{key}.augment", need)
        _check_optim(part.optim, f"{key}.optim", need)
