"""The figures of runs that are done, and what they are by point: mean, standard error, paired differences."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from pplfast.errors import UserError
from pplfast.files import read_json
from pplfast.steps import STEPS
from pplfast.sweep.names import CAMS, of_test
from pplfast.sweep.runs import SweepRun

DIGITS = 4


@dataclass(frozen=True)
class Figure:
    """mIoU and IoU by class, in percent; None for a class that neither truth nor prediction has."""

    miou: float
    classes: dict[str, float | None]

    @classmethod
    def of(cls, scores: dict[str, Any]) -> "Figure":
        """scores: of `Scores.to_dict`."""
        return cls(scores["miou"], {entry["name"]: entry["iou"] for entry in scores["classes"]})


@dataclass(frozen=True)
class Outcome:
    """What came of a run that is done. figures: by their names in summary.json, in the order of the chain."""

    figures: dict[str, Figure]
    seconds: float
    machine: dict[str, Any]  # versions and hardware


def read_outcome(run: SweepRun, cams_only: bool) -> Outcome:
    """Of its summary and its scores. UserError for files that cannot be read."""
    variant, summary = run.point.variant, read_json(run.folder / "summary.json")
    try:
        made = summary[variant]["seconds"]
        steps = [step for step in STEPS if step.figure and step.name in made and (not cams_only or step.figure == CAMS)]
        figures = {step.figure: Figure.of(read_json(run.folder / variant / step.output)) for step in steps}
        return Outcome(figures, summary["seconds"], {key: summary[key] for key in ("versions", "hardware")})
    except (KeyError, TypeError):
        raise UserError(f"{run.folder}: its summary and its scores are not those of a run; remove it") from None


def spread(values: Mapping[int, float]) -> dict[str, Any]:
    """By seed -> {"n", "mean", "se"}; se, the standard error of the mean, is None for one seed: sd / sqrt(n)."""
    numbers = list(values.values())
    error = stdev(numbers) / math.sqrt(len(numbers)) if len(numbers) > 1 else None
    return {
        "n": len(numbers),
        "mean": round(fmean(numbers), DIGITS),
        "se": None if error is None else round(error, DIGITS),
    }


def difference(values: Mapping[int, float], reference: Mapping[int, float]) -> dict[str, Any] | None:
    """The spread of values - reference over the seeds that both have; None where they share none."""
    paired = {seed: value - reference[seed] for seed, value in values.items() if seed in reference}
    return spread(paired) if paired else None


Outcomes = Mapping[int, Outcome]  # of a point, by seed


def gains(runs: Outcomes, figures: Sequence[str]) -> dict[str, dict[str, Any]]:
    """How far each of these figures, in the order of the chain, is above the first one and above the one before it, run
    by run: {figure: {"first": spread, "before": spread}}. Without the first figure, and those that no run has. What is
    scored on the list of the test has none after it: the figures before and after are of the other list."""
    values = {name: found for name in figures if (found := mious(runs, name))}
    order, made = list(values), dict[str, dict[str, Any]]()
    for place, name in enumerate(order[1:], 1):
        before = [one for one in order[:place] if not of_test(one)] or order[:1]
        made[name] = {
            "first": difference(values[name], values[order[0]]),
            "before": difference(values[name], values[before[-1]]),
        }
    return made


def names(points: Mapping[str, Outcomes]) -> list[str]:
    """The figures that some run has."""
    return list(dict.fromkeys(name for runs in points.values() for one in runs.values() for name in one.figures))


def mious(runs: Outcomes, figure: str) -> dict[int, float]:
    return {seed: one.figures[figure].miou for seed, one in runs.items() if figure in one.figures}


def of_point(runs: Outcomes, reference: Outcomes, figure: str) -> dict[str, Any] | None:
    """Spread and difference of a figure, and of each class; None where no run has it."""
    values = mious(runs, figure)
    if not values:
        return None
    classes = dict.fromkeys(name for seed in values for name in runs[seed].figures[figure].classes)
    return {
        **spread(values),
        "difference": difference(values, mious(reference, figure)),
        "classes": {
            name: {**spread(own), "difference": difference(own, _ious(reference, figure, name))}
            for name in classes
            if (own := _ious(runs, figure, name))
        },
    }


def _ious(runs: Outcomes, figure: str, name: str) -> dict[int, float]:
    found = {seed: one.figures[figure].classes.get(name) for seed, one in runs.items() if figure in one.figures}
    return {seed: value for seed, value in found.items() if value is not None}
