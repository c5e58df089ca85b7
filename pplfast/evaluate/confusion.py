"""Counts of (true class, predicted class), and what follows from them."""

from dataclasses import dataclass

import numpy as np

from pplfast.arrays import Int64Array
from pplfast.data.classes import BACKGROUND, ClassList


@dataclass(frozen=True)
class ClassIou:
    """iou: TP / (truth + predicted - TP) in percent; None for a class that neither truth nor prediction has."""

    name: str
    id: int
    iou: float | None
    truth_pixels: int
    predicted_pixels: int


def index_table(classes: ClassList) -> Int64Array:
    """int64 (256,): mask value -> row of the confusion: 0 background, c + 1 for class c, -1 for ignore and unlisted."""
    table = np.full(256, -1, np.int64)
    table[BACKGROUND] = 0
    table[list(classes.ids)] = np.arange(1, len(classes) + 1)
    return table


def confusion_matrix(truth: Int64Array, predicted: Int64Array, rows: int) -> Int64Array:
    """int64 (rows, rows + 1) counts of one image; inputs: row numbers of equal shape.

    truth -1: the pixel does not count. predicted -1: no label; such pixels are in the last column, so they count as
    missed for the true class and as predicted for none.
    """
    counted = truth >= 0
    columns = np.where(predicted < 0, rows, predicted)[counted]
    joint = truth[counted] * (rows + 1) + columns
    return np.bincount(joint, minlength=rows * (rows + 1)).reshape(rows, rows + 1)


def class_ious(confusion: Int64Array, classes: ClassList) -> list[ClassIou]:
    """Background first. confusion: (rows, rows) or (rows, rows + 1) over the whole set."""
    truth, predicted = confusion.sum(1), confusion.sum(0)
    result = []
    for row, (name, value) in enumerate(zip(("background", *classes.names), (BACKGROUND, *classes.ids), strict=True)):
        union = truth[row] + predicted[row] - confusion[row, row]
        iou = float(100 * confusion[row, row] / union) if union else None
        result.append(ClassIou(name, value, iou, int(truth[row]), int(predicted[row])))
    return result


def mean_iou(ious: list[ClassIou]) -> float:
    """Percent; over background and the classes that truth or prediction has. 0 where there is no such class: what is
    background alone finds nothing, however well it does."""
    known = [entry.iou for entry in ious if entry.iou is not None]
    return sum(known) / len(known) if any(entry.iou is not None for entry in ious[1:]) else 0.0
