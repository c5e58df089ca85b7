"""A data set: ids, image files, classes, image labels and, where known, true masks."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pplfast.arrays import UInt8Array
from pplfast.data.classes import VOC, ClassList, parse_classes
from pplfast.data.folder import check_root
from pplfast.data.labels import read_labels
from pplfast.data.names import image_id
from pplfast.data.problems import Problem
from pplfast.data.voc import ImageList, ListEntry, read_list
from pplfast.errors import UserError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Paths and labels only: no image is opened here, and an image file may turn out to be missing or bad.

    `labels` is None where the images have none (for inference); `masks[i]` is None where image i has no true mask.
    """

    name: str  # what a report calls it: the root's name and the list
    ids: tuple[str, ...]  # unique; also the stem of each output file; may hold '/' for images in subfolders
    images: tuple[Path, ...]
    classes: ClassList
    labels: UInt8Array | None  # (N, C), 0 or 1
    masks: tuple[Path | None, ...]
    left_out: tuple[Problem, ...] = ()  # what else a plain folder holds that may be meant: warnings

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.images) == len(self.masks):
            raise ValueError(f"{len(self.ids)} ids, {len(self.images)} images, {len(self.masks)} masks")
        if self.labels is not None and (
            self.labels.dtype != np.uint8 or self.labels.shape != (len(self.ids), len(self.classes))
        ):
            raise ValueError(
                f"labels are {self.labels.dtype} {self.labels.shape}, not uint8 {(len(self.ids), len(self.classes))}"
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def encoded_ids(self) -> bytes:
        """The ids, one per line, for a digest: the same in every locale, and of names that are no text."""
        return "\n".join(self.ids).encode("utf-8", "surrogateescape")

    @property
    def known_labels(self) -> UInt8Array:
        """`labels`, where there is no way on without them. UserError if there are none."""
        if self.labels is None:
            raise UserError(f"{self.name}: has no image labels; name their file with --labels")
        return self.labels

    def subset(self, indices: Sequence[int]) -> "Dataset":
        """The images at `indices`, in that order, under the same name."""
        chosen = [int(index) for index in indices]
        return dataclasses.replace(
            self,
            ids=tuple(self.ids[i] for i in chosen),
            images=tuple(self.images[i] for i in chosen),
            labels=None if self.labels is None else self.labels[chosen],
            masks=tuple(self.masks[i] for i in chosen),
        )


@dataclass(frozen=True)
class DataConfig:
    """Where a data set is, in strings that can be saved with a run; `pplfast train --help` says more of each."""

    root: str
    list: str = ""
    labels: str = "auto"  # "auto", "xml", "none", or a .npy or .csv file
    classes: str = ""  # "": ROOT/classes.txt where it exists, else VOC's 20
    masks: str = ""  # "": those the list names, else ROOT/SegmentationClass
    difficult: bool = True  # count objects that the XML marks as difficult, as the field does


def open_dataset(config: DataConfig, problems: list[Problem] | None = None) -> Dataset:
    """Read the list and the labels of a data set: a folder in VOC's layout, or any folder of JPEG images.

    UserError names what is wrong. With `problems`, faults of single images (labels missing or unreadable) are
    appended there instead, and those images get a row of zeros; without it, the first one raises.
    """
    root = Path(config.root)
    check_root(root)
    classes = _classes(config, root)
    listed = read_list(root, config.list, config.labels, classes.names)
    entries = listed.entries
    labels = read_labels(config, root, entries, classes, problems)
    masks = _masks(config, root, entries)
    return Dataset(
        name=listed.name,
        ids=tuple(entry.id for entry in entries),
        images=tuple(entry.image for entry in entries),
        classes=classes,
        labels=labels,
        masks=masks,
        left_out=_without_masks(listed, masks),
    )


def _classes(config: DataConfig, root: Path) -> ClassList:
    if config.classes:
        return parse_classes(config.classes)
    own = root / "classes.txt"
    return parse_classes(own) if own.is_file() else VOC


def _masks(config: DataConfig, root: Path, entries: Sequence[ListEntry]) -> tuple[Path | None, ...]:
    if config.masks:
        folder = next((path for path in (root / config.masks, Path(config.masks)) if path.is_dir()), None)
        if folder is None:
            raise UserError(f"{config.masks}: no such folder of masks, neither here nor in {root}; check --masks")
        found = tuple(_existing(folder / f"{entry.id}.png") for entry in entries)
        if not any(found):
            raise UserError(f"{folder}: holds no mask of this list (expected {entries[0].id}.png, ...); check --masks")
        return found
    return tuple(_existing(entry.mask or root / "SegmentationClass" / f"{entry.id}.png") for entry in entries)


def _without_masks(listed: ImageList, masks: Sequence[Path | None]) -> tuple[Problem, ...]:
    """What the folder holds beside its images and their masks. A file with the name of an image is another form of
    it."""
    if not listed.left_out:
        return ()
    ids = {entry.id for entry in listed.entries}
    folders = set(map(os.path.realpath, {mask.parent for mask in masks if mask}))
    return tuple(
        problem
        for problem in listed.left_out
        if image_id(problem.id) not in ids
        and problem.path is not None
        and not (problem.path.suffix.lower() == ".png" and os.path.realpath(problem.path.parent) in folders)
    )


def _existing(path: Path) -> Path | None:
    return path if os.path.isfile(path) else None
