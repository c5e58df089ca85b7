"""Masks from COCO's outlines: polygons and run-length encodings, to the pixel as its own tools draw them.

An RLE counts pixels down the columns, from left to right, of the outside and the inside in turn. A polygon is drawn by
its walls: for each column of pixels that its outline crosses, the row from which on the inside turns into the outside,
or the other way. The outline is walked in steps of a fifth of a pixel; here only those steps are computed at which it
crosses the middle of a column, by the same sums in the same order, which decide where a half is rounded to.
"""

import os
from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pplfast.arrays import BoolArray, Float64Array, Int64Array, UInt8Array
from pplfast.data.classes import IGNORE
from pplfast.data.coco import CocoAnnotation, CocoFile, CocoImage
from pplfast.data.dataset import Dataset
from pplfast.data.images import BadImage, inspect_image
from pplfast.data.masks import SUFFIX, write_mask
from pplfast.data.stored import Stored
from pplfast.errors import UserError
from pplfast.files import check_inside
from pplfast.reading import LARGEST_IMAGE, quoted, shortened

FINE = 5  # steps of an outline per pixel
MIDDLE = 2  # of them, from a pixel's edge to its middle
FEWEST_POINTS = 3
CROSSINGS = 4  # of an outline per pixel, at most; those that people and tools draw have far less than one
SPARE = 1000  # of them, for small images
AT_ONCE = 1 << 18  # crossings, for a bounded memory
LONGEST_COUNT = 6  # characters, of 5 bits: more than the pixels of any image

Part = tuple[int, BoolArray]  # the first column that it covers, and what it covers from there on, (columns, H)


def coco_mask(file: CocoFile, image: CocoImage, columns: Collection[int] | None = None) -> UInt8Array:
    """The values of its categories as uint8 (H, W): 0 background, and 255 for a crowd where no object is. The smaller
    of two objects is on top, of equal ones the later in the file.

    columns: the categories that count, by their place in the file's list; None: all. UserError, which names the file
    and the annotation, for an outline that cannot be drawn.
    """
    if image.height * image.width > LARGEST_IMAGE:
        raise UserError(
            f"{file.path}: {quoted(image.name)} has {image.width} x {image.height} pixels: too large; make it smaller"
        )
    objects, crowds = list[CocoAnnotation](), list[CocoAnnotation]()
    for annotation in file.annotations.get(image.id, ()):
        if columns is None or file.column_of[annotation.category] in columns:
            (crowds if annotation.crowd else objects).append(annotation)
    # Each is decoded twice: to keep all of them would take a mask's memory for each.
    areas = [int(np.count_nonzero(_covered(annotation, file, image)[1])) for annotation in objects]
    order = sorted(range(len(objects)), key=lambda place: -areas[place])
    canvas = np.zeros((image.width, image.height), np.uint8)
    for annotation in (*crowds, *(objects[place] for place in order)):
        first, inside = _covered(annotation, file, image)
        value = IGNORE if annotation.crowd else file.categories.ids[file.column_of[annotation.category]]
        canvas[first : first + len(inside)][inside] = value
    return np.ascontiguousarray(canvas.T)


@dataclass(frozen=True)
class MaskReport:
    written: int
    absent: int  # images that the file does not have
    faults: tuple[str, ...]  # one for each image that has no mask for another reason


def write_coco_masks(
    file: CocoFile,
    dataset: Dataset,
    out: Path,
    columns: Collection[int] | None = None,
    progress: Callable[[], None] | None = None,
) -> MaskReport:
    """Write `<id>.png` into `out` for each image of the data set that the file has. columns: as of `coco_mask`.

    `progress` is called once per image. What is wrong with one image does not stop the others. UserError where the file
    has none of the images, and where a mask cannot be written.
    """
    found = [file.find(id) for id in dataset.ids]
    owners: dict[CocoImage, list[str]] = defaultdict(list)
    for id, image in zip(dataset.ids, found, strict=True):
        if image is not None:
            owners[image].append(id)
    if not owners:
        names = f" (its names are like {quoted(file.images[0].name)})" if file.images else ""
        raise UserError(f"{file.path}: has none of the {len(dataset)} images of {dataset.name}{names}; check --data")
    targets = {id: out / f"{id}{SUFFIX}" for ids in owners.values() for id in ids}
    check_inside(out, targets.values())

    def write(index: int) -> str:
        """What is wrong with the image, in one line."""
        id, path, image = dataset.ids[index], dataset.images[index], found[index]
        if image is None:
            return ""
        try:
            if len(owners[image]) > 1:
                raise UserError(f"{file.path}: {quoted(image.name)} fits {' and '.join(owners[image])}; rename one")
            _check_size(path, image, file)
            mask = coco_mask(file, image, columns)
        except UserError as error:
            return str(error)
        write_mask(targets[id], mask)
        return ""

    faults = []
    pool = ThreadPoolExecutor(os.cpu_count() or 1)
    try:
        for fault in pool.map(write, range(len(dataset))):
            faults += [fault] if fault else []
            if progress:
                progress()
    finally:
        pool.shutdown(cancel_futures=True)
    return MaskReport(len(targets) - len(faults), len(dataset) - len(targets), tuple(faults))


