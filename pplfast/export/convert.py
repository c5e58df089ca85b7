"""One image: its label checked against it, and converted."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pplfast.arrays import UInt8Array
from pplfast.data.classes import BACKGROUND, IGNORE
from pplfast.data.images import BadImage, inspect_image
from pplfast.errors import UserError
from pplfast.export.format import Format, LabelledImage

UPRIGHT = 1  # EXIF orientation


@dataclass(frozen=True)
class Made:
    """Of an image. bad: why it could not be exported; "" where it was."""

    value: Any = None
    unsure: bool = False
    bad: str = ""


@dataclass(frozen=True)
class _Checked(LabelledImage):
    """values: those that a label may hold. size: of the image, height and width."""

    values: frozenset[int]
    size: tuple[int, int]

    def labels(self) -> UInt8Array:
        """As of the base; UserError also for another size than the image's, and a value that is no class."""
        return self._read[0]

    @property
    def unsure(self) -> bool:
        """Whether the label has unsure pixels (255)."""
        return self._read[1]

    @cached_property
    def _read(self) -> tuple[UInt8Array, bool]:
        found = super().labels()
        if found.shape != self.size:
            raise UserError(
                f"{self.label}: is {found.shape[1]} x {found.shape[0]} pixels, its image {self.size[1]} x "
                f"{self.size[0]}; make the label again"
            )
        held = set(np.flatnonzero(np.bincount(found.ravel(), minlength=256)).tolist())
        if others := held - self.values:
            raise UserError(f"{self.label}: holds the value {min(others)}, which is no class; check --classes")
        return found, IGNORE in held


def convert(item: LabelledImage, format: Format) -> Made:
    """In a worker process: one image. What is wrong with it is part of the result; what the system refuses raises
    OSError."""
    try:
        info = inspect_image(item.image)
    except BadImage as problem:
        return Made(bad=f"{item.image}: {problem}")
    if info.orientation != UPRIGHT:
        return Made(
            bad=f"{item.image}: turned by EXIF (orientation {info.orientation}): its label is of the image as stored, "
            "and most tools would turn the image alone; store it upright, and label it again"
        )
    values = frozenset((BACKGROUND, *format.target.classes.ids, IGNORE))
    checked = _Checked(item.number, item.id, item.image, item.label, values, (info.height, info.width))
    try:
        value = format.convert(checked)
    except UserError as problem:
        if isinstance(problem.__cause__, OSError):  # a full disk is no fault of the image
            raise
        return Made(bad=str(problem))
    return Made(value, checked.unsure)
