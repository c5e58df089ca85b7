"""The scored list in two parts: settings are chosen by the first, and reported by the second, which they have not seen.

The outputs that a finished run has are scored again on each part.
"""

import hashlib
from collections.abc import Container, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pplfast.data.dataset import DataConfig, Dataset, open_dataset
from pplfast.errors import UserError
from pplfast.evaluate import Scores, evaluate_cams, evaluate_labels
from pplfast.files import read_json, write_json
from pplfast.steps import SCORES, STEP
from pplfast.sweep.figures import Figure, Outcome
from pplfast.sweep.runs import SweepRun

FIRST, SECOND = "_first", "_second"  # after the name of a figure


@dataclass(frozen=True)
class Parts:
    """first: ids of the images by which settings are chosen. sets: the scored lists, by VAL and TEST."""

    first: frozenset[str]
    sets: dict[str, Dataset]

    def of(self, which: str, left_out: Container[str] = ()) -> tuple[Dataset, Dataset]:
        """The images of each part of a list that a run could use."""
        dataset = self.sets[which]
        usable = [index for index, id in enumerate(dataset.ids) if id not in left_out]
        chosen = [[i for i in usable if (dataset.ids[i] in self.first) == first] for first in (True, False)]
        return dataset.subset(chosen[0]), dataset.subset(chosen[1])


def parts_of(given: str, scored: dict[str, Dataset], val: DataConfig) -> Parts:
    """given: the value of --choose-on, a share or a list of the data set `val`. scored: the lists that are, by VAL and
    TEST. Raises UserError where one part of the first of them has no mask."""
    try:
        share = float(given)
    except ValueError:
        chosen = open_dataset(replace(val, list=given, labels="none", masks=""))
        first = frozenset(chosen.ids)
    else:
        if not 0 < share < 1:
            raise UserError(f"--choose-on {given}: must be a share of the images between 0 and 1, like 0.5, or a list")
        first = frozenset(id for dataset in scored.values() for id in dataset.ids if _place(id) < share)
    parts, (which, dataset) = Parts(first, scored), next(iter(scored.items()))
    both = [_scored(part) for part in parts.of(which)]
    if not all(both):
        raise UserError(
            f"--choose-on {given}: takes {both[0]} of the {sum(both)} images of {dataset.name} with masks; give a "
            "share like 0.5, or a list of some of them, not of all"
        )
    return parts


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
    key = {"first": _digest(parts.first), "steps": records}
    known = read_json(path) if path.is_file() else {}
    if known.get("key") != key:
        left_out = read_json(run.folder / "summary.json")["data"].get("left_out", {})
        known = {"key": key, "figures": {}}
        for source, step in steps.items():
            both = parts.of(step.of, left_out)
            if all(map(_scored, both)):  # the list of the test may lie in one part
                scores = _score(folder / source, STEP[source].work in ("cams", "walk"), both, jobs)
                figures = (asdict(Figure.of(one.to_dict())) for one in scores)
                known["figures"] |= {f"{step.figure}{part}": one for part, one in zip((FIRST, SECOND), figures)}
        write_json(path, known)
    own = {name: Figure(**value) for name, value in known["figures"].items()}
    return replace(outcome, figures=outcome.figures | own)


def _digest(ids: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(ids)).encode("utf-8", "surrogateescape")).hexdigest()


def _score(folder: Path, of_cams: bool, both: tuple[Dataset, Dataset], jobs: int) -> tuple[Scores, Scores]:
    """The background threshold of CAMs is chosen by the first part as well."""
    if not of_cams:
        return evaluate_labels(folder, both[0], jobs), evaluate_labels(folder, both[1], jobs)
    first = evaluate_cams(folder, both[0], jobs=jobs)
    return first, evaluate_cams(folder, both[1], (first.threshold,), jobs)
