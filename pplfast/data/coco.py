"""COCO's annotation files: which image shows which categories, and the outlines of their objects as they stand there.

instances_train2017.json has 448 MB and 860,000 annotations: numbers are kept in 8 bytes each from the moment that they
are read, and what nothing here needs is dropped at once.
"""

import os
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from pplfast.checked import Table
from pplfast.data.classes import BACKGROUND, IGNORE, ClassList, means_no_class, named_classes
from pplfast.data.names import image_id
from pplfast.errors import UserError, did_you_mean
from pplfast.files import StrPath, decode_json, read_bounded
from pplfast.reading import quoted

LARGEST_FILE = 2**34  # bytes: ten times those of any that is published
LISTS = ("images", "annotations", "categories")
REMEDY = "correct it, or export the file again"
_KEPT = ("id", "image_id", "category_id", "iscrowd", "segmentation")  # of an annotation
# Other files of the field by a key of their annotations.
_OTHER_KINDS = {"caption": "captions", "segments_info": "a panoptic segmentation"}

Id = int | str


@dataclass(frozen=True, slots=True)
class CocoImage:
    id: Id
    name: str  # file_name as written
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class CocoAnnotation:
    """One object, or a crowd of them.

    `segmentation` is not checked: only masks need it. Polygons are a list with an array("d") of x, y, x, y, ... each,
    an RLE is a dict whose `counts` are an array("q") or a text; whatever else was in the file is as it was.
    """

    id: Id
    category: int  # its id
    crowd: bool
    segmentation: Any


@dataclass(frozen=True, eq=False)
class CocoFile:
    """`categories` are in the order of their ids, `column_of[id]` is the place of each; their values in masks are these
    ids if all are from 1 to 254, else 1, 2, ... `annotations` are by image id, in the order of the file. `orphans`:
    annotations of images that the file does not have."""

    path: Path
    images: tuple[CocoImage, ...]
    categories: ClassList
    column_of: Mapping[int, int]
    annotations: Mapping[Id, tuple[CocoAnnotation, ...]]
    orphans: int

    def find(self, image_id: str) -> CocoImage | None:
        """The image of a data set's id: by its path without suffix, else by its name without folders, else by its
        number, where one of both names is nothing but that and the other ends in it: 000000000009 and
        COCO_train2014_000000000009. None where there is none, or several have that name or number."""
        return self._names.find(image_id)

    def labels(self, image: CocoImage) -> set[int]:
        """Columns of the categories that an image shows; a crowd shows its category too."""
        return {self.column_of[annotation.category] for annotation in self.annotations.get(image.id, ())}

    def columns(self, text: str) -> tuple[int, ...]:
        """Columns of categories by name or id, separated by ','; all for "". UserError for what is neither."""
        words = [word.strip() for word in text.split(",") if word.strip()]
        return tuple(dict.fromkeys(map(self._column, words))) if words else tuple(range(len(self.categories)))

    def _column(self, word: str) -> int:
        if word in self.categories.names:
            return self.categories.index(word)
        column = next((column for id, column in self.column_of.items() if str(id) == word), None)
        if column is None:
            near = did_you_mean(word, self.categories.names) or f"; it has {', '.join(self.categories.names)}"
            raise UserError(f"--classes: {quoted(word)} is neither a category of {self.path} nor the id of one{near}")
        return column

    @cached_property
    def _names(self) -> "_Names":
        return _Names(self.images)


class _Names:
    """Images by what a data set may call them; None for what several are called."""

    def __init__(self, images: Sequence[CocoImage]) -> None:
        paths = [path_id(image.name) for image in images]
        names = list(map(_bare, paths))
        self._by_path = dict(zip(paths, images))
        self._by_name = _unique(zip(names, images))
        self._by_number = _unique((_number(name), image) for name, image in zip(names, images) if name.isdecimal())
        self._by_ending = _unique((_number(name), image) for name, image in zip(names, images) if _number(name))

    def find(self, image_id: str) -> CocoImage | None:
        path = _with_slashes(image_id)
        if path in self._by_path:
            return self._by_path[path]
        name = _bare(path)
        if name in self._by_name:
            return self._by_name[name]
        return (self._by_ending if name.isdecimal() else self._by_number).get(_number(name))


def read_coco(path: StrPath) -> CocoFile:
    """Images, categories and annotations of a file like instances_val2017.json. UserError for one that is not, and for
    what a label cannot be made of; the outlines of objects are only checked when masks are made (`coco_mask`)."""
    path = Path(path)
    if not os.path.lexists(path):
        raise UserError(f"{path}: no such file; give --labels a COCO .json")
    try:
        values = decode_json(read_bounded(path, LARGEST_FILE), _slim)
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); restore it") from None
    _check_kind(values, path)
    table = Table(values, path, REMEDY)
    images = _images(table)
    names = _category_names(table)
    annotations: dict[Id, list[CocoAnnotation]] = {image.id: [] for image in images}
    used: Counter[int] = Counter()
    orphans = 0
    for place, item in enumerate(values["annotations"]):
        annotation, owner = _annotation(item, place, names, path)
        used[annotation.category] += 1
        if owner in annotations:
            annotations[owner].append(annotation)
        else:
            orphans += 1
    if orphans and orphans == used.total():
        raise UserError(
            f"{path}: none of its {orphans} annotations is of one of its images; their image_id must be an image's id"
        )
    ids = sorted(id for id, name in names.items() if used[id] or not means_no_class(name))
    return CocoFile(
        path,
        images,
        _classes([names[id] for id in ids], ids, path),
        {id: column for column, id in enumerate(ids)},
        {owner: tuple(found) for owner, found in annotations.items() if found},
        orphans,
    )


