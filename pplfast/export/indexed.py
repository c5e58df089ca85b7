"""Label PNGs without a palette: grey, whose pixels are the class values in every reader, and in colours."""

import csv
import json
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pplfast.arrays import UInt8Array
from pplfast.data.classes import BACKGROUND, IGNORE, ClassList
from pplfast.data.masks import SUFFIX, voc_palette
from pplfast.export.format import Format, LabelledImage

CLASSES_FILE = "classes.json"
COLOURS_FILE = "colours.csv"


class Grey(Format):
    """`<id>.png`, 8-bit grey: 0 background, the class values, 255 unsure. `classes.json`: names and values.

    The label PNGs of pplfast have a palette, as VOC's have. Who reads such a PNG in grey, as
    `cv2.imread(path, cv2.IMREAD_GRAYSCALE)` does (https://docs.opencv.org/4.x/d4/da8/group__imgcodecs.html), gets the
    luma of the colours: class 1 becomes 38. Of these files every reader gets the values.
    """

    name = "grey"
    tool = "8-bit grey PNG of the class values, for OpenCV and all that reads with it"
    read_with = "cv2.imread('{out}/ID.png', cv2.IMREAD_GRAYSCALE)"

    def convert(self, item: LabelledImage) -> None:
        write_png(self.target.out / f"{item.id}{SUFFIX}", item.labels())

    def write(self, converted: Iterable[tuple[LabelledImage, Any]]) -> None:
        deque(converted, maxlen=0)
        write_classes(self.target.out / CLASSES_FILE, self.target.classes)


class Colour(Format):
    """`<id>.png`, RGB in the colours that VOC has for the class values. `colours.csv`: name, value, r, g, b.

    The colours are those of VOC's development kit
    (http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html): (0, 0, 0) background, (224, 224, 192)
    for 255.
    """

    name = "colour"
    tool = "RGB PNG in VOC's colours, to look at and for tools that tell classes by colour"
    read_with = "PIL.Image.open('{out}/ID.png')"

    def convert(self, item: LabelledImage) -> None:
        write_png(self.target.out / f"{item.id}{SUFFIX}", colours()[item.labels()])

    def write(self, converted: Iterable[tuple[LabelledImage, Any]]) -> None:
        deque(converted, maxlen=0)
        with open(self.target.out / COLOURS_FILE, "w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(("name", "value", "r", "g", "b"))
            for name, value in named_values(self.target.classes).items():
                table.writerow((name, value, *colours()[value].tolist()))


def colours() -> UInt8Array:
    """uint8 (256, 3): VOC's RGB colours by value."""
    return np.frombuffer(voc_palette(), np.uint8).reshape(256, 3)


def named_values(classes: ClassList) -> dict[str, int]:
    """All that a label PNG can hold: the background, the classes in their order, and "ignore" for 255."""
    return {"background": BACKGROUND, **dict(zip(classes.names, classes.ids, strict=True)), "ignore": IGNORE}


def write_png(place: Path, pixels: UInt8Array) -> None:
    """uint8 (H, W) as grey, (H, W, 3) as RGB. Raises OSError."""
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(place, format="PNG")


def write_classes(place: Path, classes: ClassList) -> None:
    """`named_values` as a JSON object. Raises OSError."""
    place.write_text(json.dumps(named_values(classes), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
