"""Image labels: from VOC's Annotations/*.xml, from a cls_labels.npy dict, or from a CSV."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers.expat import ExpatError, ParserCreate

import numpy as np

from pplfast.arrays import UInt8Array
from pplfast.data.classes import VOC_NAMES, ClassList
from pplfast.data.csv_labels import read_csv
from pplfast.data.folder import IMAGES
from pplfast.data.names import image_id
from pplfast.data.problems import ERROR, NOTE, WARNING, Problem
from pplfast.data.voc import ListEntry
from pplfast.errors import UserError
from pplfast.npy import load_npy_dict
from pplfast.reading import open_regular, quoted, shortened

MOST_NAMES = 20  # of no class, that a message lists

if TYPE_CHECKING:
    from pplfast.data.dataset import DataConfig


class _Fault(Exception):
    """The labels of one image cannot be read; the message names the file and the remedy."""

    def __init__(self, kind: str, path: Path, message: str):
        super().__init__(message)
        self.kind, self.path = kind, path


def read_labels(
    config: "DataConfig",
    root: Path,
    entries: Sequence[ListEntry],
    classes: ClassList,
    problems: list[Problem] | None = None,
) -> UInt8Array | None:
    """Labels as uint8 (N, C), or None for `labels = "none"`.

    Faults of single images go to `problems` if it is given, and leave a row of zeros; else the first one raises
    UserError. So do names of no class, as problems of no image. Where the annotations name other classes alone, it is
    always an error: the class list is the wrong one.
    """
    kind, path = _find(config, root)
    if kind == "none":
        return None
    reader: _Reader
    if kind == "xml":
        reader = _XmlLabels(path, classes, config.difficult)
    elif kind == "npy":
        reader = _NpyLabels(path, classes)
    else:
        images = root / IMAGES
        reader = _CsvLabels(path, images if images.is_dir() else root, classes)
    labels = np.zeros((len(entries), len(classes)), np.uint8)
    for row, entry in zip(labels, entries, strict=True):
        try:
            reader.fill(row, entry)
        except _Fault as fault:
            if problems is None:
                raise UserError(f"{fault.path}: {fault}") from None
            problems.append(Problem(entry.id, fault.path, fault.kind, ERROR, str(fault)))
    if isinstance(reader, _XmlLabels) and reader.others:
        if not labels.any():
            raise UserError(
                f"{path}: none of the {len(entries)} images has any of the classes {', '.join(classes.names)}; give "
                f"--classes the names used there: {', '.join(shortened(name) for name in sorted(reader.others)[:10])}"
            )
        if problems is not None:
            problems += reader.problems()
    return labels


def _find(config: "DataConfig", root: Path) -> tuple[str, Path]:
    choice, annotations = config.labels, root / "Annotations"
    if choice == "none":
        return "none", root
    if choice == "xml" or (choice == "auto" and annotations.is_dir()):
        if not annotations.is_dir():
            raise UserError(f"{annotations}: no such folder; give --labels a cls_labels.npy or a CSV, or none")
        return "xml", annotations
    if choice == "auto":
        beside = [root / "cls_labels.npy", Path(config.list).parent / "cls_labels.npy" if config.list else root]
        found = next((path for path in beside if path.is_file()), None)
        if found is None:
            raise UserError(
                f"{root}: no image labels: neither Annotations/ nor cls_labels.npy; give --labels a "
                f"cls_labels.npy or a CSV of image,label;label, or none where the command needs no labels"
            )
        return "npy", found
    path = Path(choice)
    if path.suffix.lower() not in (".npy", ".csv"):
        raise UserError(f"--labels {choice}: must be auto, xml, none, or a file that ends in .npy or .csv")
    return path.suffix.lower()[1:], path


class _Reader(Protocol):
    def fill(self, row: UInt8Array, entry: ListEntry) -> None:
        """Set the columns of the classes that the image has. Raises _Fault."""


class _XmlLabels:
    """VOC's XML, one file per image. Objects of other classes are ignored: VOC is often used with a few of its 20."""

    def __init__(self, folder: Path, classes: ClassList, difficult: bool):
        self.folder, self.difficult = folder, difficult
        self.columns = {name: column for column, name in enumerate(classes.names)}
        self.others: Counter[str] = Counter()  # images with each name of no class

    def fill(self, row: UInt8Array, entry: ListEntry) -> None:
        path = self.folder / f"{entry.id}.xml"
        try:
            with open_regular(path) as file:
                tree = parse_xml(file.read())
        except FileNotFoundError:
            raise _Fault(
                "no-labels", path, "no such file, so the image has no labels; add it, or take the image off the list"
            ) from None
        except OSError as error:
            raise _Fault("bad-labels", path, f"cannot be read ({error.strerror}); restore it") from None
        except (ExpatError, ValueError, LookupError, TypeError) as error:  # the last three: its encoding
            raise _Fault("bad-labels", path, f"not readable as XML ({shortened(str(error))}); restore it") from None
        others = set()
        for thing in tree.findall("object"):
            if not self.difficult and (thing.findtext("difficult") or "").strip() == "1":
                continue
            name = (thing.findtext("name") or "").strip()
            if name in self.columns:
                row[self.columns[name]] = 1
            else:
                others.add(name)
        self.others.update(sorted(others))

    def problems(self) -> list[Problem]:
        """Names of no class: fine for a part of VOC's 20, but not where a name is a class in another spelling."""
        spellings = {_spelling(name): name for name in self.columns}
        alike = {name: spellings[_spelling(name)] for name in self.others if _spelling(name) in spellings}
        found = [
            Problem(
                "",
                self.folder,
                "other-spelling",
                WARNING,
                f"objects named {quoted(name)} in {_images(self.others[name])} do not count: the class is "
                f"{quoted(known)}; write both the same way",
            )
            for name, known in alike.items()
        ]
        names = [f"{quoted(name)} ({_images(n)})" for name, n in self.others.most_common() if name not in alike]
        if names:
            more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
            text = f"objects of no class: {', '.join(names[:MOST_NAMES])}{more}"
            found.append(Problem("", self.folder, "other-names", NOTE, text))
        return found


