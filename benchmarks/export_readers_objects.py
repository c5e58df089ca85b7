"""Exports of objects read back by the tools' own libraries, with nothing of `pplfast.export`.

A reader takes the folder of an export, and yields the id of each image and its label map, uint8 (H, W), in the values
of the label PNGs. The libraries are imported when one is used.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote

import numpy as np
from PIL import Image

from pplfast.arrays import UInt8Array

Labels = Iterator[tuple[str, UInt8Array]]
ALPHA = 3  # of Label Studio's RGBA masks: what the brush has painted


def read_coco(folder: Path) -> Labels:
    """By pycocotools, both of run-length encodings and of polygons."""
    return _coco_labels(folder / "instances.json", None)


def _coco_labels(file: Path, values: dict[str, int] | None) -> Labels:
    """values: by the names of the categories; None: their ids."""
    from pycocotools.coco import COCO

    with open(os.devnull, "w") as quiet, redirect_stdout(quiet):
        coco = COCO(str(file))
    value_of = {number: values[found["name"]] if values else number for number, found in coco.cats.items()}
    for number in coco.getImgIds():
        [image] = coco.loadImgs(number)
        labels = np.zeros((image["height"], image["width"]), np.uint8)
        for annotation in coco.loadAnns(coco.getAnnIds(number)):
            labels[coco.annToMask(annotation) > 0] = value_of[annotation["category_id"]]
        yield os.path.splitext(image["file_name"])[0], labels


def read_brush(folder: Path) -> Labels:
    """By label_studio_sdk's converter of the brush."""
    from label_studio_sdk.converter.brush import decode_rle

    values = _values(folder)
    for task in _tasks(folder):
        width, height = _image_size(task)
        labels = np.zeros((height, width), np.uint8)
        for result in _results(task):
            value = result["value"]
            painted = decode_rle(value["rle"]).reshape(height, width, -1)[..., ALPHA] > 0
            labels[painted] = values[value["brushlabels"][0]]
        yield task["data"]["id"], labels


def read_studio_polygons(folder: Path) -> Labels:
    """By label_studio_sdk's converter to COCO, of predictions that somebody has accepted, and pycocotools."""
    from label_studio_sdk.converter import Converter

    tasks = [*_tasks(folder)]
    for number, task in enumerate(tasks):
        task["id"] = number
        task["annotations"] = [{"id": number, "completed_by": 1, "result": _results(task)}]
        task["data"]["image"] = _image_file(task)
    with TemporaryDirectory() as temporary:
        file = Path(temporary) / "tasks.json"
        file.write_text(json.dumps(tasks), encoding="utf-8")
        converter = Converter(str(folder / "labels.xml"), temporary, download_resources=False)
        converter.convert_to_coco(str(file), temporary, temporary, is_dir=False)
        for task, (_, labels) in zip(
            tasks, _coco_labels(Path(temporary) / "result.json", _values(folder)), strict=True
        ):
            yield task["data"]["id"], labels


def _values(folder: Path) -> dict[str, int]:
    values: dict[str, int] = json.loads((folder / "classes.json").read_bytes())
    return values


def _tasks(folder: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.glob("tasks-*.json")):
        yield from json.loads(file.read_bytes())


def _results(task: dict[str, Any]) -> list[dict[str, Any]]:
    return [result for prediction in task["predictions"] for result in prediction["result"]]


def _image_file(task: dict[str, Any]) -> str:
    """As Label Studio finds it, with / for the document root."""
    return "/" + unquote(task["data"]["image"].partition("?d=")[2], errors="surrogateescape")


def _image_size(task: dict[str, Any]) -> tuple[int, int]:
    with Image.open(_image_file(task)) as image:
        return image.size


def read_hugging_face(folder: Path) -> Labels:
    """By datasets."""
    from datasets import load_dataset

    with TemporaryDirectory() as temporary:
        for row in load_dataset(str(folder), split="train", cache_dir=temporary):
            yield row["id"], np.array(row["label"])


def read_fiftyone(folder: Path) -> Labels:
    """By fiftyone, which needs its database."""
    import fiftyone

    dataset = fiftyone.Dataset.from_dir(str(folder), dataset_type=fiftyone.types.FiftyOneDataset)
    masks = folder.absolute() / "fields" / "labels"
    for sample in dataset:
        name = Path(sample["labels"].mask_path).relative_to(masks).with_suffix("")
        yield str(name), sample["labels"].get_mask()


READERS: dict[str, Callable[[Path], Labels]] = {
    "coco": read_coco,
    "coco-polygons": read_coco,
    "label-studio": read_brush,
    "label-studio-polygons": read_studio_polygons,
    "hugging-face": read_hugging_face,
    "fiftyone": read_fiftyone,
}
# The package that reads each.
TOOLS: dict[str, str] = {
    "coco": "pycocotools",
    "coco-polygons": "pycocotools",
    "label-studio": "label-studio-sdk",
    "label-studio-polygons": "label-studio-sdk",
    "hugging-face": "datasets",
    "fiftyone": "fiftyone",
}
