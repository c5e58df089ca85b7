"""Images with label PNGs, and an export of them without processes."""

from pathlib import Path

import numpy as np
from PIL import Image

from pplfast.data.classes import ClassList
from pplfast.export.format import LabelledImage, Target

CLASSES = ClassList(("cat", "Zelle <rund> & 'groß'", "ネジ"), (8, 12, 40))
BACKGROUND, UNSURE = 0, 255


def label_maps():
    """By id: a ring around a region, regions that touch at a corner, unsure pixels, a full column; no region; noise."""
    objects = np.zeros((30, 41), np.uint8)
    objects[2:20, 3:25] = 8
    objects[6:15, 7:20] = BACKGROUND
    objects[8:12, 9:14] = 12
    objects[20:24, 25:30] = 8
    objects[25:, :6] = UNSURE
    objects[:, 37:39] = 40
    noise = np.random.default_rng(0).choice(np.array([0, 0, 8, 12, 40, 255], np.uint8), (23, 17))
    return {"a b/one #1": objects, "a b/none": np.zeros((9, 12), np.uint8), "zwölf": noise}


def write_labelled(folder: Path):
    """The images (JPEG and PNG) and labels as files, as items of an export."""
    items = []
    for number, (name, labels) in enumerate(label_maps().items()):
        image = folder / "images" / f"{name}{'.JPG' if number == 0 else '.png'}"
        label = folder / "labels" / f"{name}.png"
        for path, pixels in ((image, np.full((*labels.shape, 3), 40 * number, np.uint8)), (label, labels)):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        items.append(LabelledImage(number, name, image, label))
    return items


def export(kind, out: Path, items):
    """All items in the format, in the new folder `out`."""
    out.mkdir()
    made = kind(Target(out, CLASSES, "photos/val"))
    made.write((item, made.convert(item)) for item in items)
    return made


def sure(labels):
    """With background where a label is unsure."""
    return np.where(labels == UNSURE, np.uint8(BACKGROUND), labels)
