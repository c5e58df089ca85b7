"""Where do labels help, and where do they cost? The images of a list in three parts, by the size of their objects."""

from dataclasses import dataclass

import numpy as np

from pplfast.data.classes import BACKGROUND
from pplfast.data.dataset import Dataset
from pplfast.data.masks import read_mask
from pplfast.errors import UserError
from pplfast.evaluate.confusion import index_table

NAMES = ("small", "medium", "large")


@dataclass(frozen=True)
class SizePart:
    """A third of the images. least, most: percent of an image's pixels that its mask gives to classes."""

    name: str
    dataset: Dataset
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.name} objects, {self.least:.1f} to {self.most:.1f} % of an image"


def parts_by_size(dataset: Dataset) -> list[SizePart]:
    """Thirds of the images whose masks show a class, smallest objects first. UserError for fewer than three of them."""
    table, shares = index_table(dataset.classes), {}
    for index, mask in enumerate(dataset.masks):
        if mask is not None:
            rows = table[read_mask(mask)]
            shown, counted = int((rows > BACKGROUND).sum()), int((rows >= 0).sum())
            if shown:
                shares[index] = 100 * shown / counted
    order = sorted(shares, key=lambda index: (shares[index], index))
    if len(order) < len(NAMES):
        raise UserError(f"{dataset.name}: {len(order)} masks show a class; three parts by size need at least three")
    return [
        SizePart(name, dataset.subset(part), shares[part[0]], shares[part[-1]])
        for name, part in zip(NAMES, (list(part) for part in np.array_split(order, len(NAMES))), strict=True)
    ]
