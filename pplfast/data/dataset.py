"""A data set: ids, image files, classes, image labels and, where known, true masks."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pplfast.arrays import Int64Array, UInt8Array
from pplfast.data.classes import VOC, ClassList, parse_classes
from pplfast.data.folder import check_root
from pplfast.data.image_info import AUTO, Values
from pplfast.data.labels import read_labels
from pplfast.data.layout import classes_source, described, mask_folder, open_labels, open_scan
from pplfast.data.listing import ListEntry
from pplfast.data.names import image_id
from pplfast.data.picked import picked
from pplfast.data.problems import Problem
from pplfast.data.shard_places import is_sharded
from pplfast.data.shards import open_shards
from pplfast.data.spread import evenly
from pplfast.data.stored import ImageFile, Stored
from pplfast.data.value_range import MOST_IMAGES, measured_range, parse_range, range_text
from pplfast.data.voc import ImageList, listed_images, read_list
from pplfast.errors import UserError

if TYPE_CHECKING:
    from pplfast.data.shard_index import ShardIndex

SHALLOW = (".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp")  # never deeper than 8 bits
REMOTE_READERS = 64  # a store takes up to 200 ms to answer: a Lite0 in training needs 77 images in that time on a GPU


@dataclass(frozen=True, eq=False)
class Dataset:
    """Paths and labels only: no image is opened here, and an image file may turn out to be missing or bad.

    `labels` is None where the images have none (for inference); `masks[i]` is None where image i has no true mask.
    Of a data set in shards the sequences are made as they are read: a million images take no memory for their names.
    """

    name: str  # what a report calls it: the root's name and the list
    ids: Sequence[str]  # unique; also the stem of each output file; may hold '/' for images in subfolders
    images: Sequence[Path | Stored]
    classes: ClassList
    labels: UInt8Array | None  # (N, C), 0 or 1
    masks: Sequence[Path | Stored | None]
    left_out: tuple[Problem, ...] = ()  # what else a plain folder holds that may be meant: warnings
    values: Values | None = None  # of images deeper than 8 bits, what becomes black and white; None: their full range
    labelled_by: str = ""  # in words, where the labels are from
    shards: "ShardIndex | None" = None  # that the images lie in
    rows: Int64Array | None = None  # (N,): of each image in `shards`; None where all of them are here, in its order

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
        """The ids, one per line, for a digest: the same in every locale, and of names that are no text. With the range
        of deep images, which decides their pixels. Of shards what stands for their ids."""
        if self.shards is not None:
            rows = b"" if self.rows is None else self.rows.tobytes()
            return f"{self.shards.digest} range {range_text(self.values)}".encode() + rows
        lines = self.ids if self.values is None else (*self.ids, f"range {range_text(self.values)}")
        return "\n".join(lines).encode("utf-8", "surrogateescape")

    @property
    def known_labels(self) -> UInt8Array:
        """`labels`, where there is no way on without them. UserError if there are none."""
        if self.labels is None:
            raise UserError(f"{self.name}: has no image labels; name their file with --labels")
        return self.labels

    @property
    def image_files(self) -> tuple[Path, ...]:
        """`images`, where each has to be a file of its own. UserError for a data set in shards."""
        files = tuple(image for image in self.images if isinstance(image, Path))
        if len(files) < len(self):
            raise UserError(f"{self.name}: lies in shards, and this needs a file for each image")
        return files

    def subset(self, indices: Sequence[int]) -> "Dataset":
        """The images at `indices`, in that order, under the same name."""
        chosen = np.asarray(indices, np.int64)
        rows = None
        if self.shards is not None:
            rows = chosen if self.rows is None else self.rows[chosen]
        return dataclasses.replace(
            self,
            ids=picked(self.ids, chosen),
            images=picked(self.images, chosen),
            labels=None if self.labels is None else self.labels[chosen],
            masks=picked(self.masks, chosen),
            rows=rows,
        )

    def readers(self, threads: int) -> int:
        """Threads that read images: a store answers each late, but many at once."""
        return max(threads, REMOTE_READERS) if self.shards is not None and self.shards.is_remote else threads

    def some(self, count: int) -> list[int]:
        """At most about `count` positions, evenly over the data set, that are cheap to read together."""
        return evenly(len(self), count) if self.shards is None else self.shards.some(count, self.rows)


@dataclass(frozen=True)
class DataConfig:
    """Where a data set is, in strings that can be saved with a run; `pplfast train --help` says more of each."""

    root: str  # a folder; or shards: a folder, file or pattern of them, or a URL
    list: str = ""
    labels: str = "auto"  # "auto", "xml", "folders", "yolo", "none", or a .npy, .csv or .json file
    classes: str = ""  # "": ROOT/classes.txt where it exists, else those the labels name, else VOC's 20
    masks: str = ""  # "": those the list names, else ROOT/SegmentationClass
    difficult: bool = True  # count objects that the XML marks as difficult, as the field does
    range: str = AUTO  # of images deeper than 8 bits: "LOW,HIGH", "full" or "auto", which measures the list
    index: str = ""  # of shards, where it is not beside them


def open_dataset(config: DataConfig, problems: list[Problem] | None = None) -> Dataset:
    """Read the list and the labels of a data set: a folder in VOC's layout, or any folder of images.

    UserError names what is wrong. With `problems`, faults of single images (labels missing or unreadable) are
    appended there instead, and those images get a row of zeros; without it, the first one raises.
    """
    if is_sharded(config):
        return _open_sharded(dataclasses.replace(config, root=os.fspath(config.root)))
    root = Path(config.root)
    check_root(root)
    scan = open_scan(config)
    listed = read_list(root, config.list, config.labels) if config.list or scan.is_voc else None  # the cheaper first
    source = open_labels(config, scan)
    listed = listed or listed_images(scan, source.listing() if source else scan.listing, with_labels=source is not None)
    entries = listed.entries
    classes = source.classes if source else _classes(config)
    labels = read_labels(source, entries, problems) if source else None
    masks = _masks(config, root, entries)
    images = tuple(entry.image for entry in entries)
    return Dataset(
        name=listed.name,
        ids=tuple(entry.id for entry in entries),
        images=images,
        classes=classes,
        labels=labels,
        masks=masks,
        left_out=_without_masks(listed, masks),
        labelled_by=described(source),
        values=_values(config, [images[index] for index in evenly(len(images), MOST_IMAGES)]),
    )


def _open_sharded(config: DataConfig) -> Dataset:
    found = open_shards(config)
    index, rows = found.index, found.rows
    dataset = Dataset(
        name=found.name,
        ids=index.ids if rows is None else picked(index.ids, rows),
        images=index.images if rows is None else picked(index.images, rows),
        classes=found.classes,
        labels=found.labels,
        masks=index.masks if rows is None else picked(index.masks, rows),
        labelled_by=found.labelled_by,
        shards=index,
        rows=rows,
    )
    deep = any(suffix.lower() not in SHALLOW for suffix in index.suffixes())
    some = [dataset.images[index] for index in dataset.some(MOST_IMAGES)] if deep else []  # each is a request
    return dataclasses.replace(dataset, values=_values(config, some))


def _values(config: DataConfig, some: Sequence[ImageFile]) -> Values | None:
    return measured_range(some) if config.range == AUTO else parse_range(config.range)


def _classes(config: DataConfig) -> ClassList:
    """Those of a data set without labels."""
    source = classes_source(config)
    return parse_classes(source) if source else VOC


def _masks(config: DataConfig, root: Path, entries: Sequence[ListEntry]) -> tuple[Path | None, ...]:
    if config.masks:
        folder = mask_folder(config)
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
    folders = {Path(os.path.realpath(folder)) for folder in {mask.parent for mask in masks if mask}}

    def of_masks(path: Path) -> bool:
        real = Path(os.path.realpath(path))
        return any(folder.is_relative_to(real) for folder in folders)

    return tuple(
        problem for problem in listed.left_out if image_id(problem.id) not in ids and not of_masks(problem.file)
    )


def _existing(path: Path) -> Path | None:
    return path if os.path.isfile(path) else None
