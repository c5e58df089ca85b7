"""How many images of one shape a pass over a list takes at a time, so that all of it stays within a memory budget."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pplfast.cpu.memory import give_freed_memory_back
from pplfast.data.inference import BATCHES_AHEAD, Fit
from pplfast.labels.memory import too_large
from pplfast.labels.stream.budget import activation_bytes, split_budget

DECODED = 3 + 6  # bytes of a pixel: uint8 RGB; while it is decoded, the coefficients of a progressive JPEG
NORMALISED = 3 * 4  # float32 RGB, at one scale
MAKING = 1.5  # measured, in batches: DALI's outputs beside the tensor that is made of them, and what is not yet reused


@dataclass(frozen=True)
class BatchPlan:
    """Counts, for a batch and the batches that the loader makes ahead of it, bytes per pixel of an image.

    scaled: of one image at all scales, mirrored ones included. result: of what is made of one at its own size.
    activation: of one row in the network, per pixel of its input; `network` bytes are for the rows at once.
    On a GPU `network` bytes are also for what is scaled and made, and `host` bytes for what is in host memory.
    """

    batch: int
    rows_of_image: int  # 2 with mirrored ones
    largest: float  # scale
    others: float  # sum of the squares of the other scales
    scaled: float
    result: float
    activation: float
    host: int
    network: int
    gpu: bool

    def __call__(self, height: int, width: int) -> Fit:
        """Raises BadImage for an image that is too large to be worked on alone."""
        pixels, alone = height * width, self._held(1, 0) + (0 if self.gpu else self._row)
        if pixels * alone > self.host:
            raise too_large(width, height, self.host / alone)
        for count in range(self.batch, 0, -1):
            if self._holds(pixels, count, BATCHES_AHEAD):
                return Fit(count, BATCHES_AHEAD)
        return Fit(1, 0)

    def make_room(self, images: Tensor) -> int:
        """How many rows of images (rows, 3, h, w) one call of the network gets.

        Before a row that alone takes all of the network's share, what was freed goes back to the system: malloc, told
        to keep blocks for the next image, would hold those of every scale beside each other.
        """
        row = self.activation * images.shape[2] * images.shape[3]
        if row > self.network and not self.gpu:
            give_freed_memory_back()
        return max(1, int(self.network / row))

    def _holds(self, pixels: int, count: int, ahead: int) -> bool:
        if self.gpu:
            on_device = pixels * count * ((ahead + 1 + MAKING) * self.scaled + self.result)
            return on_device <= self.network and pixels * self._held(count, ahead) <= self.host
        row = pixels * self._row
        rows = max(row, min(self.network, count * self.rows_of_image * row))
        rows += int(pixels * self.activation * self.others)  # kept by malloc
        return pixels * self._held(count, ahead) + rows <= self.host

    def _held(self, count: int, ahead: int) -> float:
        """Bytes in host memory per pixel of an image, of `count` in a batch, but for the network's."""
        scaled = 0 if self.gpu else (ahead + 1 + MAKING) * self.scaled
        return count * ((ahead + 1) * DECODED + scaled + self.result)

    @property
    def _row(self) -> float:
        """What the network takes for one row of the largest scale, per pixel of the image."""
        return self.activation * self.largest**2


def plan_batches(
    run: Callable[[Tensor], object],
    device: torch.device,
    scales: Sequence[float],
    flip: bool,
    batch: int,
    result: float,
    budget: int,
) -> BatchPlan:
    """run: the network on (rows, 3, h, w), whose activations are counted on a small image. result: bytes per pixel
    of what is made of an image at its own size. budget: bytes.
    """
    gpu, rows = device.type == "cuda", 2 if flip else 1
    network, _ = split_budget(budget, device)
    scaled = NORMALISED * rows * sum(scale**2 for scale in scales)
    activation = max(1.0, activation_bytes(run, device))
    network = network // 2 if gpu else network  # the other half of what is free there: for what is scaled and made
    others = sum(scale**2 for scale in scales) - max(scales) ** 2
    return BatchPlan(batch, rows, max(scales), others, scaled, result, activation, budget, network, gpu)
