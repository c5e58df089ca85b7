"""The labels of a data set in VOC's layout, written in every other layout that pplfast reads them from."""

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pplfast.data.classes import ClassList
from pplfast.data.dataset import DataConfig, Dataset
from pplfast.data.images import BadImage, inspect_image
from pplfast.data.xml_labels import parse_xml
from pplfast.errors import UserError

ANNOTATIONS = "Annotations"


@dataclass(frozen=True)
class Thing:
    """An object of an annotation: its box in pixels, from 0, the right and the lower edge excluded."""

    name: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Photo:
    name: str  # bare, with the suffix
    path: Path
    width: int
    height: int
    things: tuple[Thing, ...]
    classes: tuple[str, ...]  # those of the data set that it shows


def bare_name(id: str) -> str:
    """The name of an image without folders; of a layout that puts it into others, too."""
    return id.rpartition("/")[2]


def option(classes: ClassList) -> str:
    """As --classes takes it: "cat=1,dog=2"."""
    return ",".join(f"{name}={value}" for name, value in zip(classes.names, classes.ids, strict=True))


def shown_classes(dataset: Dataset) -> list[tuple[str, ...]]:
    """The names of each image's classes."""
    return [tuple(dataset.classes.names[column] for column in np.flatnonzero(row)) for row in dataset.known_labels]


def read_photos(dataset: Dataset, root: Path) -> list[Photo]:
    """All objects of their annotations, also of other classes. UserError for what cannot be read."""
    found = []
    for id, path, classes in zip(dataset.ids, dataset.image_files, shown_classes(dataset), strict=True):
        try:
            info = inspect_image(path)
        except BadImage as error:
            raise UserError(f"{path}: {error}") from None
        things = _things(root / ANNOTATIONS / f"{id}.xml")
        found.append(Photo(f"{bare_name(id)}{path.suffix}", path, info.width, info.height, things, classes))
    return found


def _things(path: Path) -> tuple[Thing, ...]:
    """VOC's boxes count pixels from 1, and include their last row and column."""
    try:
        objects = parse_xml(path.read_bytes()).findall("object")
        boxes = [[float(thing.findtext(f"bndbox/{side}") or "") for side in _SIDES] for thing in objects]
    except (OSError, ValueError) as error:  # its labels have been read, so that it is XML
        raise UserError(f"{path}: has no boxes ({error}); restore it") from None
    return tuple(
        Thing((thing.findtext("name") or "").strip(), left - 1, top - 1, right, bottom)
        for thing, (left, top, right, bottom) in zip(objects, boxes, strict=True)
    )


_SIDES = ("xmin", "ymin", "xmax", "ymax")


def write_table(folder: Path, names: Sequence[str], dataset: Dataset) -> None:
    """labels.csv. names: of the images' files, in the order of the data set."""
    with open(folder / "labels.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("image", "labels"))
        table.writerows((name, ";".join(classes)) for name, classes in zip(names, shown_classes(dataset), strict=True))


def _table(photos: Sequence[Photo], dataset: Dataset, folder: Path) -> Path:
    _copy(photos, folder)
    write_table(folder, [photo.name for photo in photos], dataset)
    return folder


def _folders(photos: Sequence[Photo], dataset: Dataset, folder: Path) -> Path:
    """An image with several labels lies in the folder of each."""
    for photo in photos:
        for name in photo.classes or ("background",):
            _copy([photo], folder / name)
    return folder


def _coco(photos: Sequence[Photo], dataset: Dataset, folder: Path) -> Path:
    """As COCO is unpacked: a folder of images, and one of annotations beside it."""
    _copy(photos, folder / "val2017")
    names = _all_names(photos, dataset)
    annotations = [
        {
            "id": number,
            "image_id": image,
            "category_id": 1 + names.index(thing.name),
            "iscrowd": 0,
            "bbox": [thing.left, thing.top, thing.right - thing.left, thing.bottom - thing.top],
            "area": (thing.right - thing.left) * (thing.bottom - thing.top),
            "segmentation": [
                [thing.left, thing.top, thing.right, thing.top, thing.right, thing.bottom, thing.left, thing.bottom]
            ],
        }
        for number, (image, thing) in enumerate(
            ((image, thing) for image, photo in enumerate(photos, 1) for thing in photo.things), 1
        )
    ]
    content = {
        "images": [
            {"id": image, "file_name": photo.name, "width": photo.width, "height": photo.height}
            for image, photo in enumerate(photos, 1)
        ],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
    }
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(content), encoding="utf-8")
    return folder / "val2017"


def _yolo(photos: Sequence[Photo], dataset: Dataset, folder: Path) -> Path:
    _copy(photos, folder / "images")
    (folder / "labels").mkdir()
    names = _all_names(photos, dataset)
    for photo in photos:
        lines = [
            f"{names.index(thing.name)} {(thing.left + thing.right) / 2 / photo.width:.6f} "
            f"{(thing.top + thing.bottom) / 2 / photo.height:.6f} "
            f"{(thing.right - thing.left) / photo.width:.6f} {(thing.bottom - thing.top) / photo.height:.6f}\n"
            for thing in photo.things
        ]
        (folder / "labels" / photo.name).with_suffix(".txt").write_text("".join(lines), encoding="utf-8")
    (folder / "data.yaml").write_text(f"train: images\nval: images\nnames: {json.dumps(names)}\n", encoding="utf-8")
    return folder


def _all_names(photos: Sequence[Photo], dataset: Dataset) -> list[str]:
    """Of all objects, also of other classes than the data set's: the first are those."""
    others = {thing.name for photo in photos for thing in photo.things} - set(dataset.classes.names)
    return [*dataset.classes.names, *sorted(others)]


def _copy(photos: Sequence[Photo], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for photo in photos:
        shutil.copyfile(photo.path, folder / photo.name)


# What writes a layout into an empty folder, and returns what --data is to be.
LAYOUTS: dict[str, Callable[[Sequence[Photo], Dataset, Path], Path]] = {
    "CSV": _table,
    "folder per class": _folders,
    "COCO": _coco,
    "YOLO": _yolo,
}


def write_layout(layout: str, photos: Sequence[Photo], dataset: Dataset, folder: Path) -> DataConfig:
    """The data set as a command without --labels opens it."""
    return DataConfig(str(LAYOUTS[layout](photos, dataset, folder)), classes=option(dataset.classes))
