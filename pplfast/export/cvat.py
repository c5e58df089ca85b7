"""CVAT."""

import io
import json
import zipfile
from collections.abc import Iterable

import numpy as np
from PIL import Image

from pplfast.arrays import UInt8Array
from pplfast.data.classes import BACKGROUND, IGNORE
from pplfast.data.masks import SUFFIX
from pplfast.errors import UserError
from pplfast.export.format import Format, LabelledImage, Target
from pplfast.export.indexed import CLASSES_FILE, colours, write_classes
from pplfast.export.regions import regions

ARCHIVE, LABELS_FILE = "cvat.zip", "labels.json"
MOST_REGIONS = 255  # of an image: there are no more colours
Converted = tuple[bytes, bytes, int]


class Cvat(Format):
    """`cvat.zip`, which CVAT takes as "Segmentation mask 1.1" into a task that has the images
    (https://docs.cvat.ai/docs/dataset_management/formats/format-smask), and `labels.json`, the labels for the "Raw" tab
    of that task; `classes.json`: the values that the classes have in pplfast's labels.

    In the archive `labelmap.txt` (name:r,g,b::), `ImageSets/Segmentation/default.txt`, and of each image an RGB PNG in
    `SegmentationClass`, in VOC's colours, and one in `SegmentationObject`: a colour for each connected region (8
    neighbours), of which CVAT makes a mask each. CVAT knows 255 colours of objects: where an image has more regions,
    all those of a class are one mask.
    """

    name = "cvat"
    tool = "CVAT, and what reads VOC's segmentation: a zip with labelmap.txt"
    needs = ("cv2",)
    unsure = "background"
    read_with = 'cvat-cli task import-dataset --format "Segmentation mask 1.1" TASK {out}/cvat.zip'

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        bad = next((name for name in target.classes.names if ":" in name or name.startswith("#")), None)
        if bad is not None:
            raise UserError(f"class {bad!r}: CVAT's labelmap.txt has no room for ':' and a '#' at the start; rename it")

    def convert(self, item: LabelledImage) -> Converted:
        """The PNGs of classes and of objects, and how many masks CVAT makes of them."""
        labels = item.labels()
        labels = np.where(labels == IGNORE, np.uint8(BACKGROUND), labels)
        objects = np.zeros(labels.shape, np.uint8)
        by_class = np.zeros(labels.shape, np.uint8)
        count = 0
        for number, value in enumerate(self.target.classes.ids, 1):
            by_class[labels == value] = number
            for region in regions(labels, value):
                count += 1
                x, y, width, height = region.box
                objects[y : y + height, x : x + width][region.mask] = min(count, MOST_REGIONS)
        if count > MOST_REGIONS:
            objects, count = by_class, int(np.count_nonzero(np.unique(by_class)))
        return _png(labels), _png(objects), count

    def write(self, converted: Iterable[tuple[LabelledImage, Converted]]) -> None:
        classes, ids = self.target.classes, list[str]()
        with zipfile.ZipFile(self.target.out / ARCHIVE, "w", zipfile.ZIP_STORED) as archive:  # PNGs grow no smaller
            for item, (labels, objects, _) in converted:
                ids.append(item.id)
                archive.writestr(f"SegmentationClass/{item.id}{SUFFIX}", labels)
                archive.writestr(f"SegmentationObject/{item.id}{SUFFIX}", objects)
            archive.writestr("ImageSets/Segmentation/default.txt", "".join(f"{name}\n" for name in ids))
            archive.writestr("labelmap.txt", self._labelmap())
        raw = [
            {"name": name, "color": "#{:02x}{:02x}{:02x}".format(*colours()[value]), "attributes": []}
            for name, value in zip(classes.names, classes.ids, strict=True)
        ]
        text = json.dumps(raw, indent=2, ensure_ascii=False)
        (self.target.out / LABELS_FILE).write_text(f"{text}\n", encoding="utf-8")
        write_classes(self.target.out / CLASSES_FILE, classes)

    def regions(self, converted: Converted) -> int:
        return converted[2]

    def _labelmap(self) -> str:
        classes = self.target.classes
        named = zip(("background", *classes.names), (BACKGROUND, *classes.ids), strict=True)
        lines = [f"{name}:{','.join(map(str, colours()[value].tolist()))}::" for name, value in named]
        return "\n".join(["# label:color_rgb:parts:actions", *lines, ""])


def _png(values: UInt8Array) -> bytes:
    """RGB, in VOC's colours: readers of a palette PNG disagree about what its pixels are."""
    file = io.BytesIO()
    Image.fromarray(colours()[values]).save(file, format="PNG")
    return file.getvalue()
