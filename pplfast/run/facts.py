"""What a run says of labels that no mask scores: counts of unscored.py as a step, and warnings with their remedy."""

import dataclasses
import math
from typing import Any

from pplfast.data.sampling import steps_per_epoch
from pplfast.evaluate import LabelFacts
from pplfast.recipe import OptimConfig, Recipe
from pplfast.recipe.crf_presets import DEFAULT_THRESHOLD
from pplfast.steps import FACTS, LABELS, STEP
from pplfast.train.schedules import steps_of_stage

OF_NETWORK = {name for name in LABELS if "segmentation" in STEP[name].sources(STEP)}  # label sets that it makes
FEW_STEPS = 100  # of a classifier; masks that were trained with fewer were of no use


def training_steps(epochs: float, images: int, optim: OptimConfig) -> int:
    """Optimizer steps of a stage, as training counts them."""
    return steps_of_stage(epochs, steps_per_epoch(images, optim.batch))


def few_steps(recipe: Recipe, train_images: int) -> str | None:
    """What to say before a training that is too short to learn anything, with the remedy."""
    steps = _classifier_steps(recipe, train_images)
    if steps >= FEW_STEPS:
        return None
    factor = FEW_STEPS / steps
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
        if step.name in values:
            found[source] = values[step.name] | {
                "warnings": [
                    f"{LABELS[source]}: {text}. Remedy: {remedy(kind, source, recipe, train_images)} (docs/recipes.md)"
                    for kind, text in _facts(values[step.name]).concerns().items()
                ]
            }
    return found


def _facts(values: dict[str, Any]) -> LabelFacts:
    """Of a step's record, which is asked for each by its name: it may lack one."""
    return LabelFacts(**{entry.name: values[entry.name] for entry in dataclasses.fields(LabelFacts)})


def remedy(kind: str, source: str, recipe: Recipe, train_images: int) -> str:
    """What to do about labels that look wrong. kind: a name of `LabelFacts.concerns()`."""
    walked = source == "labels_walk" or (source in OF_NETWORK and recipe.affinity.epochs > 0)
    key, label = ("affinity.label.value", recipe.affinity.label) if walked else ("label.value", recipe.label)
    steps = _more_steps(source, recipe, train_images)
    if kind == "absent":
        return steps
    higher = (kind == "almost_all") == (label.background == "threshold")  # (1 - CAM)^alpha falls as alpha grows
    return f"a {'higher' if higher else 'lower'} {key} (it is {label.value or DEFAULT_THRESHOLD:g}), or {steps}"


def _more_steps(source: str, recipe: Recipe, train_images: int) -> str:
    """The networks behind bad labels have mostly seen too few steps."""
    if source in OF_NETWORK:
        keys, what = "segmentation.epochs", "segmentation network"
        steps = training_steps(recipe.segmentation.epochs, train_images, recipe.segmentation.optim)
    else:
        keys, what, steps = _stage_epochs(recipe), "classifier", _classifier_steps(recipe, train_images)
    also = " and affinity.epochs" if source == "labels_walk" else ""
    return f"more optimizer steps: raise {keys}{also} (the {what} had {steps})"


def _classifier_steps(recipe: Recipe, images: int) -> int:
    return sum(training_steps(stage.epochs, images, recipe.optim) for stage in recipe.stages)


def _stage_epochs(recipe: Recipe) -> str:
    return " and ".join(f"stages.{index}.epochs" for index in range(len(recipe.stages)))
