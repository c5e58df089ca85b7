"""Label Studio's tasks, with the labels as predictions: people see them, correct them and accept them."""

import json
import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np

from pplfast.arrays import UInt8Array
from pplfast.export.brush import encode_brush
from pplfast.export.format import Format, LabelledImage
from pplfast.export.images import suffix_of
from pplfast.export.indexed import CLASSES_FILE, colours, write_classes
from pplfast.export.regions import regions
from pplfast.version import __version__

CONFIG_FILE, TASKS_FILE = "labels.xml", "tasks-{:04}.json"
LOCAL_FILES = "/data/local-files/?d="  # Label Studio's URL of files of its own machine
LARGEST_FILE = 100 * 2**20  # bytes of a file of tasks, about: Label Studio takes 250 MiB at once
IMAGE, LABELS = "image", "labels"  # tags of the labelling interface
DIGITS = 6  # of a percentage behind the point: exact to a pixel in any image
Converted = tuple[str, int]  # the JSON of a task, and how many results it has


class _LabelStudio(Format):
    """`tasks-0001.json` and on, files for Import, and `labels.xml`, the code of the labelling interface
    (https://labelstud.io/guide/predictions); `classes.json`: the values that the classes have in pplfast's labels.

    The labels are predictions, each with pplfast's version. An image is named by its absolute path below the document
    root `/`: Label Studio shows it if it runs on a machine where the image has that path, serves local files, and the
    project has a folder above it as source storage (https://labelstud.io/guide/storage#Local-storage). Of a data set in
    shards it is the id with a suffix: an image that you have to put below the document root.
    """

    unsure = "background"
    read_with = (
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=/ label-studio start"
        "  # a project with the interface {out}/labels.xml, then Import: {out}/tasks-0001.json"
    )
    tag: ClassVar[str]  # of the interface; its small letters are the type of the results

    @abstractmethod
    def _values(self, labels: UInt8Array, value: int) -> Iterator[dict[str, Any]]:
        """What each result says of where a class is."""

    def convert(self, item: LabelledImage) -> Converted:
        labels = item.labels()
        kind = self.tag.lower()
        results = [
            {
                "id": f"{value}-{number}",
                "type": kind,
                "from_name": LABELS,
                "to_name": IMAGE,
                "original_width": labels.shape[1],
                "original_height": labels.shape[0],
                "image_rotation": 0,
                "value": found | {kind: [name]},
            }
            for name, value in zip(self.target.classes.names, self.target.classes.ids, strict=True)
            for number, found in enumerate(self._values(labels, value), 1)
        ]
        predictions = [{"model_version": f"pplfast {__version__}", "result": results}] if results else []
        task = {"data": {IMAGE: image_url(item), "id": item.id}, "predictions": predictions}
        return json.dumps(task), len(results)

    def write(self, converted: Iterable[tuple[LabelledImage, Converted]]) -> None:
        with closing(_TaskFiles(self.target.out)) as files:
            for _, (task, _) in converted:
                files.add(task)
        (self.target.out / CONFIG_FILE).write_text(self._config(), encoding="utf-8")
        write_classes(self.target.out / CLASSES_FILE, self.target.classes)

    def _config(self) -> str:
        view = ElementTree.Element("View")
        ElementTree.SubElement(view, "Image", name=IMAGE, value=f"${IMAGE}", zoom="true", zoomControl="true")
        labels = ElementTree.SubElement(view, self.tag, name=LABELS, toName=IMAGE)
        for name, value in zip(self.target.classes.names, self.target.classes.ids, strict=True):
            ElementTree.SubElement(labels, "Label", value=name, background=f"#{colours()[value].tobytes().hex()}")
        ElementTree.indent(view)
        return ElementTree.tostring(view, encoding="unicode") + "\n"


class LabelStudioBrush(_LabelStudio):
    """One result for each class of an image, the pixels of all its regions: exact, and to be corrected with the brush
    and the eraser."""

    name = "label-studio"
    tool = "Label Studio, brush: tasks with predictions, and the labelling interface"
    tag = "BrushLabels"

    def _values(self, labels: UInt8Array, value: int) -> Iterator[dict[str, Any]]:
        inside = labels == value
        if inside.any():
            yield {"format": "rle", "rle": list(encode_brush(inside))}


class LabelStudioPolygons(_LabelStudio):
    """One result for each connected region (8 neighbours): a polygon along the sides of its pixels, to be corrected by
    its corners. A hole is reached by a cut of no width, as Label Studio's polygons have none."""

    name = "label-studio-polygons"
    tool = "Label Studio, polygons: tasks with predictions, and the labelling interface"
    needs = ("cv2",)
    tag = "PolygonLabels"

    def _values(self, labels: UInt8Array, value: int) -> Iterator[dict[str, Any]]:
        height, width = labels.shape
        for region in regions(labels, value):
            percent = region.polygon(corners=True) / (width, height) * 100
            yield {"points": np.round(percent, DIGITS).tolist(), "closed": True}

    def regions(self, converted: Converted) -> int:
        return converted[1]


def image_url(item: LabelledImage) -> str:
    """Where Label Studio finds the image, below the document root."""
    image = item.image
    path = os.path.abspath(image).lstrip("/") if isinstance(image, Path) else item.id + suffix_of(item)
    return LOCAL_FILES + quote(os.fsencode(path))


class _TaskFiles:
    """Files of tasks, each a JSON list; at least one. Raises OSError."""

    def __init__(self, out: Path) -> None:
        self._out, self._number = out, 0
        self._start()

    def add(self, task: str) -> None:
        if self._written + len(task) > LARGEST_FILE and self._written:
            self.close()
            self._start()
        self._file.write(f"{',' * bool(self._written)}\n{task}")
        self._written += len(task)

    def close(self) -> None:
        self._file.write("\n]\n")
        self._file.close()

    def _start(self) -> None:
        self._number += 1
        self._written = 0
        self._file = open(self._out / TASKS_FILE.format(self._number), "w", encoding="ascii")
        self._file.write("[")
