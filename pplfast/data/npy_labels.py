"""Image labels from a cls_labels.npy."""

from pathlib import Path

import numpy as np

from pplfast.arrays import UInt8Array
from pplfast.data.classes import VOC_NAMES, ClassList
from pplfast.data.labels import Fault
from pplfast.data.listing import ListEntry, Listing, Scan
from pplfast.data.names import image_id
from pplfast.data.problems import Problem
from pplfast.errors import UserError
from pplfast.npy import load_npy_dict
from pplfast.reading import quoted


class NpyLabels:
    """A pickled dict from image id to a 0/1 vector. Keys are ids (2007_000032), their digits as an int (2007000032),
    or the digits behind the last '_' (9 for COCO_train2014_000000000009)."""

    def __init__(self, scan: Scan, path: Path, classes: ClassList):
        self.scan, self.path, self.classes, self.layout = scan, path, classes, path.name
        self.table = load_npy_dict(path)
        self.keys = {_plain(str(key)): key for key in self.table}
        self.taken: dict[str | int, str] = {}  # the id that each key has been found for
        sizes = (vector.size for vector in self.table.values() if isinstance(vector, np.ndarray))
        self.width = next(sizes, 0)
        self.columns = self._columns(classes)

    def listing(self) -> Listing:
        return self.scan.listing

    def _columns(self, classes: ClassList) -> list[int]:
        width = self.width
        if not width:
            raise UserError(f"{self.path}: holds no labels; give --labels another file")
        if width == len(VOC_NAMES) and set(classes.names) <= set(VOC_NAMES):
            return [VOC_NAMES.index(name) for name in classes.names]
        if width == len(classes):
            return list(range(width))
        raise UserError(
            f"{self.path}: vectors of {width} classes, while the class list has {len(classes)}; "
            f"give --classes all {width}, in their order, or a file without a column of the background"
        )

    def fill(self, row: UInt8Array, entry: ListEntry) -> None:
        key = next((self.keys[name] for name in _names(entry.id) if name in self.keys), None)
        if key is None:
            raise Fault(
                "no-labels",
                self.path,
                f"holds no labels of {entry.id} (its keys are like {quoted(str(next(iter(self.table))))[1:-1]}); give "
                "--labels a file that does, or take the image off the list",
            )
        if (other := self.taken.setdefault(key, entry.id)) != entry.id:
            raise Fault("bad-labels", self.path, f"its key {key} fits both {other} and {entry.id}; name keys by id")
        vector = self.table[key]
        if not isinstance(vector, np.ndarray) or vector.size != self.width or not np.isin(vector, (0, 1)).all():
            raise Fault(
                "bad-labels",
                self.path,
                f"the labels of {entry.id} are not a vector of zeros and ones like the others; restore the file",
            )
        row[:] = np.ravel(vector)[self.columns]

    def remarks(self, labels: UInt8Array) -> list[Problem]:
        return []


def _plain(name: str) -> str:
    """Without its suffix, and a number without leading zeros."""
    name = image_id(name)
    return name.lstrip("0") or "0" if name.isdecimal() else name


def _names(id: str) -> list[str]:
    """What a key of the image may be: its id, its name without folders, all digits of that, those behind its last
    '_'."""
    name = id.rpartition("/")[2]
    numbers = [digits for digits in (name.replace("_", ""), name.rpartition("_")[2]) if digits.isdecimal()]
    return [id, *map(_plain, (name, *numbers))]
