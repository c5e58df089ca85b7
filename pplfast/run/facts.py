"""What a run says of labels that no mask scores: counts of unscored.py as a step, and warnings with their remedy."""

from typing import Any

from pplfast.data.sampling import steps_per_epoch
from pplfast.evaluate import LabelFacts
from pplfast.recipe import OptimConfig, Recipe
from pplfast.report.view import LABELS
from pplfast.train.schedules import stage_iterations

# The step that takes the place of scoring where a list has no masks, by the step that made the labels.
FACTS = {
    "labels": "facts_label",  # only where no CRF follows
    "labels_crf": "facts_label_crf",
    "labels_walk": "facts_label_walk",
    "predictions": "facts_segmentation",
}
FACT_FILES = {name: f"{name}.json" for name in FACTS.values()}

FEW_STEPS = 100  # of a classifier; masks that were trained with fewer were of no use


def training_steps(epochs: float, images: int, optim: OptimConfig) -> int:
    """Optimizer steps of a stage, as training counts them."""
    return stage_iterations(epochs, steps_per_epoch(images, optim.batch))


def few_steps(recipe: Recipe, train_images: int) -> str | None:
    """What to say before a training that is too short to learn anything, with the remedy."""
    steps = _classifier_steps(recipe, train_images)
    if steps >= FEW_STEPS:
        return None
    return (
        f"warning: {train_images} images make {steps} optimizer steps of the classifier, and it needs {FEW_STEPS} at "
        f"least: raise {_stage_epochs(recipe)} (--recipe few-images is own-images for 50 to 200 images)"
    )


def facts_summary(values: dict[str, dict[str, Any]], recipe: Recipe, train_images: int) -> dict[str, dict[str, Any]]:
    """The part of a variant's summary: per label set its counts, and what looks wrong with its remedy.

    values: what the steps returned, by their names.
    """
    found = {}
    for source, step in FACTS.items():
        if step in values:
            concerns = LabelFacts(**values[step]).concerns()
            found[source] = values[step] | {
                "warnings": [f"{LABELS[source]}: {text}. {remedy(source, recipe, train_images)}" for text in concerns]
            }
    return found


def remedy(source: str, recipe: Recipe, train_images: int) -> str:
    """What to do about labels that look wrong: the networks behind them have mostly seen too few steps."""
    if source == "predictions":
        keys, what = "segmentation.epochs", "segmentation network"
        steps = training_steps(recipe.segmentation.epochs, train_images, recipe.segmentation.optim)
    else:
        keys, what, steps = _stage_epochs(recipe), "classifier", _classifier_steps(recipe, train_images)
    also = ", and affinity.epochs" if source == "labels_walk" else ""
    return f"Remedy: more optimizer steps; the {what} had {steps}: raise {keys}{also} (docs/recipes.md)"


def _classifier_steps(recipe: Recipe, images: int) -> int:
    return sum(training_steps(stage.epochs, images, recipe.optim) for stage in recipe.stages)


def _stage_epochs(recipe: Recipe) -> str:
    return " and ".join(f"stages.{index}.epochs" for index in range(len(recipe.stages)))
