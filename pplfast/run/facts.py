"""What a run says of labels that no mask scores: counts of unscored.py as a step, and warnings with their remedy."""

import math
from typing import Any

from pplfast.evaluate import LabelFacts
from pplfast.recipe import Recipe
from pplfast.report.view import LABELS

# The step that takes the place of scoring where a list has no masks, by the step that made the labels.
FACTS = {
    "labels": "facts_label",  # only where no CRF follows
    "labels_crf": "facts_label_crf",
    "labels_walk": "facts_label_walk",
    "predictions": "facts_segmentation",
}
FACT_FILES = {name: f"{name}.json" for name in FACTS.values()}


FEW_STEPS = 100  # of a classifier; masks that were trained with fewer were of no use


def few_steps(recipe: Recipe, train_images: int) -> str | None:
    """What to say before a training that is too short to learn anything, with the remedy."""
    steps = round(recipe.epochs * train_images / recipe.optim.batch)
    if steps >= FEW_STEPS:
        return None
    factor = FEW_STEPS * recipe.optim.batch / train_images / recipe.epochs
    raised = " ".join(f"--set stages.{i}.epochs={math.ceil(s.epochs * factor)}" for i, s in enumerate(recipe.stages))
    other = "--recipe few-images, for 50 to 200 images, or " if recipe.name != "few-images" else ""
    return (
        f"warning: {train_images} images make {steps} optimizer steps of the classifier, and it needs {FEW_STEPS} at "
        f"least: {other}{raised}"
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
        keys, what, epochs, batch = (
            "segmentation.epochs",
            "segmentation network",
            recipe.segmentation.epochs,
            recipe.segmentation.optim.batch,
        )
    else:
        keys, what, epochs, batch = _stage_epochs(recipe), "classifier", recipe.epochs, recipe.optim.batch
    steps = round(epochs * train_images / batch)
    also = ", and affinity.epochs" if source == "labels_walk" else ""
    return f"Remedy: more optimizer steps; the {what} had about {steps}: raise {keys}{also} (docs/recipes.md)"


def _stage_epochs(recipe: Recipe) -> str:
    return " and ".join(f"stages.{index}.epochs" for index in range(len(recipe.stages)))
