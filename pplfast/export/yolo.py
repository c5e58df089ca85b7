"""Ultralytics YOLO, instance segmentation."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import yaml

from pplfast.errors import UserError
from pplfast.export.format import Format, LabelledImage
from pplfast.export.images import put_image, suffix_of
from pplfast.export.indexed import CLASSES_FILE, write_classes
from pplfast.export.regions import Region, regions

IMAGES, LABELS = "images", "labels"
DATA_FILE = "data.yaml"
# That Ultralytics takes; JPEGs under other names get the first.
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".jp2")
JPEG_SUFFIXES = (".jpe", ".jfif")
MIDDLE = 0.5  # of a pixel
DIGITS = 7  # that count: less than a tenth of a pixel, however large the image


class Yolo(Format):
    """`images/<id>.jpg`, `labels/<id>.txt` and `data.yaml`, as https://docs.ultralytics.com/datasets/segment/ has it,
    with `classes.json`: the values that the classes have in pplfast's labels.

    A line is a connected region (8 neighbours): the class, counted from 0, then x and y of its outline as parts of the
    image's width and height. The outline runs through the middles of the region's outermost pixels, (column + 0.5) /
    width: Ultralytics multiplies, cuts off to whole pixels and fills with cv2.fillPoly, which paints the outline too.
    Holes are reached by a cut, as a line has one outline. An image without any region has an empty file, which
    Ultralytics takes for background. `train` and `val` both name all images: Ultralytics wants both.
    """

    name = "yolo"
    tool = "Ultralytics YOLO segmentation: images, outlines as text, data.yaml"
    needs = ("cv2",)
    has_images = True
    unsure = "background"
    read_with = "yolo segment train model=yolo11n-seg.pt data={out}/data.yaml"

    def convert(self, item: LabelledImage) -> int:
        """How many regions there are."""
        suffix = suffix_of(item)
        suffix = SUFFIXES[0] if suffix.lower() in JPEG_SUFFIXES else suffix
        if suffix.lower() not in SUFFIXES:
            raise UserError(f"{item.image}: Ultralytics reads no {suffix or 'image without a suffix'}; save it as PNG")
        labels = item.labels()
        lines = [
            _line(number, region, labels.shape)
            for number, value in enumerate(self.target.classes.ids)
            for region in regions(labels, value)
        ]
        image = self.target.out / IMAGES / f"{item.id}{suffix}"
        text = label_place(image)
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
        put_image(item, image, self.target.link)
        return len(lines)

    def write(self, converted: Iterable[tuple[LabelledImage, int]]) -> None:
        for _ in converted:
            pass
        names = dict(enumerate(self.target.classes.names))
        # Without `path`, it is the folder of this file: the whole can be moved.
        data = yaml.safe_dump({"train": IMAGES, "val": IMAGES, "names": names}, allow_unicode=True, sort_keys=False)
        (self.target.out / DATA_FILE).write_text(data, encoding="utf-8")
        write_classes(self.target.out / CLASSES_FILE, self.target.classes)

    def regions(self, converted: int) -> int:
        return converted


def label_place(image: Path) -> Path:
    """Where Ultralytics looks for an image's text: in place of the last folder called images, labels."""
    head, _, tail = image.as_posix().rpartition(f"/{IMAGES}/")
    return Path(f"{head}/{LABELS}/{tail}").with_suffix(".txt")


def _line(number: int, region: Region, shape: tuple[int, ...]) -> str:
    """number: of the class. shape: of the image, height and width."""
    points = (region.polygon(corners=False) + MIDDLE) / (shape[1], shape[0])
    return f"{number} {' '.join(f'{value:.{DIGITS}g}' for value in np.ravel(points))}"
