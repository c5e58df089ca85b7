"""How sure a label is, by the probabilities that it was made of: the IoU to expect of each class.

A pixel is of class c with probability p_c. Of a label's pixels of c then sum p_c are right in expectation, and its
union with the true ones has all of them and the rest of sum p_c: an estimate of the class's IoU that no mask is needed
for. Which other signs were tried, and how well each orders real images: docs/how-to/review.md.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pplfast.arrays import Float32Array, Float64Array, IntArray
from pplfast.data.classes import BACKGROUND, ClassList
from pplfast.files import atomic_path

TABLE = "confidence.csv"
FACT = "confidence"  # of a record: mask value, as text -> 0 to 1
DIGITS = 4


def expected_iou(probabilities: Float32Array, labels: IntArray) -> Float64Array:
    """Of each row of float32 (k, H, W) probabilities, by whole numbers (H, W) of 0 to k - 1 that say which row a pixel
    is labelled with: float64 (k,), 0 to 1. A row that no pixel is labelled with has 0."""
    rows = len(probabilities)
    flat = labels.ravel()
    own = np.take_along_axis(probabilities.reshape(rows, -1), flat[None], axis=0)[0]
    right = np.bincount(flat, weights=own, minlength=rows)
    union = np.bincount(flat, minlength=rows) + probabilities.sum(axis=(1, 2), dtype=np.float64) - right
    ious: Float64Array = np.divide(right, union, out=np.zeros(rows), where=union > 0)
    return ious


def confidence_fact(values: Sequence[int], ious: Float64Array | Float32Array) -> dict[str, dict[str, float]]:
    """For the record of an image: of each class by its mask value, and of the background, which an image may lack."""
    found = {str(value): round(min(1.0, float(iou)), DIGITS) for value, iou in zip(values, ious, strict=True)}
    return {FACT: {value: iou for value, iou in found.items() if iou or value != str(BACKGROUND)}}


def image_confidence(record: Mapping[str, Any]) -> float | None:
    """The mean over the classes of an image and the background, where it shows; None for a record without any."""
    found = record.get(FACT)
    return float(np.mean(list(found.values()))) if found else None


def write_confidence(folder: Path, records: Iterable[Mapping[str, Any]], classes: ClassList) -> None:
    """`folder/confidence.csv`: a line for each image, the least sure first. Columns: image, confidence, background, and
    each class, empty where the image has it not. Nothing is written where no record says any."""
    sure = [(value, record) for record in records if (value := image_confidence(record)) is not None]
    if not sure:
        return
    sure.sort(key=lambda pair: (pair[0], pair[1]["id"]))
    values = [str(value) for value in (BACKGROUND, *classes.ids)]
    with (
        atomic_path(folder / TABLE) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer, quoting = csv.writer(file, lineterminator="\n"), csv.writer(file, csv.unix_dialect)
        writer.writerow(["image", "confidence", "background", *classes.names])
        for value, record in sure:
            found = record[FACT]
            row = [record["id"], round(value, DIGITS), *(found.get(key, "") for key in values)]
            # Of the ends of lines Python's writer quotes its own alone, and readers take \r for one as well.
            (quoting if "\r" in record["id"] else writer).writerow(row)