def _check_size(path: Path | Stored, image: CocoImage, file: CocoFile) -> None:
    """Raises UserError where the image file is not as large as the annotations say."""
    try:
        info = inspect_image(path)
    except BadImage as error:
        raise UserError(f"{path}: {error}") from None
    if (info.width, info.height) != (image.width, image.height):
        raise UserError(
            f"{path}: {info.width} x {info.height} pixels, but {image.width} x {image.height} in {file.path}; "
            "replace one of them"
        )


def _covered(annotation: CocoAnnotation, file: CocoFile, image: CocoImage) -> Part:
    try:
        return _decoded(annotation.segmentation, image.height, image.width)
    except ValueError as error:
        which = f"annotation {shortened(str(annotation.id))}, of {quoted(image.name)}"
        raise UserError(f"{file.path}: {which}: {error}; correct it, or take it out") from None


def _decoded(segmentation: Any, height: int, width: int) -> Part:
    """What a segmentation of `CocoAnnotation` covers. Raises ValueError, in words."""
    if isinstance(segmentation, dict):
        if segmentation.get("size") != [height, width]:
            raise ValueError(f"the size of its RLE is not the image's [{height}, {width}]")
        return 0, _from_counts(_counts(segmentation.get("counts")), height, width)
    if segmentation is None or segmentation == []:
        raise ValueError("has no outline (segmentation), only a box")
    if not isinstance(segmentation, list) or not all(isinstance(polygon, array) for polygon in segmentation):
        raise ValueError("its segmentation is neither an RLE nor a list of polygons, [[x, y, x, y, ...], ...]")
    return _from_polygons([_corners(polygon) for polygon in segmentation], height, width)


# Run-length encodings


def _from_counts(counts: Int64Array, height: int, width: int) -> BoolArray:
    """(W, H)."""
    pixels = height * width
    if (counts < 0).any() or (counts > pixels).any() or counts.sum() != pixels:
        raise ValueError(f"the counts of its RLE do not add up to the {pixels} pixels of the image")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height)


def _counts(written: Any) -> Int64Array:
    if isinstance(written, array):
        return np.array(written, np.int64)
    if not isinstance(written, str):
        raise ValueError("the counts of its RLE are neither whole numbers nor a text")
    return _counts_of_text(written)


def _counts_of_text(text: str) -> Int64Array:
    """Of the compressed form: 6 bits in each character, the lowest first; the highest of them says that the count goes
    on, the next one is the sign. From the fourth on, a count is given by its difference from the last but one."""
    codes = np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int64) - ord("0")
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("the counts of its RLE are damaged")
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > LONGEST_COUNT:
        raise ValueError("the counts of its RLE are damaged")
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    counts: Int64Array = np.add.reduceat((codes & 31) << 5 * places, starts)
    counts -= np.where(codes[ends] & 16, 1 << 5 * lengths, 0)
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts


# Polygons


def _corners(polygon: "array[float]") -> Int64Array:
    """(N, 2), x and y in steps of the outline."""
    if len(polygon) % 2:
        raise ValueError(f"a polygon has {len(polygon)} numbers, an odd number of them")
    points = np.array(polygon, np.float64).reshape(-1, 2)
    if not (np.abs(points) <= LARGEST_IMAGE).all():  # NaN is not, either
        raise ValueError("a corner of its polygon is no number, or far outside of any image")
    return _whole(FINE * points + 0.5)


def _from_polygons(polygons: list[Int64Array], height: int, width: int) -> Part:
    if max(map(len, polygons)) < FEWEST_POINTS:
        raise ValueError(f"none of its polygons has {FEWEST_POINTS} corners")
    parts = [_Outline(corners, height, width) for corners in polygons if len(corners)]
    first, end = min(part.first for part in parts), max(part.end for part in parts)
    inside = np.zeros((max(0, end - first), height), np.bool_)
    for part in parts:
        if part.first < part.end:
            inside[part.first - first : part.end - first] |= part.inside()
    return first, inside


