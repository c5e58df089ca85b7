"""Image labels from a folder for each class, as torchvision's ImageFolder reads them: ROOT/cat/1.jpg shows a cat."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path

from pplfast.arrays import UInt8Array
from pplfast.data.classes import ClassList, means_no_class, named_classes
from pplfast.data.folder import IMAGES
from pplfast.data.labels import Fault, counted
from pplfast.data.listing import ListEntry, Listing, Scan
from pplfast.data.problems import Problem
from pplfast.data.splits import is_holder, is_part, is_split
from pplfast.errors import UserError
from pplfast.reading import open_regular, shortened

_SHOWN = 10  # folders that a message lists


class FolderLabels:
    """The label of an image is the first folder of its id; images in one called background, none or negative have none.

    A file that lies in several of the folders, under one name and with the same bytes, is one image with several
    labels: that of the first folder. classes: None for all folders, by their names.
    """

    layout = "folder per class"

    def __init__(self, scan: Scan, classes: ClassList | None):
        self.scan, folders = scan, _folders(scan)
        names = set(folders) - {""}
        self._check(names, classes)
        self.without = {name for name in names if means_no_class(name) and not (classes and name in classes.names)}
        self.classes = classes or named_classes(sorted(names - self.without), str(scan.images))
        self.columns = {name: column for column, name in enumerate(self.classes.names)}
        used = [entry for name in names if self._is_used(name) for entry in folders[name]]
        groups = same_images(used)
        self.labels = {entry.id: self._labels(group) for group in groups for entry in group}  # columns by id
        first = {group[0].id for group in groups}
        self.entries = [entry for entry in scan.listing.entries if entry.id in first]
        self.left_out = [
            scan.not_used(entry.image, "lies beside the folders of the classes; move it into one")
            for entry in folders.get("", [])
        ]
        self.left_out += [
            scan.not_used(scan.images / name, f"holds {counted(len(folders[name]))} of no class; name it in --classes")
            for name in sorted(names)
            if not self._is_used(name)
        ]

    def _check(self, names: Collection[str], classes: ClassList | None) -> None:
        """Raises UserError where the folders are not those of classes, or of other ones."""
        where = self.scan.images
        if not names:
            raise UserError(f"{where}: holds no folder of images; put the images of each class into one of its name")
        if are_parts(names) and not (classes and set(classes.names) <= set(names)):
            raise UserError(
                f"{where}: {shown_names(names)} are parts of a data set by their names, not classes; give --data "
                f"{where / min(names)}"
            )
        if classes and set(classes.names).isdisjoint(names):
            raise UserError(
                f"{where}: no folder is named as one of the classes {', '.join(classes.names)}; give --classes names "
                f"of its folders: {shown_names(names)}"
            )

    def _is_used(self, name: str) -> bool:
        return name in self.columns or name in self.without

    def _labels(self, same: Iterable[ListEntry]) -> frozenset[int]:
        names = {first_folder(entry.id) for entry in same}
        return frozenset(self.columns[name] for name in names if name in self.columns)

    def listing(self) -> Listing:
        left_out = [*self.scan.listing.left_out, *self.left_out]
        return Listing(self.scan.root, self.entries, [0] * len(self.entries), left_out)

    def fill(self, row: UInt8Array, entry: ListEntry) -> None:
        if entry.id not in self.labels and not self._is_used(first_folder(entry.id)):
            raise Fault(
                "no-labels", entry.image, "lies in no folder of a class; move it there, or take it off the list"
            )
        row[list(self.labels.get(entry.id) or self._labels([entry]))] = 1

    def remarks(self, labels: UInt8Array) -> list[Problem]:
        return []


def fits(scan: Scan, classes: ClassList | None) -> bool:
    """Whether the folders of a plain folder may be those of classes. classes: those that somebody states."""
    folders = _folders(scan)
    names = set(folders) - {""}
    voc = any(IMAGES in entry.id.split("/") for entries in folders.values() for entry in entries)
    if not names or voc:
        return False
    return not (are_parts(names) or names.isdisjoint(classes.names)) if classes else not seem_parts(names)


def are_parts(names: Iterable[str]) -> bool:
    """Whether folders are all called as parts of a data set are."""
    return all(map(is_part, names))


def seem_parts(names: Collection[str]) -> bool:
    """Whether folders are rather parts of a data set, and what lies beside them, than classes: images/ and labels/, or
    train/, val/ and figures/. A single one may be a class: a train, beside bus and cat."""
    return are_parts(names) or any(map(is_holder, names)) or sum(map(is_split, names)) > 1


def first_folder(id: str) -> str:
    """ "" for an image that lies in none."""
    return id.partition("/")[0] if "/" in id else ""


def same_images(entries: Iterable[ListEntry]) -> list[list[ListEntry]]:
    """Images that lie in several folders of classes, under one name and with the same bytes, together; each other one
    alone. Each group in the order of its ids."""
    named: dict[str, list[ListEntry]] = defaultdict(list)
    for entry in entries:
        named[entry.image.name].append(entry)
    groups = []
    for alike in named.values():
        alike.sort(key=lambda entry: entry.image)
        for group in _by_content(alike) if _in_several(alike) else [alike]:
            groups += [group] if _in_several(group) else [[entry] for entry in group]
    return groups


def _in_several(entries: Iterable[ListEntry]) -> bool:
    return len({first_folder(entry.id) for entry in entries}) > 1


def _by_content(entries: Iterable[ListEntry]) -> list[list[ListEntry]]:
    """Files with the same bytes together. Only those of one size are read, links to one file once."""
    sizes: dict[int, dict[tuple[int, int], list[ListEntry]]] = defaultdict(lambda: defaultdict(list))
    groups: list[list[ListEntry]] = []
    for entry in entries:
        try:
            state = os.stat(entry.image)
        except OSError:  # a link that leads nowhere; the check of the data names it
            groups.append([entry])
            continue
        sizes[state.st_size][state.st_dev, state.st_ino].append(entry)
    for files in sizes.values():
        contents: dict[object, list[ListEntry]] = defaultdict(list)
        for file, links in files.items():
            contents[_digest(links[0].image) or file if len(files) > 1 else file] += links
        groups += contents.values()
    return [sorted(group, key=lambda entry: entry.image) for group in groups]


def _digest(path: Path) -> bytes | None:
    """None for a file that cannot be read."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return None


def _folders(scan: Scan) -> dict[str, list[ListEntry]]:
    """Images by their first folder."""
    found: dict[str, list[ListEntry]] = defaultdict(list)
    for entry in scan.listing.entries:
        found[first_folder(entry.id)].append(entry)
    return found


def shown_names(names: Collection[str]) -> str:
    """The first of them, sorted, for a message."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(shortened(name) for name in sorted(names)[:_SHOWN])}{more}"
