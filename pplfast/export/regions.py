"""The regions of a label map and their outlines.

An outline is one closed polygon, as tools have no other: a hole is reached by a cut of no width from its left end to
the next outline on its left, through pixels of the region. Filled by the even-odd rule, the cut adds nothing and the
hole stays empty.

OpenCV follows the pixels at each border. What is kept of them is every side at which such a pixel meets the outside:
each side belongs to one outline, and the sides on the left of pixels, in the order of the rows, tell where a run of
pixels begins, and so where the cut of each hole ends.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pplfast.arrays import BoolArray, Float64Array, Int64Array, UInt8Array

CONNECTED = 8  # pixels that touch at a corner are of one region
FEWEST_POINTS = 3  # of a polygon: readers refuse others
# Steps to the eight neighbours, against the clock as seen on a screen, and the sides among them with the corner at
# which each begins, walked with the region on the left.
_NEIGHBOURS = np.array([(1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1)])
_RIGHT, _TOP, _LEFT, _BOTTOM = 0, 2, 4, 6
_CORNERS = np.zeros((8, 2), np.int64)
_CORNERS[[_RIGHT, _TOP, _LEFT, _BOTTOM]] = (1, 1), (1, 0), (0, 0), (0, 1)
_NUMBER = np.zeros((3, 3), np.int8)  # of a neighbour, by its step + 1
_NUMBER[tuple(_NEIGHBOURS.T + 1)] = np.arange(8)


@dataclass(frozen=True)
class Region:
    """Pixels of one value that touch one another. x, y: of the first column and row of its box. mask: bool, of the
    box, (h, w)."""

    x: int
    y: int
    mask: BoolArray
    area: int  # pixels

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x, y, width, height."""
        height, width = self.mask.shape
        return self.x, self.y, width, height

    def polygon(self, corners: bool) -> Float64Array:
        """Its outline as of `polygons`, in the image's coordinates."""
        [outline] = polygons(self.mask, corners)
        return outline + (self.x, self.y)


def regions(labels: UInt8Array, value: int) -> Iterator[Region]:
    """The regions of a value in labels, uint8 (H, W); of none for a value that is not there."""
    import cv2

    inside = labels == value
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(rows):
        return
    top, left = int(rows[0]), int(columns[0])
    inside = np.ascontiguousarray(inside[top : rows[-1] + 1, left : columns[-1] + 1])
    count, numbers, found, _ = cv2.connectedComponentsWithStats(inside.view(np.uint8), connectivity=CONNECTED)
    for number in range(1, count):
        x, y, width, height, area = (int(figure) for figure in found[number])
        yield Region(left + x, top + y, numbers[y : y + height, x : x + width] == number, area)


def polygons(mask: BoolArray, corners: bool) -> list[Float64Array]:
    """The outline of each region of a mask, bool (H, W), with its holes: float64 (n, 2), x and y in pixels, n >= 3,
    closed by an edge from its last point to its first.

    corners: along the sides of the pixels, 0 at the left side of the first one, as COCO has it. Otherwise through the
    middles of the pixels at the border, 0 at the middle of the first one, as OpenCV draws it.
    """
    borders = _borders(mask, corners)
    if borders is None:
        return []
    cuts = _cuts(borders, mask.shape[1], corners)
    return [_closed(borders.points[_walk(borders, cuts, int(root))]) for root in np.flatnonzero(~borders.is_hole)]


class _Borders(NamedTuple):
    """All sides, those of each border after one another. points: int64 (n, 2). pixels: int64 (n, 2), x and y. sides:
    (n,). starts: of each border, and n: int64 (borders + 1,). is_hole: bool (borders,)."""

    points: Int64Array
    pixels: Int64Array
    sides: Int64Array
    starts: Int64Array
    is_hole: BoolArray


