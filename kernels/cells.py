"""Where the cells of a map lie along an axis of its image, and maps brought to other places."""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class Cells(NamedTuple):
    """Cell i is centred at pixel `first + i * step`, where pixel 0 is centred at 0."""

    first: float
    step: float

    @classmethod
    def over(cls, pixels: int, count: int) -> "Cells":
        """`count` cells that share so many pixels evenly."""
        step = pixels / count
        return cls((step - 1) / 2, step)

    def seen_from(self, other: "Cells") -> "Cells":
        """The same places, counted in cells of `other`."""
        return Cells((self.first - other.first) / other.step, self.step / other.step)

    def mirrored(self, count: int) -> "Cells":
        """The same `count` places in the opposite order."""
        return Cells(self.first + (count - 1) * self.step, -self.step)


BLOCK = 256  # places that are brought along together: few cells contribute to them, however large the image is


@lru_cache(1024)
def _weights(places: Cells, size: int, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(size, count): what each of `count` cells gives to each place, counted in cells: linear between two of them, the
    outermost cell's beyond it."""
    with torch.inference_mode(False), torch.no_grad():  # kept between calls, for training too
        position = torch.arange(size, device=device, dtype=torch.float32) * places.step + places.first
        cell = torch.arange(count, device=device, dtype=torch.float32)
        distance = (position.clamp(0, count - 1)[:, None] - cell).abs()
        return (1 - distance).clamp(min=0).to(dtype)


def along(x: Tensor, axis: int, places: Cells, size: int) -> Tensor:
    """x at `size` places along axis -2 or -1, counted in its cells. As products of matrices: their gradient adds up in
    one order, which that of gathered cells does not on a GPU."""
    parts, last = [], x.shape[axis] - 1
    for start in range(0, size, BLOCK):
        length = min(BLOCK, size - start)
        ends = [places.first + number * places.step for number in (start, start + length - 1)]
        low, high = (min(max(math.floor(end), 0), last) for end in (min(ends), max(ends) + 1))
        here = Cells(ends[0] - low, places.step)
        weights = _weights(here, length, high - low + 1, x.dtype, x.device)
        cells = x.narrow(axis, low, high - low + 1)
        parts.append(weights @ cells if axis == -2 else cells @ weights.mT)
    return parts[0] if len(parts) == 1 else torch.cat(parts, axis)


def place(x: Tensor, source: Cells, target: tuple[Cells, Cells], size: tuple[int, int]) -> Tensor:
    """x (B, C, h, w), whose cells lie at `source` along both axes -> (B, C, *size), at the places `target` of (rows,
    columns): bilinear, in x's dtype and memory format. Differentiable."""
    rows, columns = (axis.seen_from(source) for axis in target)
    with torch.autocast(x.device.type, enabled=False):
        if x.shape[1] > 1 and x.is_contiguous(memory_format=torch.channels_last):
            last = x.permute(0, 2, 3, 1)  # (B, h, w, C)
            high = along(last.flatten(2), -2, rows, size[0]).unflatten(2, last.shape[2:])
            return along(high, -2, columns, size[1]).permute(0, 3, 1, 2)
        return along(along(x, -1, columns, size[1]), -2, rows, size[0])
