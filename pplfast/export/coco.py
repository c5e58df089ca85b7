"""COCO's JSON of objects."""

import json
import shutil
from abc import abstractmethod
from collections.abc import Iterable
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from pplfast.export.format import Format, LabelledImage
from pplfast.export.images import suffix_of
from pplfast.export.regions import Region, regions

FILE = "instances.json"
Converted = tuple[str, list[str]]  # an image and its annotations, each the JSON of all but the number it gets


class _Coco(Format):
    """`instances.json`, as https://cocodataset.org/#format-data has it: an annotation for each connected region (8
    neighbours), with its box and its area in pixels.

    The category ids are the class values of the label PNGs; they start at 1 at the earliest, and need not be
    consecutive. `iscrowd` is 0: 1 would say that a region stands for many objects, and tools leave such out of training
    and of scores. `file_name` is the id with the suffix of the image, so the path below the folder that the ids are of.
    An image without any region is listed, with no annotation.
    """

    unsure = "background"
    read_with = f"pycocotools.coco.COCO('{{out}}/{FILE}')"

    @abstractmethod
    def _segmentation(self, region: Region, height: int, width: int) -> Any:
        """As JSON has it. height, width: of the image."""

    def convert(self, item: LabelledImage) -> Converted:
        labels = item.labels()
        height, width = labels.shape
        image = {"file_name": item.id + suffix_of(item), "width": width, "height": height}
        annotations = [
            {
                "category_id": value,
                "bbox": region.box,
                "area": region.area,
                "iscrowd": 0,
                "segmentation": self._segmentation(region, height, width),
            }
            for value in self.target.classes.ids
            for region in regions(labels, value)
        ]
        return _open_json(image), [_open_json(annotation) for annotation in annotations]

    def write(self, converted: Iterable[tuple[LabelledImage, Converted]]) -> None:
        classes = self.target.classes
        info = {"description": self.target.name}
        categories = [{"id": id, "name": name} for name, id in zip(classes.names, classes.ids, strict=True)]
        count = 0
        with (
            open(self.target.out / FILE, "w", encoding="ascii") as file,
            TemporaryFile("w+", encoding="ascii", dir=self.target.out) as images,
        ):
            file.write(f'{{"info": {json.dumps(info)}, "licenses": [], "categories": {json.dumps(categories)},\n')
            file.write('"annotations": [')
            for number, (_, (image, annotations)) in enumerate(converted, 1):
                images.write(f'{"," * (number > 1)}\n{{"id": {number}, {image}')
                for annotation in annotations:
                    count += 1
                    file.write(f'{"," * (count > 1)}\n{{"id": {count}, "image_id": {number}, {annotation}')
            file.write('\n],\n"images": [')
            images.seek(0)
            shutil.copyfileobj(images, file)
            file.write("\n]}\n")

    def regions(self, converted: Converted) -> int:
        return len(converted[1])


class CocoRle(_Coco):
    """`segmentation` is a compressed run-length encoding of the whole image: exact, holes and all."""

    name = "coco"
    tool = "COCO JSON of run-length encodings, for pycocotools, detectron2, MMDetection"
    needs = ("cv2", "pycocotools")

    def _segmentation(self, region: Region, height: int, width: int) -> Any:
        from pycocotools import mask

        found = mask.frPyObjects({"counts": run_lengths(region, height, width), "size": [height, width]}, height, width)
        return {"size": [height, width], "counts": found["counts"].decode("ascii")}


class CocoPolygons(_Coco):
    """`segmentation` is one polygon along the sides of the pixels, of which pycocotools makes the same pixels again. A
    hole is reached by a cut of no width, as COCO's polygons have none."""

    name = "coco-polygons"
    tool = "COCO JSON of polygons, for tools that read no run-length encodings"
    needs = ("cv2",)

    def _segmentation(self, region: Region, height: int, width: int) -> Any:
        return [region.polygon(corners=True).astype(np.int64).ravel().tolist()]


def run_lengths(region: Region, height: int, width: int) -> list[int]:
    """Pixels outside and inside of a region in turn, from the outside on, down the columns of an image of this size."""
    columns, rows = region.mask.shape[1], region.mask.shape[0]
    padded = np.zeros((columns, rows + 2), np.int8)
    padded[:, 1:-1] = region.mask.T
    column, row = np.nonzero(np.diff(padded, axis=1))
    changes = (region.x + column) * height + region.y + row
    if rows == height:  # what ends at the foot of a column and begins at the head of the next is one run
        twice = np.flatnonzero(np.diff(changes) == 0)
        changes = np.delete(changes, np.concatenate([twice, twice + 1]))
    counts: list[int] = np.diff(changes, prepend=0, append=height * width).tolist()
    return counts if counts[-1] else counts[:-1]


def _open_json(values: dict[str, Any]) -> str:
    """JSON of an object without its first bracket. In ASCII, so that names that are no text keep their bytes."""
    return json.dumps(values).removeprefix("{")
