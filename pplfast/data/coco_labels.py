"""Image labels from a COCO file: the categories of the objects in an image."""

import dataclasses
import os
from functools import lru_cache
from pathlib import Path

from pplfast.arrays import UInt8Array
from pplfast.data.classes import ClassList, means_no_class
from pplfast.data.coco import CocoFile, Id, read_coco
from pplfast.data.labels import Fault, counted
from pplfast.data.listing import ListEntry, Listing, Scan
from pplfast.data.other_names import OtherNames
from pplfast.data.problems import NOTE, Problem
from pplfast.errors import UserError, explain_os_error
from pplfast.reading import quoted


class CocoLabels:
    """The images of the file that lie in the folder, with the categories of their objects.

    classes: names of categories, or their ids as text; None for all. values: whether the values in masks are those of
    `classes`, not of the categories.
    """

    def __init__(self, scan: Scan, path: Path, classes: ClassList | None, values: bool):
        self.scan, self.path = scan, path
        self.coco, self.found = _read(path)
        self.layout = f"COCO annotations {path.name}"
        known = self.coco.categories
        chosen = self.coco.columns(",".join(classes.names) if classes else "")
        ids = tuple(known.ids[column] for column in chosen)
        if classes and values and len(chosen) == len(classes):
            ids = classes.ids
        self.classes = ClassList(tuple(known.names[column] for column in chosen), ids)
        self.columns = {name: column for column, name in enumerate(self.classes.names)}
        self.others = OtherNames(path, self.classes.names)
        self.taken: dict[Id, str] = {}  # the id that each image has been found for
        self.missing = 0  # images of the file that the folder does not have

    def listing(self) -> Listing:
        whole = self.scan.listing
        images = [self.coco.find(entry.id) for entry in whole.entries]
        entries = [entry for entry, image in zip(whole.entries, images, strict=True) if image is not None]
        if not entries:
            first = quoted(self.coco.images[0].name) if self.coco.images else "none"
            raise UserError(
                f"{self.path}: none of its images lies in {self.scan.images}; its names are like {first}, those of the "
                f"folder like {quoted(whole.entries[0].id)}; give --data the folder of its images"
            )
        self.missing = len(self.coco.images) - len({image.id for image in images if image})
        left_out = [
            self.scan.not_used(entry.image, f"is not in {self.path}, so it has no labels")
            for entry, image in zip(whole.entries, images, strict=True)
            if image is None
        ]
        return Listing(self.scan.root, entries, [0] * len(entries), [*whole.left_out, *left_out])

    def fill(self, row: UInt8Array, entry: ListEntry) -> None:
        image = self.coco.find(entry.id)
        if image is None:
            raise Fault(
                "no-labels", self.path, f"has no image that fits {entry.id}; take it off the list, or add it there"
            )
        if (other := self.taken.setdefault(image.id, entry.id)) != entry.id:
            raise Fault(
                "bad-labels",
                self.path,
                f"its image {quoted(image.name)} fits both {other} and {entry.id}; write its folder there too",
            )
        names = {self.coco.categories.names[column] for column in self.found.get(image.id, ())}
        row[[self.columns[name] for name in names if name in self.columns]] = 1
        self.others.add({name for name in names if name not in self.columns and not means_no_class(name)})

    def remarks(self, labels: UInt8Array) -> list[Problem]:
        found = self.others.remarks(labels)
        if self.missing:
            text = f"{counted(self.missing)} of its {len(self.coco.images)} not in {self.scan.images}"
            found.append(Problem("", self.path, "not-there", NOTE, text))
        return found


def _read(path: Path) -> tuple[CocoFile, dict[Id, frozenset[int]]]:
    """The file without its annotations, and the columns of each image. A run opens the lists of a data set several
    times, and the largest files take minutes."""
    try:
        state = os.stat(path)
    except OSError as error:
        raise explain_os_error(error, path, reading=True) from None
    return _remembered(path, (state.st_ino, state.st_size, state.st_mtime_ns))


@lru_cache(maxsize=2)  # of training and validation
def _remembered(path: Path, state: tuple[int, ...]) -> tuple[CocoFile, dict[Id, frozenset[int]]]:
    """state: of the file, for the cache."""
    coco = read_coco(path)
    labels = {image.id: frozenset(coco.labels(image)) for image in coco.images}
    return dataclasses.replace(coco, annotations={}), labels
