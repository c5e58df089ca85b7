"""What the report shows of a run folder, read once and checked: no HTML here."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pplfast.data.dataset import DataConfig, Dataset, open_dataset
from pplfast.errors import UserError
from pplfast.files import read_json

VARIANTS = {"plain": "Plain classifier", "ppl": "Progressive patch learning", "explicit": "Explicit patch learning"}

# Folders of label PNGs in the order of the chain: each is made from the one before.
LABELS = {
    "labels": "labels without CRF",
    "labels_crf": "labels after the CRF",
    "labels_walk": "labels after the random walk",
    "predictions": "segmentation network",
}
SCORES = {
    "labels": "eval_label.json",
    "labels_crf": "eval_label_crf.json",
    "labels_walk": "eval_label_walk.json",
    "predictions": "eval_segmentation.json",
}


@dataclass(frozen=True)
class VariantView:
    key: str  # plain, ppl or explicit
    title: str
    folder: Path
    numbers: dict[str, Any]  # this variant's part of summary.json
    log: list[dict[str, Any]]  # the steps of train/log.jsonl
    cam_scores: dict[str, Any] | None  # eval_cam.json; None where the data set has no masks
    label_scores: dict[str, dict[str, Any]]  # the scored ones of LABELS


@dataclass(frozen=True)
class RunView:
    folder: Path
    summary: dict[str, Any]
    run: dict[str, Any]  # run.json
    variants: list[VariantView]
    dataset: Dataset | None  # the list that CAMs were made of; None where it cannot be opened any more
    dataset_error: str


def read_run(folder: Path) -> RunView:
    """Raises UserError where the folder is no run, or the run has not finished."""
    if not (folder / "run.json").is_file():
        raise UserError(f"{folder}: holds no run.json; give the --out folder of `pplfast run`")
    if not (folder / "summary.json").is_file():
        raise UserError(f"{folder}: holds no summary.json; finish the run first: give `pplfast run` the same command")
    summary, run = {"warnings": []} | read_json(folder / "summary.json"), read_json(folder / "run.json")
    variants = [_read_variant(folder / key, key, summary[key]) for key in VARIANTS if key in summary]
    dataset, error = None, ""
    try:
        dataset = open_dataset(DataConfig(**run["data"]["val"]))
    except UserError as problem:
        error = str(problem)
    return RunView(folder, summary, run, variants, dataset, error)


def _read_variant(folder: Path, key: str, numbers: dict[str, Any]) -> VariantView:
    def optional(name: str) -> dict[str, Any] | None:
        return read_json(folder / name) if (folder / name).is_file() else None

    return VariantView(
        key,
        VARIANTS[key],
        folder,
        {"without_masks": {}} | numbers,  # a run by an earlier version has none
        _read_log(folder / "train" / "log.jsonl"),
        optional("eval_cam.json"),
        {source: scores for source, file in SCORES.items() if (scores := optional(file))},
    )


def _read_log(path: Path) -> list[dict[str, Any]]:
    """The steps of a training log. Its last line may be cut off where a process was killed."""
    if not path.is_file():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        entries.append(entry)
    return entries
