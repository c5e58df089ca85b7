"""Parts of the scored list: settings are chosen by the first, and reported by the second, which they have not seen, or
by thirds of it, by the size of the objects.

The outputs that a finished run has are scored again on each part.
"""

import hashlib
from collections.abc import Container, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pplfast.data.dataset import DataConfig, Dataset, open_dataset
from pplfast.errors import UserError
from pplfast.evaluate import evaluate_cams, evaluate_labels
from pplfast.evaluate.sizes import parts_by_size
from pplfast.files import read_json, write_json
from pplfast.steps import SCORES, STEP
from pplfast.sweep.figures import Figure, Outcome
from pplfast.sweep.names import FIRST, SECOND, SIZES
from pplfast.sweep.runs import SweepRun


@dataclass(frozen=True)
class Parts:
    """first: ids of the images by which settings are chosen; None where none are. by_size: the images that are reported
    in thirds, by the size of their objects, as well. sets: the scored lists, by VAL and TEST."""

    first: frozenset[str] | None
    by_size: bool
    sets: dict[str, Dataset]

    def of(self, which: str, left_out: Container[str] = ()) -> dict[str, Dataset]:
        """By the suffix of their figures, the images of each part of a list that a run could use. UserError where there
        are too few masks for thirds."""
        dataset, split = self.sets[which], {}
        usable = [index for index, id in enumerate(dataset.ids) if id not in left_out]
        if self.first is not None:
            for suffix, chosen in ((FIRST, True), (SECOND, False)):
                split[suffix] = dataset.subset([i for i in usable if (dataset.ids[i] in self.first) == chosen])
        if self.by_size:
            reported = split[SECOND] if split else dataset.subset(usable)
            split |= {suffix: part.dataset for suffix, part in zip(SIZES, parts_by_size(reported), strict=True)}
        return split


def parts_of(choose_on: str | None, by_size: bool, scored: dict[str, Dataset], val: DataConfig) -> Parts | None:
    """choose_on, by_size: the options of that name; without either there are no parts. scored: the lists that are, by
    VAL and TEST, of the data set `val`. Raises UserError where a part of the first of them has no mask, or any of
    them too few for thirds."""
    if choose_on is None and not by_size:
        return None
    parts = Parts(None if choose_on is None else _first(choose_on, scored, val), by_size, scored)
    splits = {which: parts.of(which) for which in scored}
    dataset, split = next(zip(scored.values(), splits.values()))
    if choose_on is not None and not (_scored(split[FIRST]) and _scored(split[SECOND])):
        raise UserError(
            f"--choose-on {choose_on}: takes {_scored(split[FIRST])} of the {_scored(dataset)} images of "
            f"{dataset.name} with masks; give a share like 0.5, or a list of some of them, not of all"
        )
    return parts


def _first(choose_on: str, scored: dict[str, Dataset], val: DataConfig) -> frozenset[str]:
    try:
        share = float(choose_on)
    except ValueError:
        return frozenset(open_dataset(replace(val, list=choose_on, labels="none", masks="")).ids)
    if not 0 < share < 1:
        raise UserError(f"--choose-on {choose_on}: must be a share of the images between 0 and 1, like 0.5, or a list")
    return frozenset(id for dataset in scored.values() for id in dataset.ids if _place(id) < share)


def _place(id: str) -> float:
    """From 0 to 1, the same for an image whatever else is on the list."""
    return int.from_bytes(hashlib.sha256(id.encode("utf-8", "surrogateescape")).digest()[:8]) / 2**64


def _scored(dataset: Dataset) -> int:
    return sum(mask is not None for mask in dataset.masks)


def with_parts(run: SweepRun, outcome: Outcome, parts: Parts, jobs: int) -> Outcome:
    """The outcome with every figure on each part as well; read again from beside the run where that was done before."""
    path = run.folder.with_name(f"{run.folder.name}.parts.json")
    folder = run.folder / run.point.variant
    steps = {source: step for source, step in SCORES.items() if step.figure in outcome.figures}
    records = {step.name: read_json(folder / "steps" / f"{step.name}.json")["settings"] for step in steps.values()}
    first = None if parts.first is None else _digest(parts.first)
    key = {"first": first, "by_size": parts.by_size, "steps": records}
    known = read_json(path) if path.is_file() else {}
    if known.get("key") != key:
        left_out = read_json(run.folder / "summary.json")["data"].get("left_out", {})
        known = {"key": key, "figures": {}}
        for source, step in steps.items():
            split = parts.of(step.of, left_out)
            if all(map(_scored, split.values())):  # the list of the test may lie in one part
                of_cams = STEP[source].work in ("cams", "walk")
                threshold = read_json(folder / step.output)["threshold"] if of_cams else None
                scores = _score(folder / source, threshold, split, jobs)
                known["figures"] |= {f"{step.figure}{part}": asdict(Figure.of(one)) for part, one in scores.items()}
        write_json(path, known)
    own = {name: Figure(**value) for name, value in known["figures"].items()}
    return replace(outcome, figures=outcome.figures | own)


def _digest(ids: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(ids)).encode("utf-8", "surrogateescape")).hexdigest()


def _score(folder: Path, threshold: float | None, split: dict[str, Dataset], jobs: int) -> dict[str, dict[str, Any]]:
    """threshold: of CAMs, found by all images; where there is a first part, that is found by it."""
    scores: dict[str, dict[str, Any]] = {}
    for part, dataset in split.items():
        if threshold is None:
            scores[part] = evaluate_labels(folder, dataset, jobs).to_dict()
        elif part == FIRST:
            found = evaluate_cams(folder, dataset, jobs=jobs)
            threshold, scores[part] = found.threshold, found.to_dict()
        else:
            scores[part] = evaluate_cams(folder, dataset, (threshold,), jobs).to_dict()
    return scores
