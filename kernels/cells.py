"""Where the cells of a map lie along an axis of its image, and maps brought to other places.

A convolution centres its window on a pixel that its padding decides, so the cells of a network need not share the
image evenly, which is what `interpolate(align_corners=False)` takes for granted: with TensorFlow's padding of an even
size they lie half a stride further to the bottom and right, with symmetric padding half a stride to the top and left.
"""

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


@lru_cache(256)
def weights(source: Cells, count: int, target: Cells, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(size, count): what each of `count` cells at `source` gives to each place of `target`, linear between two cells,
    the outermost cell's beyond it."""
    with torch.inference_mode(False), torch.no_grad():  # kept between calls, for training too
        first, step = target.seen_from(source)
        position = torch.arange(size, device=device, dtype=torch.float32) * step + first
        cell = torch.arange(count, device=device, dtype=torch.float32)
        distance = (position.clamp(0, count - 1)[:, None] - cell).abs()
        return (1 - distance).clamp(min=0).to(dtype)


def place(x: Tensor, source: Cells, target: tuple[Cells, Cells], size: tuple[int, int]) -> Tensor:
    """x (B, C, h, w), whose cells lie at `source` along both axes -> (B, C, *size), at the places `target` of (rows,
    columns): bilinear, in x's dtype and memory format. Differentiable."""
    with torch.autocast(x.device.type, enabled=False):
        rows, columns = (
            weights(source, count, axis, length, x.dtype, x.device)
            for count, axis, length in zip(x.shape[2:], target, size, strict=True)
        )
        if x.shape[1] > 1 and x.is_contiguous(memory_format=torch.channels_last):
            last = x.permute(0, 2, 3, 1)  # (B, h, w, C)
            high = (rows @ last.flatten(2)).unflatten(2, last.shape[2:])
            return (columns @ high).permute(0, 3, 1, 2)
        return rows @ x @ columns.mT
