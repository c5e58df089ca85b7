"""Image labels as one matrix: a row for each image of a list, whatever layout they are read from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from pplfast.arrays import UInt8Array
from pplfast.data.classes import ClassList
from pplfast.data.listing import ListEntry, Listing
from pplfast.data.problems import ERROR, Problem
from pplfast.errors import UserError


class Fault(Exception):
    """The labels of one image cannot be read; the message says what is wrong with the file, and the remedy."""

    def __init__(self, kind: str, path: Path, message: str):
        super().__init__(message)
        self.kind, self.path = kind, path


class Labels(Protocol):
    """The image labels of a data set, in one of the layouts that `layout.py` knows. Opening them reads what holds for
    all images."""

    classes: ClassList
    layout: str  # in words: "folder per class"

    def listing(self) -> Listing:
        """The images of the data set where no list names them."""

    def fill(self, row: UInt8Array, entry: ListEntry) -> None:
        """Set the columns of the classes that the image has, in a row of zeros. Raises Fault."""

    def remarks(self, labels: UInt8Array) -> list[Problem]:
        """What is to be said of them all, (N, C), when each is filled. UserError where they are of something else."""


def read_labels(source: Labels, entries: Sequence[ListEntry], problems: list[Problem] | None = None) -> UInt8Array:
    """Labels as uint8 (N, C).

    Faults of single images go to `problems` if it is given, and leave a row of zeros; else the first one raises
    UserError. So do remarks, as problems of no image. Where the labels name other classes alone, it is always an error:
    the class list is the wrong one.
    """
    labels = np.zeros((len(entries), len(source.classes)), np.uint8)
    for row, entry in zip(labels, entries, strict=True):
        try:
            source.fill(row, entry)
        except Fault as fault:
            if problems is None:
                raise UserError(f"{fault.path}: {fault}") from None
            problems.append(Problem(entry.id, fault.path, fault.kind, ERROR, str(fault)))
    remarks = source.remarks(labels)
    if problems is not None:
        problems += remarks
    return labels


def counted(images: int) -> str:
    """ "1 image", "2 images"."""
    return f"{images} image{'s' * (images != 1)}"
