"""The same labels from every layout, and masks of random COCO outlines against those of pycocotools."""

import contextlib
import importlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pplfast.arrays import BoolArray, UInt8Array
from pplfast.benchmarks.layout_files import LAYOUTS, Photo, bare_name, shown_classes, write_layout
from pplfast.data.classes import IGNORE
from pplfast.data.coco import read_coco
from pplfast.data.coco_masks import coco_mask
from pplfast.data.dataset import Dataset, open_dataset

TOOLS = "pycocotools"
CATEGORIES = ("one", "two", "three")
OBJECTS, POLYGONS, CORNERS = (2, 7), (1, 4), (3, 12)  # from, and up to without the second
BEYOND = 0.1  # of a side: how far outlines go beyond the image
BLOCK = 16  # pixels on a side of the squares that run-length encodings are made of


@dataclass(frozen=True)
class LayoutResult:
    layout: str
    labelled_by: str  # as pplfast says it
    images: int
    labels: dict[str, int]  # images of each class
    equal: bool  # to the objects of the XML


def compare_layouts(dataset: Dataset, photos: Sequence[Photo], folder: Path) -> list[LayoutResult]:
    """The data set as VOC, and what is read of it from each other layout, written into `folder`; each against the
    objects of the XML. photos: of `read_photos`."""
    expected = {
        bare_name(id): {thing.name for thing in photo.things} & set(dataset.classes.names)
        for id, photo in zip(dataset.ids, photos, strict=True)
    }
    found = [_result("VOC", dataset, expected)]
    for number, layout in enumerate(LAYOUTS):
        place = folder / f"layout{number}"
        place.mkdir(parents=True)
        found.append(_result(layout, open_dataset(write_layout(layout, photos, dataset, place)), expected))
    return found


def _result(layout: str, dataset: Dataset, expected: dict[str, set[str]]) -> LayoutResult:
    """expected: the classes of each image, by its name without folders."""
    counts = dataset.known_labels.sum(axis=0, dtype=np.int64)
    shown = zip(dataset.ids, shown_classes(dataset), strict=True)
    return LayoutResult(
        layout,
        dataset.labelled_by,
        len(dataset),
        {name: int(count) for name, count in zip(dataset.classes.names, counts, strict=True)},
        len(dataset) == len(expected) and {bare_name(id): set(classes) for id, classes in shown} == expected,
    )


def compare_masks(photos: Sequence[Photo], folder: Path, seed: int = 0) -> tuple[int, int] | None:
    """How many of the photos' masks equal those of pycocotools, and of how many; None where that is not installed.

    The outlines are random, polygons and run-length encodings of both kinds, single objects and crowds.
    """
    try:
        coding, tools = (importlib.import_module(f"{TOOLS}.{name}") for name in ("mask", "coco"))
    except ImportError:
        return None
    path = folder / "instances.json"
    path.write_text(json.dumps(_content(photos, coding, np.random.default_rng(seed))), encoding="utf-8")
    file = read_coco(path)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = tools.COCO(str(path))
    equal = [np.array_equal(coco_mask(file, image), _mask_of_tools(theirs, image.id)) for image in file.images]
    return sum(equal), len(equal)


def _content(photos: Sequence[Photo], coding: Any, rng: np.random.Generator) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image, photo in enumerate(photos, 1):
        for _ in range(rng.integers(*OBJECTS)):
            kind = rng.choice(("polygons", "counts", "text", "crowd"))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(rng.integers(len(CATEGORIES))) + 1,
                    "iscrowd": int(kind == "crowd"),
                    "segmentation": _segmentation(str(kind), photo.height, photo.width, coding, rng),
                }
            )
    return {
        "images": [
            {"id": image, "file_name": photo.name, "width": photo.width, "height": photo.height}
            for image, photo in enumerate(photos, 1)
        ],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(CATEGORIES, 1)],
    }


def _segmentation(kind: str, height: int, width: int, coding: Any, rng: np.random.Generator) -> Any:
    if kind == "polygons":
        return [_polygon(height, width, rng) for _ in range(rng.integers(*POLYGONS))]
    coarse = rng.random((height // BLOCK + 1, width // BLOCK + 1)) < 0.3
    covered = coarse.repeat(BLOCK, 0).repeat(BLOCK, 1)[:height, :width]
    if kind == "text":
        return _compressed(covered, coding)
    changes = np.flatnonzero(np.diff(covered.T.ravel(), prepend=False))
    return {"size": [height, width], "counts": np.diff(changes, prepend=0, append=covered.size).tolist()}


def _polygon(height: int, width: int, rng: np.random.Generator) -> list[float]:
    """x, y, x, y, ... in hundredths of a pixel, as COCO's."""
    corners = rng.random((rng.integers(*CORNERS), 2)) * (1 + 2 * BEYOND) - BEYOND
    outline: list[float] = (corners * (width, height)).round(2).ravel().tolist()
    return outline


def _compressed(covered: BoolArray, coding: Any) -> dict[str, Any]:
    encoded: dict[str, Any] = coding.encode(np.asfortranarray(covered.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}


def _mask_of_tools(tools: Any, image: int | str) -> UInt8Array:
    """uint8 (H, W): crowds below all objects, and of two objects the smaller one on top."""
    size = tools.imgs[image]
    mask = np.zeros((size["height"], size["width"]), np.uint8)
    drawn = [(note, tools.annToMask(note).astype(bool)) for note in tools.loadAnns(tools.getAnnIds(imgIds=[image]))]
    for note, inside in sorted(drawn, key=lambda one: (not one[0]["iscrowd"], -int(one[1].sum()))):
        mask[inside] = IGNORE if note["iscrowd"] else note["category_id"]
    return mask
