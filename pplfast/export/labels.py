"""The label PNGs of a data set: where each is, and by which classes they were made."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pplfast.data.classes import ClassList
from pplfast.data.dataset import Dataset
from pplfast.data.masks import SUFFIX
from pplfast.data.stored import Stored
from pplfast.described import described_classes
from pplfast.errors import UserError
from pplfast.export.format import LabelledImage
from pplfast.files import StrPath
from pplfast.jobs.folder import SETTINGS_FILE, find_outputs, read_settings
from pplfast.jobs.output_shards import OutputShards, holds_shards

RUN_FILE = "run.json"
MAKES, MAKES_RUN = "pplfast label", "pplfast run"  # commands


@dataclass(frozen=True)
class LabelledImages:
    """The images of a data set that have labels, by their positions in it. failed: by id why others have none."""

    dataset: Dataset
    positions: list[int]
    failed: dict[str, str]
    folder: str
    shards: OutputShards | None

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[LabelledImage]:
        for number, position in enumerate(self.positions):
            name, image = self.dataset.ids[position], self.dataset.images[position]
            label: Path | Stored = Path(self.folder, f"{name}{SUFFIX}")
            yield LabelledImage(number, name, image, self.shards.part(position, SUFFIX) if self.shards else label)


def recorded_classes(folder: StrPath) -> ClassList | None:
    """The classes and values that the job which filled the folder had; None where it does not say."""
    settings = read_settings(folder) or {}
    if "class_names" not in settings or "class_ids" not in settings:
        return None
    try:
        return described_classes(settings)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder}/{SETTINGS_FILE}: {error}; make the labels again") from None


def find_labels(folder: StrPath, dataset: Dataset) -> LabelledImages:
    """The label PNGs of a data set, as files or in shards.

    UserError where some are missing without a note of failure, and where they were made with other classes than the
    data set's.
    """
    recorded = recorded_classes(folder)
    if recorded is not None and _values(recorded) != _values(dataset.classes):
        raise UserError(
            f"{folder}: its labels are of the classes {_text(recorded)}, but the data set has {_text(dataset.classes)};"
            " leave --classes out, or give the same"
        )
    command, everything = _command(folder), range(len(dataset))
    if dataset.shards is not None and holds_shards(folder, command):
        outputs = OutputShards(folder, dataset, command)
        failed = {dataset.ids[index]: outputs.reason(index) for index in everything if outputs.bad[index]}
        good = [index for index in everything if not outputs.bad[index]]
        return LabelledImages(dataset, good, failed, os.fspath(folder), outputs)
    failed = find_outputs(folder, list(dataset.ids), SUFFIX, command)
    good = [index for index, name in enumerate(dataset.ids) if name not in failed]
    return LabelledImages(dataset, good, failed, os.fspath(folder), None)


def _values(classes: ClassList) -> dict[str, int]:
    return dict(zip(classes.names, classes.ids, strict=True))


def _text(classes: ClassList) -> str:
    return ",".join(f"{name}={value}" for name, value in _values(classes).items())


def _command(folder: StrPath) -> str:
    """That makes the labels of the folder: the run's, where it lies in a variant of one."""
    return MAKES_RUN if (Path(folder).resolve().parent.parent / RUN_FILE).is_file() else MAKES