def path_id(file_name: str) -> str:
    """What a data set's id of this file is, if the folders are the same."""
    return image_id(_with_slashes(file_name))


def _slim(values: dict[str, Any]) -> dict[str, Any]:
    """An annotation without what is not needed of it; any other object as it is."""
    if "image_id" not in values or "category_id" not in values:
        return values
    kept = {key: values[key] for key in _KEPT if key in values}
    if "segmentation" in kept:
        kept["segmentation"] = _packed(kept["segmentation"])
    return kept


def _packed(segmentation: Any) -> Any:
    """The same with its numbers in 8 bytes each, where Python's lists take 32. What holds others stays as it is."""
    try:
        if isinstance(segmentation, list):
            return [array("d", polygon) for polygon in segmentation]
        if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), list):
            return {"size": segmentation.get("size"), "counts": array("q", segmentation["counts"])}
    except (TypeError, OverflowError):
        pass
    return segmentation


def _check_kind(values: Any, path: Path) -> None:
    """UserError where the file is none with instances."""
    expected = f"expected an object with the lists {', '.join(LISTS)}, like instances_val2017.json"
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a COCO file of instances, but a {type(values).__name__}; {expected}")
    annotations = values.get("annotations")
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    for key, kind in _OTHER_KINDS.items():
        if isinstance(first, dict) and key in first:
            raise UserError(f"{path}: a COCO file of {kind}, not of instances; {expected}")
    missing = [key for key in LISTS if not isinstance(values.get(key), list)]
    if missing:
        raise UserError(
            f"{path}: not a COCO file of instances: has no list {' and no list '.join(missing)}; {expected}"
        )


def _images(table: Table) -> tuple[CocoImage, ...]:
    images: list[CocoImage] = []
    ids: set[Id] = set()
    paths: set[str] = set()
    for item in table.tables("images"):
        image = CocoImage(_id(item), item.text("file_name"), item.whole("height", 1), item.whole("width", 1))
        try:
            path = path_id(image.name)
        except UnicodeEncodeError:  # half of a surrogate pair
            raise item.wrong("file_name", "a name that a file can have") from None
        if image.id in ids:
            raise item.wrong("id", "of no other image")
        if path in paths:
            raise item.wrong("file_name", "of no other image, also without its suffix: outputs are named by it")
        ids.add(image.id)
        paths.add(path)
        images.append(image)
    return tuple(images)


def _id(item: Table) -> Id:
    value = item.raw("id")
    if not _is_id(value):
        raise item.wrong("id", "a whole number or a text")
    return value


def _is_id(value: object) -> TypeGuard[Id]:
    return isinstance(value, str) or _is_number(value)


def _is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _category_names(table: Table) -> dict[int, str]:
    """By id, each without what separates names elsewhere and what does not print."""
    names: dict[int, str] = {}
    for item in table.tables("categories"):
        id = item.raw("id")
        if not _is_number(id):
            raise item.wrong("id", "a whole number")
        if id in names:
            raise item.wrong("id", "of no other category")
        text = item.text("name")
        names[id] = " ".join("".join(c if c.isprintable() and c not in ",;=" else " " for c in text).split())
    if not names:
        raise table.wrong("categories", "a list of at least one")
    return names


def _classes(names: Sequence[str], ids: Sequence[int], path: Path) -> ClassList:
    checked = named_classes(names, f"{path}: categories")
    fit = all(BACKGROUND < id < IGNORE for id in ids)
    return ClassList(checked.names, tuple(ids) if fit else tuple(range(1, len(ids) + 1)))


def _annotation(item: Any, place: int, names: Mapping[int, str], path: Path) -> tuple[CocoAnnotation, Id]:
    """With the id of its image. Plain tests: there may be a million of them."""
    if not isinstance(item, dict):
        raise UserError(f"{path}: annotations[{place}] is a {type(item).__name__}, and must be an object; {REMEDY}")
    id, owner, category = item.get("id"), item.get("image_id"), item.get("category_id")
    crowd = item.get("iscrowd", 0)
    if not _is_id(id):
        wrong = "id", "a whole number or a text"
    elif not _is_id(owner):
        wrong = "image_id", "a whole number or a text"
    elif not _is_number(category) or category not in names:
        wrong = "category_id", "the id of one of its categories"
    elif crowd not in (0, 1):
        wrong = "iscrowd", "0 or 1"
    else:
        return CocoAnnotation(id, category, bool(crowd), item.get("segmentation")), owner
    raise Table(item, path, REMEDY, f"annotations[{place}].").wrong(*wrong)


def _unique(named: Iterable[tuple[str, CocoImage]]) -> dict[str, CocoImage | None]:
    """None for what several images are called."""
    found: dict[str, CocoImage | None] = {}
    for name, image in named:
        found[name] = None if name in found else image
    return found


def _with_slashes(path: str) -> str:
    return path.replace("\\", "/")  # as Windows writes folders


def _bare(path: str) -> str:
    return path.rpartition("/")[2]


def _number(name: str) -> str:
    """The digits that a name ends in, of which it consists or which stand behind its last '_', without leading zeros;
    "" where it has none."""
    digits = name.rpartition("_")[2]
    return (digits.lstrip("0") or "0") if digits.isdecimal() else ""
