"""Image labels from YOLO's text files: a line `class x y w h`, or `class x1 y1 x2 y2 ...`, for each object."""

import io
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from pplfast.arrays import UInt8Array
from pplfast.data.classes import ClassList, can_be_class, means_no_class, named_classes
from pplfast.data.labels import Fault
from pplfast.data.listing import ListEntry, Listing, Scan
from pplfast.data.other_names import OtherNames
from pplfast.data.problems import Problem
from pplfast.data.yolo_names import find_names
from pplfast.errors import UserError
from pplfast.reading import open_regular, quoted, shortened

_VALUE = r"[-+]?+(?:\d++\.?+\d*+|\.\d++)(?:[eE][-+]?+\d++)?+"
_LINE = re.compile(rf"\s*+(\d{{1,9}}+)(?:(?:\s++{_VALUE}){{4,}}+)?+\s*+", re.ASCII)
_IMAGES, _LABELS = "images", "labels"
_IMAGES_LOOKED_AT, _FILES_LOOKED_AT = 1000, 100  # to tell whether a folder has such labels


class YoloLabels:
    """Only the classes of the objects count. An image without a file has no object, as YOLO takes it.

    classes: a part of those that data.yaml, classes.txt or obj.names names, None for all; or, where none of them is
    there, their names in the order of their numbers.
    """

    def __init__(self, scan: Scan, classes: ClassList | None):
        self.scan = scan
        self.source, self.names = find_names(scan.root) or (Path("--classes"), _numbered(classes))
        if not self.names:
            raise UserError(
                f"{scan.root}: nothing names the classes of its YOLO labels; add a data.yaml with names, or give "
                "--classes their names in the order of their numbers"
            )
        self.layout = f"YOLO text files, named by {self.source.name}"
        self.classes = classes or _all_classes(self.names, self.source)
        known = set(self.names.values())
        if missing := [name for name in self.classes.names if name not in known]:
            there = ", ".join(map(shortened, islice(self.names.values(), 20)))
            raise UserError(f"{self.source}: has no class {', '.join(missing)}; give --classes some of {there}")
        self.columns = {name: column for column, name in enumerate(self.classes.names)}
        self.others = OtherNames(self.source, self.classes.names)
        self.with_file = 0  # images

    def listing(self) -> Listing:
        return self.scan.listing

    def fill(self, row: UInt8Array, entry: ListEntry) -> None:
        path = next((path for path in label_files(entry.image) if os.path.lexists(path)), None)
        if path is None:
            return
        self.with_file += 1
        try:
            lines = {number: line for line, number in read_numbers(path)}
        except OSError as error:
            raise Fault("bad-labels", path, f"cannot be read ({error.strerror}); restore it") from None
        except ValueError as error:
            raise Fault("bad-labels", path, f"{error}; correct it") from None
        if unknown := [number for number in lines if number not in self.names]:
            raise Fault(
                "bad-labels",
                path,
                f"line {lines[unknown[0]]}: class {unknown[0]}, where {self.source} names {min(self.names)} to "
                f"{max(self.names)}; correct one of them",
            )
        names = {self.names[number] for number in lines}
        row[[self.columns[name] for name in names if name in self.columns]] = 1
        self.others.add({name for name in names if name not in self.columns and not means_no_class(name)})

    def remarks(self, labels: UInt8Array) -> list[Problem]:
        if len(labels) and not self.with_file:
            raise UserError(
                f"{self.scan.root}: none of the {len(labels)} images has a text file of YOLO labels, in a folder "
                f"{_LABELS} beside {_IMAGES}, or beside the image; give --labels another layout"
            )
        return self.others.remarks(labels)


def fits(scan: Scan) -> bool:
    """Whether some of the images have such labels: text beside images may be captions."""
    entries = scan.listing.entries
    some = entries[:: max(1, len(entries) // _IMAGES_LOOKED_AT)]
    files = (path for entry in some for path in label_files(entry.image) if os.path.isfile(path))
    empty = bad = False
    for path in islice(files, _FILES_LOOKED_AT):
        try:
            if any(True for _ in read_numbers(path)):
                return True
        except (OSError, ValueError):  # one that is damaged, or a README, says nothing of the others
            bad = True
        else:
            empty = True  # without an object, as an image of background has it; a caption may be empty too
    return empty and not bad


def label_files(image: Path) -> list[Path]:
    """Where the labels of an image may be: under `labels` in place of the last folder `images`, or beside it."""
    file = Path(os.path.abspath(image)).with_suffix(".txt")
    folders = list(file.parent.parts)
    if _IMAGES not in folders:
        return [file]
    folders[len(folders) - 1 - folders[::-1].index(_IMAGES)] = _LABELS
    return [Path(*folders, file.name), file]


def read_numbers(path: Path) -> Iterator[tuple[int, int]]:
    """Number of the line, from 1, and of the class of each object. Raises OSError, and ValueError, which names the
    line, for what is none of YOLO's."""
    with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig") as file:
        for line, text in enumerate(file, 1):
            if found := _LINE.fullmatch(text):
                yield line, int(found[1])
            elif text.strip():
                raise ValueError(
                    f"line {line}: {quoted(text.strip())}: expected class x y w h, the class as a number from 0"
                )


def _numbered(classes: ClassList | None) -> dict[int, str]:
    return dict(enumerate(classes.names)) if classes else {}


def _all_classes(names: dict[int, str], source: Path) -> ClassList:
    return named_classes([name for _, name in sorted(names.items()) if can_be_class(name)], str(source))
