"""Exports read back by the tools that they are for, without any code of pplfast/export: id and label map, uint8 (H, W)
in the values of the label PNGs.

Where a tool's own loader cannot be installed beside this PyTorch (mmcv needs a build for each), what it calls is
called: MMSegmentation's LoadAnnotations takes the pixels as Pillow decodes them.
"""

import csv
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pplfast.arrays import UInt8Array

Maps = Iterator[tuple[str, UInt8Array]]
Reader = Callable[[Path], Maps]


def read_grey(out: Path) -> Maps:
    import cv2

    for file in sorted(out.rglob("*.png")):
        yield _id(file, out), np.asarray(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE), np.uint8)


def read_colour(out: Path) -> Maps:
    import cv2

    with open(out / "colours.csv", encoding="utf-8", newline="") as file:
        values = {
            (int(row["r"]) << 16) + (int(row["g"]) << 8) + int(row["b"]): int(row["value"])
            for row in csv.DictReader(file)
        }
    for picture in sorted(out.rglob("*.png")):
        pixels = cv2.cvtColor(cv2.imread(str(picture)), cv2.COLOR_BGR2RGB).astype(np.int64)
        codes, places = np.unique((pixels[..., 0] << 16) + (pixels[..., 1] << 8) + pixels[..., 2], return_inverse=True)
        named = np.array([values[code] for code in codes.tolist()], np.uint8)
        yield _id(picture, out), named[places].reshape(pixels.shape[:2])


def read_mmseg(out: Path) -> Maps:
    """By mmengine's Config. The palette says which value each class has in VOC's colours."""
    from mmengine import Config

    config = Config.fromfile(str(out / "dataset_config.py"))
    dataset = config.dataset
    for part in dataset.get("datasets", [dataset]):
        assert part.type == "mmseg.BaseSegDataset" and part.metainfo.classes[0] == "background"
        assert not part.reduce_zero_label
        table = np.full(256, part.ignore_index, np.uint8)
        table[: len(part.metainfo.palette)] = [_voc_value(*colour) for colour in part.metainfo.palette]
        images = Path(part.data_root, part.data_prefix.img_path)
        for image in sorted(images.rglob(f"*{part.img_suffix}")):
            name = image.relative_to(images).as_posix().removesuffix(part.img_suffix)
            with Image.open(Path(part.data_root, part.data_prefix.seg_map_path, name + part.seg_map_suffix)) as picture:
                labels = np.array(picture)
            with Image.open(image) as picture:
                assert picture.size == labels.shape[::-1], name
            yield name, table[labels]


def read_yolo(out: Path) -> Maps:
    """By the functions with which Ultralytics checks a data set and paints its masks. Outlines in the order of the
    file: none lies over another."""
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.gettempdir())
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")  # it would install what it finds missing
    from ultralytics.data.utils import (
        IMG_FORMATS,
        check_det_dataset,
        img2label_paths,
        polygons2masks,
        verify_image_label,
    )

    data = check_det_dataset(str(out / "data.yaml"), autodownload=False)
    by_name = json.loads((out / "classes.json").read_text(encoding="utf-8"))
    values = [by_name[name] for _, name in sorted(data["names"].items())]
    folder = Path(data["train"])
    files = sorted(file for file in folder.rglob("*.*") if file.suffix[1:].lower() in IMG_FORMATS)
    for file, text in zip(files, img2label_paths([str(file) for file in files]), strict=True):
        found = verify_image_label((str(file), text, "", False, data["nc"], 0, 0, False))
        _, boxes, shape, segments, _, missing, _, _, corrupt, message = found
        assert not missing and not corrupt, message
        labels = np.zeros(shape, np.uint8)
        sized = [segment * (shape[1], shape[0]) for segment in segments]
        for row, mask in zip(boxes, polygons2masks(shape, sized, 1) if sized else (), strict=True):
            labels[mask == 1] = values[int(row[0])]
        yield _id(file, folder), labels


def read_cvat(out: Path) -> Maps:
    """By Datumaro, which reads the archive for CVAT: each object of an image is a mask with a label."""
    from datumaro import Dataset
    from datumaro.components.annotation import AnnotationType

    by_name = json.loads((out / "classes.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as place:
        with zipfile.ZipFile(out / "cvat.zip") as archive:
            archive.extractall(place)
        dataset = Dataset.import_from(place, "voc_segmentation")
        names = [label.name for label in dataset.categories()[AnnotationType.label]]
        sizes = {}
        for file in Path(place, "SegmentationClass").rglob("*.png"):
            with Image.open(file) as picture:
                sizes[_id(file, Path(place, "SegmentationClass"))] = picture.size[::-1]
        for item in dataset:
            labels = np.zeros(sizes[item.id], np.uint8)
            for mask in item.annotations:
                labels[np.asarray(mask.image, bool)] = by_name[names[mask.label]]
            yield item.id, labels


READERS: dict[str, Reader] = {
    "grey": read_grey,
    "colour": read_colour,
    "mmseg": read_mmseg,
    "yolo": read_yolo,
    "cvat": read_cvat,
}
# The packages that read each, for their versions.
TOOLS: dict[str, str] = {
    "grey": "opencv-python-headless",
    "colour": "opencv-python-headless",
    "mmseg": "mmengine",
    "yolo": "ultralytics",
    "cvat": "datumaro",
}


def _id(file: Path, folder: Path) -> str:
    return file.relative_to(folder).with_suffix("").as_posix()


def _voc_value(*colour: Any) -> int:
    """The class value of one of VOC's colours: bit 7 - b of channel c is bit 3 b + c of the value."""
    return sum(((part >> (7 - bit)) & 1) << (3 * bit + c) for c, part in enumerate(colour) for bit in range(8))
