"""A data set of a few small random images with masks, and CAM files for it."""

from pathlib import Path

import numpy as np
from PIL import Image

from pplfast.data.classes import ClassList
from pplfast.data.dataset import Dataset
from pplfast.data.masks import write_mask
from pplfast.labels.camfile import Cam, save_cam, stored_size

CLASSES = ClassList(("bus", "cat", "person"), (6, 8, 15))
SIZES = ((40, 53), (40, 53), (31, 44), (31, 44), (37, 29))
LABELS = np.array([[1, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 1], [0, 1, 0]], np.uint8)


def small_dataset(folder: Path) -> Dataset:
    rng = np.random.default_rng(7)
    ids = tuple(f"im{number}" for number in range(len(SIZES)))
    for name, size in zip(ids, SIZES, strict=True):
        noise = rng.integers(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3), dtype=np.uint8)
        (folder / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).resize(size[::-1], Image.BILINEAR).save(folder / "images" / f"{name}.jpg")
        mask = rng.choice(np.array([0, 6, 8, 15, 255], np.uint8), (size[0] // 8 + 1, size[1] // 8 + 1))
        write_mask(folder / "masks" / f"{name}.png", mask.repeat(8, 0).repeat(8, 1)[: size[0], : size[1]])
    return Dataset(
        "small/val",
        ids,
        tuple(folder / "images" / f"{name}.jpg" for name in ids),
        CLASSES,
        LABELS.copy(),
        tuple(folder / "masks" / f"{name}.png" for name in ids),
    )


def write_cams(folder: Path, dataset: Dataset) -> Path:
    rng = np.random.default_rng(11)
    for name, size, labels in zip(dataset.ids, SIZES, dataset.labels, strict=True):
        classes = np.flatnonzero(labels)
        maps = rng.random((len(classes), *stored_size(*size)))
        save_cam(folder / f"{name}.npz", Cam(classes, maps / maps.max((1, 2), keepdims=True), size))
    return folder