class _Outline:
    """A closed polygon. corners: as of `_corners`. It crosses the columns from `first` to before `end`."""

    def __init__(self, corners: Int64Array, height: int, width: int) -> None:
        most = CROSSINGS * (height + 1) * (width + 1) + SPARE
        _check_length(len(corners), most, height, width)
        self.height = height
        begin, end = corners, np.roll(corners, -1, axis=0)
        self._flat = np.abs(end - begin)[:, 0] >= np.abs(end - begin)[:, 1]
        # An edge is walked along the axis that it covers more of, upwards, whichever way it is drawn.
        turned = np.where(self._flat, begin[:, 0] > end[:, 0], begin[:, 1] > end[:, 1])[:, None]
        self._begin, self._end = np.where(turned, end, begin), np.where(turned, begin, end)
        low, high = np.minimum(begin, end)[:, 0], np.maximum(begin, end)[:, 0]
        # A column is crossed by the step from its middle to the next.
        self._columns = np.maximum(-((MIDDLE - low) // FINE), 0)
        last = np.minimum((high - MIDDLE - 1) // FINE, width - 1)
        counts = np.maximum(last - self._columns + 1, 0)
        self._until = np.cumsum(counts)
        _check_length(int(self._until[-1]), most, height, width)
        crossing = counts > 0
        self.first = int(self._columns[crossing].min()) if crossing.any() else width
        self.end = int(last[crossing].max()) + 1 if crossing.any() else 0

    def inside(self) -> BoolArray:
        """(columns, H), of the columns that it crosses."""
        walls = np.zeros((self.end - self.first) * self.height + 1, np.uint8)
        for columns, rows in self._crossings():
            places, times = np.unique((columns - self.first) * self.height + rows, return_counts=True)
            walls[places[times % 2 == 1]] ^= 1
        return np.bitwise_xor.accumulate(walls)[:-1].view(np.bool_).reshape(-1, self.height)

    def _crossings(self) -> Iterator[tuple[Int64Array, Int64Array]]:
        """Column and row of each: from this row on, to the end of the column and on, inside and outside change."""
        before = np.concatenate([[0], self._until[:-1]])
        for start in range(0, int(self._until[-1]), AT_ONCE):
            numbers = np.arange(start, min(start + AT_ONCE, int(self._until[-1])))
            edges = np.searchsorted(self._until, numbers, side="right")
            columns = self._columns[edges] + numbers - before[edges]
            steps = FINE * columns + MIDDLE
            heights = np.empty(len(edges), np.int64)
            for flat, of in ((True, _height_of_flat), (False, _height_of_steep)):
                which = self._flat[edges] == flat
                heights[which] = of(self._begin[edges[which]], self._end[edges[which]], steps[which])
            yield columns, _whole(np.ceil(np.clip((heights + 0.5) / FINE - 0.5, 0, self.height)))


def _height_of_flat(begin: Int64Array, end: Int64Array, step: Int64Array) -> Int64Array:
    """The lower y of the two steps of each edge at x = step and step + 1. Edges are (N, 2) and go by x."""
    slope = (end - begin)[:, 1] / (end - begin)[:, 0]
    along = step - begin[:, 0]
    return np.minimum(_across(begin[:, 1], slope, along), _across(begin[:, 1], slope, along + 1))


def _height_of_steep(begin: Int64Array, end: Int64Array, step: Int64Array) -> Int64Array:
    """The same for edges that go by y, where x goes from step to step + 1 or back."""
    slope = (end - begin)[:, 0] / (end - begin)[:, 1]
    rising = slope > 0

    def passed(along: Int64Array) -> BoolArray:
        return np.equal(_across(begin[:, 0], slope, along) > step, rising)

    # The first that has passed. What is calculated may be off by the rounding of the sums.
    along = np.clip(_whole(np.ceil((step + 0.5 - begin[:, 0]) / slope)), 1, (end - begin)[:, 1])
    while (change := 1 - passed(along) - passed(along - 1)).any():
        along = along + change
    return begin[:, 1] + along - 1


def _across(begin: Int64Array, slope: Float64Array, along: Int64Array) -> Int64Array:
    """The other coordinate of an edge's step, rounded."""
    return _whole(begin + slope * along + 0.5)


def _whole(values: Float64Array) -> Int64Array:
    return np.trunc(values).astype(np.int64)


def _check_length(count: int, most: int, height: int, width: int) -> None:
    if count > most:
        raise ValueError(f"the outline of a polygon is longer than any in {width} x {height} pixels can be")
