"""What the report shows of a run folder, read once and checked: no HTML here."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pplfast.checked import Table, read_table
from pplfast.data.dataset import DataConfig, Dataset, open_dataset
from pplfast.data.recorded import recorded_data
from pplfast.errors import UserError
from pplfast.report.losses import Losses, read_losses
from pplfast.steps import LABELS, SCORES, SHOWN, VAL, VARIANTS

CAMS = SHOWN[0].name
NO_CRF = "none"

AGAIN = "give `pplfast run` the same command again, which writes it anew"
SCORE_AGAIN = "delete it and give `pplfast run` the same command again"

PERCENT = 100.0
Read = TypeVar("Read")


@dataclass(frozen=True)
class ScoreView:
    """One eval_*.json: mIoU and IoU in percent, None for a class that is absent; `sweep` of CAMs: (threshold, mIoU)."""

    miou: float
    names: tuple[str, ...]
    ious: tuple[float | None, ...]
    threshold: float | None
    sweep: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class VariantView:
    key: str  # plain, ppl or explicit
    title: str
    folder: Path
    mious: dict[str, float]  # by the names of SHOWN, in percent; only what is scored
    background: str
    crf: str
    seconds: dict[str, float]  # by step
    rates: dict[str, float]  # images/s by step
    facts: dict[str, dict[str, Any]]  # by LABELS: counts as of `LabelFacts`, of label sets that no mask scores
    losses: Losses
    scores: dict[str, ScoreView]  # by SHOWN; those that the data set has masks for
    unreadable: dict[str, str]  # by SHOWN, and "train": files that have to be shown as missing, and why

    @property
    def with_crf(self) -> bool:
        return self.crf != NO_CRF


@dataclass(frozen=True)
class ListView:
    name: str
    images: int
    scored: int


@dataclass(frozen=True)
class RunView:
    recipe_name: str
    seed: int
    train: ListView
    val: ListView
    warnings: list[str]
    facts: dict[str, str]  # versions and hardware
    command: str
    recipe: Any  # as it stands in run.json
    variants: list[VariantView]
    dataset: Dataset | None  # the list that CAMs were made of; None where it cannot be opened any more
    dataset_error: str


def read_run(folder: Path) -> RunView:
    """Raises UserError where the folder is no run, the run has not finished, or run.json or summary.json is damaged.

    Damage in any other file is part of the view: what else there is can be shown.
    """
    if not os.path.lexists(folder / "run.json"):
        raise UserError(f"{folder}: holds no run.json; give the --out folder of `pplfast run`")
    if not os.path.lexists(folder / "summary.json"):
        raise UserError(f"{folder}: holds no summary.json; finish the run first: give `pplfast run` the same command")
    summary, run = read_table(folder / "summary.json", AGAIN), read_table(folder / "run.json", AGAIN)
    classes = _Classes()
    variants = [_read_variant(folder / key, key, summary.table(key), classes) for key in VARIANTS if summary.has(key)]
    if not variants:
        raise summary.wrong("ppl", f"there, or another of {', '.join(VARIANTS)}")
    data = summary.table("data")
    dataset, error = _open(recorded_data(run.table("data"), VAL))
    return RunView(
        recipe_name=summary.text("recipe"),
        seed=summary.whole("seed", -(2**63), 2**64),
        train=_read_list(data.table("train")),
        val=_read_list(data.table("val")),
        warnings=summary.texts("warnings") if summary.has("warnings") else [],  # an earlier version wrote none
        facts=_read_texts(summary.table("versions")) | _read_texts(summary.table("hardware")),
        command=run.text("command"),
        recipe=run.raw("recipe"),
        variants=variants,
        dataset=dataset,
        dataset_error=error,
    )


def _read_list(table: Table) -> ListView:
    return ListView(table.text("list"), table.whole("images"), table.whole("scored") if table.has("scored") else 0)


def _read_texts(table: Table) -> dict[str, str]:
    return {key: table.text(key) for key in table}


def _open(config: DataConfig) -> tuple[Dataset | None, str]:
    try:
        return open_dataset(config), ""
    except UserError as problem:
        return None, str(problem)
    except OSError as error:  # a name that is too long, a folder that may not be read
        return None, f"{config.root}: cannot be read ({error.strerror})"


def _read_variant(folder: Path, key: str, numbers: Table, classes: "_Classes") -> VariantView:
    scored = {step.name: SCORES[step.name] for step in SHOWN if numbers.has(SCORES[step.name].figure)}
    mious = {name: numbers.number(score.figure, 0, PERCENT) for name, score in scored.items()}
    crf = numbers.text("crf")
    losses, scores = Losses(), {}
    unreadable: dict[str, str] = {}
    try:
        losses = read_losses(folder / "train" / "log.jsonl")
    except UserError as problem:
        unreadable["train"] = str(problem)
    for name, score in scored.items():
        if name != "labels_crf" or crf != NO_CRF:
            file = folder / score.output
            try:
                scores[name] = classes.check(file, _read_scores(file, name == CAMS))
            except UserError as problem:
                unreadable[name] = str(problem)
    return VariantView(
        key=key,
        title=VARIANTS[key],
        folder=folder,
        mious=mious,
        background=numbers.text("background"),
        crf=crf,
        seconds=_optional(numbers, "seconds", _read_numbers),
        rates=_optional(numbers, "images_per_second", _read_numbers),
        facts=_optional(numbers, "without_masks", _read_facts),
        losses=losses,
        scores=scores,
        unreadable=unreadable,
    )


class _Classes:
    """The class names of the first file of scores, which all others must have: they are rows of one table."""

    def __init__(self) -> None:
        self._first: tuple[Path, tuple[str, ...]] | None = None

    def check(self, path: Path, scores: ScoreView) -> ScoreView:
        """`scores`; UserError where they are of other classes."""
        first, names = self._first = self._first or (path, scores.names)
        if scores.names != names:
            raise UserError(f"{path}: scores other classes than {first}; {SCORE_AGAIN}")
        return scores


def _optional(numbers: Table, key: str, read: Callable[[Table], dict[str, Read]]) -> dict[str, Read]:
    """Empty for a run of an earlier version, which has none."""
    return read(numbers.table(key)) if numbers.has(key) else {}


def _read_numbers(table: Table) -> dict[str, float]:
    return {key: table.number(key) for key in table}


def _read_facts(table: Table) -> dict[str, dict[str, Any]]:
    return {key: _read_counts(table.table(key)) for key in _known_labels(table)}


def _known_labels(table: Table) -> list[str]:
    for key in table:
        if key not in LABELS:
            raise table.wrong(key, f"under one of {', '.join(LABELS)}")
    return list(table)


def _read_counts(table: Table) -> dict[str, Any]:
    labelled = table.has("declared")
    images = table.whole("images")
    declared = table.whole("declared") if labelled else None
    return {
        "images": images,
        "foreground": table.number("foreground", 0, PERCENT),
        "almost_all": table.whole("almost_all", 0, images),
        "declared": declared,
        "empty": None if declared is None else table.whole("empty", 0, declared),
        "absent": None if declared is None else table.number("absent", 0, PERCENT),
    }


def _read_scores(path: Path, of_cams: bool) -> ScoreView:
    table = read_table(path, SCORE_AGAIN)
    classes = table.tables("classes")
    points = table.tables("sweep") if of_cams else []
    return ScoreView(
        miou=table.number("miou", 0, PERCENT),
        names=tuple(entry.text("name") for entry in classes),
        ious=tuple(entry.number_or_null("iou", 0, PERCENT) for entry in classes),
        threshold=table.number("threshold", 0, 1) if of_cams else None,
        sweep=tuple((point.number("threshold", 0, 1), point.number("miou", 0, PERCENT)) for point in points),
    )
