"""What a run says of labels that no mask scores: counts of unscored.py as a step, and warnings with their remedy."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pplfast.data.sampling import steps_per_epoch
from pplfast.evaluate import LabelFacts
from pplfast.recipe import Length, OptimConfig, Recipe
from pplfast.steps import FACTS, LABELS, STEP
from pplfast.train.schedules import steps_of_stage

OF_NETWORK = {name for name in LABELS if "segmentation" in STEP[name].sources(STEP)}  # label sets that it makes
# Optimizer steps, of a classifier or a segmentation network; masks that were trained with fewer were mostly of no use.
FEW_STEPS = 200
FEW_OF_BOUNDARY = 40  # of a boundary network, for which the 48 that 60 images made were enough: docs/journal.md
FEW_OF_RECIPE = {"demo": 100}  # of a classifier: the rendered objects of the demo are learnt in its 120


@dataclass(frozen=True)
class _Training:
    """Of one network. lengths: by the table of the recipe, like "stages.0"."""

    network: str
    lengths: dict[str, Length]
    optim: OptimConfig
    least: int  # optimizer steps

    @property
    def keys(self) -> list[str]:
        """What its length is set by, like "stages.0.epochs"."""
        return [f"{table}.{'steps' if length.steps else 'epochs'}" for table, length in self.lengths.items()]

    def steps(self, images: int) -> dict[str, int]:
        return {table: training_steps([length], images, self.optim) for table, length in self.lengths.items()}


def _classifier(recipe: Recipe) -> _Training:
    stages: dict[str, Length] = {f"stages.{number}": stage for number, stage in enumerate(recipe.stages)}
    return _Training("classifier", stages, recipe.optim, FEW_OF_RECIPE.get(recipe.name, FEW_STEPS))


def _boundary(recipe: Recipe) -> _Training:
    return _Training("boundary network", {"affinity": recipe.affinity}, recipe.affinity.optim, FEW_OF_BOUNDARY)


def _segmentation(recipe: Recipe) -> _Training:
    config = recipe.segmentation
    return _Training("segmentation network", {"segmentation": config}, config.optim, FEW_STEPS)


def training_steps(lengths: Sequence[Length], images: int, optim: OptimConfig) -> int:
    """Optimizer steps of a stage that is as long as all of these, as training counts them."""
    return steps_of_stage(lengths, steps_per_epoch(images, optim.batch))


def few_steps(recipe: Recipe, train_images: int) -> str | None:
    """What to say before trainings that are too short to learn anything, with the remedy."""
    trainings = [_classifier(recipe)]
    trainings += [_boundary(recipe)] if recipe.affinity.trained else []
    trainings += [_segmentation(recipe)] if recipe.segmentation.trained else []
    short = [part for part in trainings if sum(part.steps(train_images).values()) < part.least]
    if not short:
        return None
    counts: list[str] = []
    raised: list[str] = []
    for part in short:
        steps = part.steps(train_images)
        total = sum(steps.values())
        counts.append(f"{total} {'' if counts else 'optimizer steps '}of the {part.network}")
        raised += [f"--set {table}.steps={math.ceil(count * part.least / total)}" for table, count in steps.items()]
    *others, last = counts
    made = f"{', '.join(others)} and {last}" if others else last
    least = short[0].least
    apart = ", ".join(f"{part.network}: {part.least}" for part in short if part.least != least)
    return (
        f"warning: {train_images} images make {made}; masks of fewer than {least}{f' ({apart})' if apart else ''} are "
        f"mostly useless: {' '.join(raised)} (or leave --recipe out)"
    )


def facts_summary(values: dict[str, dict[str, Any]], recipe: Recipe, train_images: int) -> dict[str, dict[str, Any]]:
    """The part of a variant's summary: per label set its counts, and what looks wrong with its remedy.

    values: what the steps returned, by their names. recipe: with the thresholds that were used.
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
    walked = source == "labels_walk" or (source in OF_NETWORK and recipe.affinity.trained)
    key, label = ("affinity.label.value", recipe.affinity.label) if walked else ("label.value", recipe.label)
    steps = _more_steps(source, recipe, train_images)
    if kind == "absent":
        return steps
    higher = (kind == "almost_all") == (label.background == "threshold")  # (1 - CAM)^alpha falls as alpha grows
    return f"a {'higher' if higher else 'lower'} {key} (it is {label.value:g}), or {steps}"


def _more_steps(source: str, recipe: Recipe, train_images: int) -> str:
    """The networks behind bad labels have mostly seen too few steps."""
    part = (_segmentation if source in OF_NETWORK else _classifier)(recipe)
    keys = part.keys + (_boundary(recipe).keys if source == "labels_walk" else [])
    steps = sum(part.steps(train_images).values())
    return f"more optimizer steps: raise {' and '.join(keys)} (the {part.network} had {steps})"