def _borders(mask: BoolArray, corners: bool) -> _Borders | None:
    import cv2

    image = np.ascontiguousarray(mask).view(np.uint8)
    found, hierarchy = cv2.findContours(image, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if not found:
        return None
    lengths = np.array([len(border) for border in found])
    ends = np.cumsum(lengths)
    pixels = np.concatenate([border[:, 0] for border in found]).astype(np.int64)
    before, after = np.arange(len(pixels)) - 1, np.arange(len(pixels)) + 1
    before[ends - lengths], after[ends - 1] = ends - 1, ends - lengths
    back, onward = (_NUMBER[tuple((pixels[other] - pixels).T + 1)] for other in (before, after))
    # All neighbours between that where the border comes from and that where it goes on are outside.
    outside = np.where(onward > back, onward - back, onward - back + 8)
    outside[np.repeat(lengths, lengths) == 1] = 9  # a single pixel has no neighbour, and all four sides
    back = np.where(outside == 9, _TOP + 1, back)
    turns = back[:, None] + np.arange(1, 9, dtype=np.int8)
    rows, columns = np.nonzero((turns % 2 == 0) & (turns < (back + outside)[:, None]))
    sides = (turns[rows, columns] % 8).astype(np.int64)
    pixels = pixels[rows]
    starts = np.concatenate([[0], np.searchsorted(rows, ends)])
    points = pixels + _CORNERS[sides] if corners else pixels
    return _Borders(points, pixels, sides, starts, hierarchy[0, :, 3] >= 0)


class _Cuts(NamedTuple):
    """opens: of each border, the side at which it is entered, (borders,). below: of each border, the holes that are
    cut to it, as pairs of the side at which and the hole."""

    opens: Int64Array
    below: dict[int, list[tuple[int, int]]]


def _cuts(borders: _Borders, width: int, corners: bool) -> _Cuts:
    owner = np.repeat(np.arange(len(borders.is_hole)), np.diff(borders.starts))
    opens, below = borders.starts[:-1].copy(), dict[int, list[tuple[int, int]]]()
    keys = borders.pixels[:, 1] * width + borders.pixels[:, 0]
    left = np.flatnonzero(borders.sides == _LEFT)
    left = left[np.argsort(keys[left])]
    # Of each hole the pixel at its left end, the uppermost: what the cut meets lies further left, so none is a circle.
    right = np.flatnonzero((borders.sides == _RIGHT) & borders.is_hole[owner])
    order = np.lexsort((borders.pixels[right, 1], borders.pixels[right, 0], owner[right]))
    holes, first = np.unique(owner[right[order]], return_index=True)
    leave = right[order][first]
    reach = left[np.searchsorted(keys[left], keys[leave], side="right") - 1]
    if corners:  # the side on the right begins at its lower corner, that on the left at its upper one
        ends = borders.starts[holes + 1]
        leave = np.where(leave + 1 == ends, borders.starts[holes], leave + 1)
    opens[holes] = leave
    for hole, side in zip(holes.tolist(), reach.tolist()):
        below.setdefault(int(owner[side]), []).append((side, hole))
    return _Cuts(opens, below)


def _walk(borders: _Borders, cuts: _Cuts, root: int) -> Int64Array:
    """The sides of an outer border in their order, each hole's in between, from its cut round to it again."""
    pieces: list[Int64Array] = []
    stack = [_Round(borders, cuts, root)]
    while stack:
        sides, hole = stack[-1].on()
        pieces.append(sides)
        if hole is None:
            stack.pop()
        else:
            stack.append(_Round(borders, cuts, hole))
    return np.concatenate(pieces)


class _Round:
    """The way round one border."""

    def __init__(self, borders: _Borders, cuts: _Cuts, border: int) -> None:
        self._start, end = (int(side) for side in borders.starts[border : border + 2])
        self._length, self._open = end - self._start, int(cuts.opens[border]) - self._start
        stops = [((side - self._start - self._open) % self._length, hole) for side, hole in cuts.below.get(border, ())]
        self._stops: list[tuple[int, int | None]] = [*sorted(stops), (self._length, None)]
        self._stops.reverse()
        self._at = 0

    def on(self) -> tuple[Int64Array, int | None]:
        """The sides to the next cut, and where that leads; to the end, and None."""
        stop, hole = self._stops.pop()
        sides = self._start + (self._open + np.arange(self._at, stop + 1)) % self._length
        self._at = stop
        return sides, hole


def _closed(points: Int64Array) -> Float64Array:
    """Without the points that lie on the way from the last one to the next."""
    kept = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    steps = np.sign(np.roll(kept, -1, axis=0) - kept)
    kept = kept[(steps != np.roll(steps, 1, axis=0)).any(axis=1)]
    points = kept if len(kept) else points[:1]  # none of them moves: the middle of a single pixel
    if len(points) < FEWEST_POINTS:
        points = np.concatenate([points, np.repeat(points[-1:], FEWEST_POINTS - len(points), axis=0)])
    return points.astype(np.float64)