def _spelling(name: str) -> str:
    """The same text for names that differ by case, spaces, '_', '-' or the coding of their accents alone."""
    return re.sub(r"[\s_-]", "", unicodedata.normalize("NFKC", name).casefold())


def _images(count: int) -> str:
    return f"{count} image{'s' * (count != 1)}"


def parse_xml(data: bytes) -> Element:
    """The root of an XML file. ExpatError where it is damaged; ValueError, LookupError or TypeError for its encoding,
    and ValueError where it declares entities: annotations need none, and a few lines of them make gigabytes."""
    builder, parser = TreeBuilder(), ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler, parser.EntityDeclHandler = builder.data, _refuse_entity
    parser.Parse(data, True)
    return builder.close()


def _refuse_entity(name: str, *_: Any) -> None:
    raise ValueError(f"declares the entity {name}")


class _NpyLabels:
    """A pickled dict from image id to a 0/1 vector. Keys are ids (2007_000032), their digits as an int (2007000032),
    or the digits behind the last '_' (9 for COCO_train2014_000000000009)."""

    def __init__(self, path: Path, classes: ClassList):
        self.path = path
        self.table = load_npy_dict(path)
        self.keys = {_plain(str(key)): key for key in self.table}
        self.taken: dict[str | int, str] = {}  # the id that each key has been found for
        sizes = (vector.size for vector in self.table.values() if isinstance(vector, np.ndarray))
        self.width = next(sizes, 0)
        self.columns = self._columns(classes)

    def _columns(self, classes: ClassList) -> list[int]:
        width = self.width
        if not width:
            raise UserError(f"{self.path}: holds no labels; give --labels another file")
        if width == len(VOC_NAMES) and set(classes.names) <= set(VOC_NAMES):
            return [VOC_NAMES.index(name) for name in classes.names]
        if width == len(classes):
            return list(range(width))
        raise UserError(
            f"{self.path}: vectors of {width} classes, while the class list has {len(classes)}; "
            f"give --classes all {width}, in their order, or a file without a column of the background"
        )

    def fill(self, row: UInt8Array, entry: ListEntry) -> None:
        key = next((self.keys[name] for name in _names(entry.id) if name in self.keys), None)
        if key is None:
            raise _Fault(
                "no-labels",
                self.path,
                f"holds no labels of {entry.id} (its keys are like {quoted(str(next(iter(self.table))))[1:-1]}); give "
                "--labels a file that does, or take the image off the list",
            )
        if (other := self.taken.setdefault(key, entry.id)) != entry.id:
            raise _Fault("bad-labels", self.path, f"its key {key} fits both {other} and {entry.id}; name keys by id")
        vector = self.table[key]
        if not isinstance(vector, np.ndarray) or vector.size != self.width or not np.isin(vector, (0, 1)).all():
            raise _Fault(
                "bad-labels",
                self.path,
                f"the labels of {entry.id} are not a vector of zeros and ones like the others; restore the file",
            )
        row[:] = np.ravel(vector)[self.columns]


def _plain(name: str) -> str:
    """Without its suffix, and a number without leading zeros."""
    name = image_id(name)
    return name.lstrip("0") or "0" if name.isdecimal() else name


def _names(id: str) -> list[str]:
    """What a key of the image may be: its id, its name without folders, all digits of that, those behind its last
    '_'."""
    name = id.rpartition("/")[2]
    numbers = [digits for digits in (name.replace("_", ""), name.rpartition("_")[2]) if digits.isdecimal()]
    return [id, *map(_plain, (name, *numbers))]


class _CsvLabels:
    """Rows of `image,label;label`. A row without labels is an image with none of the classes."""

    def __init__(self, path: Path, folder: Path, classes: ClassList):
        self.path = path
        columns = {name: column for column, name in enumerate(classes.names)}
        self.table: dict[str, list[int]] = {}
        lines: dict[str, int] = {}
        for item in read_csv(path, folder, columns):
            unknown = next((name for name in item.labels if name not in columns), None)
            if unknown is not None:
                remedy = (
                    "several labels are separated by ';'"
                    if _are_several(unknown, columns)
                    else f"known: {', '.join(classes.names)}; correct it, or give --classes the names of this file"
                    + ("" if lines else ", or write image,label if it is a header")
                )
                raise UserError(f"{path}, line {item.line}: unknown class {quoted(unknown)}; {remedy}")
            key = image_id(item.image)
            if key in lines:
                raise UserError(
                    f"{path}, line {item.line}: {quoted(item.image)} and the file of line {lines[key]} have the same "
                    f"id {quoted(key)}; rename one of them"
                )
            lines[key] = item.line
            self.table[key] = [columns[name] for name in item.labels]

    def fill(self, row: UInt8Array, entry: ListEntry) -> None:
        if entry.id not in self.table:
            raise _Fault("no-labels", self.path, f"has no row for {entry.id}; add it, or take the image off the list")
        row[self.table[entry.id]] = 1


def _are_several(cell: str, known: Collection[str]) -> bool:
    """Whether a cell holds known classes with another separator than ';'."""
    return any(
        mark in cell and all(part.strip(" []()'\"") in known for part in cell.split(mark)) for mark in (*",|/+&\t", " ")
    )
