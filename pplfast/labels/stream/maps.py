"""The network on a batch of decoded images: scale by scale, within a number of pixels, in tiles where one image alone
passes it, and with half of it after running out of memory."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from pplfast import cpu
from pplfast.arrays import UInt8Array
from pplfast.data.handover import Handover, to_device
from pplfast.data.pipelines import Resizer, ahead, resolve_device
from pplfast.errors import out_of_memory
from pplfast.kernels import cam_fuse
from pplfast.labels.cam import rows_at_once
from pplfast.labels.stream.budget import activation_bytes
from pplfast.patch.classifier import PatchClassifier
from pplfast.recipe import CamConfig

OVERLAP = 128  # pixels that a tile sees beyond its own part, on each side where there are any
SMALLEST_TILE = 256  # pixels on a side, overlap not counted


class OutOfMemory(Exception):
    """Even the smallest piece of an image does not fit."""


class MapMaker:
    """Decoded images -> CAMs at full size, normalised, of the classes asked for.

    budget: bytes for the network's activations. The rows of a scale (images, then mirrored images) go through the
    network in groups within it; sums are per row, so grouping does not change the maps beyond rounding. A tile of an
    image is exact up to what lies beyond its overlap, and patches are cut within the tile.
    """

    def __init__(
        self, model: PatchClassifier, config: CamConfig, precision: str, budget: int, batch: int, threads: int
    ) -> None:
        self.model, self.config, self.precision = model, config, precision
        self.device = resolve_device(next(model.parameters()).device)
        self.stride = math.prod(spec.stride for spec in model.backbone.specs)
        cpu.install(model, self.device)
        with self._cast():
            self.pixels = int(budget / activation_bytes(model.maps, self.device))  # input pixels that fit
        self._resizer = Resizer(model.backbone.mean, model.backbone.std, batch, threads, Handover(self.device))
        self._scaler = ThreadPoolExecutor(1, "scale")

    def _cast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def __call__(
        self, pixels: Sequence[UInt8Array], classes: Tensor, stopped: Callable[[], bool] = lambda: False
    ) -> Tensor | None:
        """pixels: B times uint8 (H, W, 3); classes int64 (B, n) -> float32 (B, n, H, W) on the device.

        None when `stopped` says so between two scales. Raises OutOfMemory.
        """
        height, width = pixels[0].shape[:2]
        classes = to_device(classes, self.device).repeat(2 if self.config.flip else 1, 1)
        maps = []
        with torch.inference_mode(), self._cast():
            for scaled in ahead(lambda scale: self._scaler.submit(self._resizer, pixels, scale), self.config.scales, 1):
                if stopped():
                    return None
                maps.append(self._rows(scaled, classes))
                del scaled
            return cam_fuse(maps, height, width, self.config.flip)

    def _rows(self, images: Tensor, classes: Tensor) -> Tensor:
        """images (B, 3, h, w) -> (B * F, n, h', w'): of the images, then of the mirrored ones."""
        done: list[Tensor] = []
        at, size = 0, images.shape[2] * images.shape[3]
        while at < len(classes):
            count = min(len(classes) - at, max(1, self.pixels // size), rows_at_once(self.device, size))
            rows = _take(images, at, at + count)
            try:
                done.append(
                    self._tiles(rows, classes[at : at + count])
                    if size > self.pixels
                    else self.model.maps(rows, classes[at : at + count])
                )
                at += count
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                self._halve(count * size)
        return torch.cat(done)

    def _halve(self, pixels: int) -> None:
        """Less from now on: what did not fit once would not fit the next time."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.pixels = min(self.pixels, pixels) // 2
        if self.pixels < SMALLEST_TILE**2 // 4:
            self.pixels = SMALLEST_TILE**2
            raise OutOfMemory

    def _tiles(self, row: Tensor, classes: Tensor) -> Tensor:
        """One row (1, 3, h, w) -> its maps (1, n, ceil(h / stride), ceil(w / stride)), in parts."""
        stride, (height, width) = self.stride, row.shape[2:]
        side = max(SMALLEST_TILE, math.isqrt(self.pixels) - 2 * OVERLAP) // stride
        halo = -(-OVERLAP // stride)
        cells = -(-height // stride), -(-width // stride)
        out: Tensor | None = None
        for top in range(0, cells[0], side):
            for left in range(0, cells[1], side):
                y, x = max(0, top - halo), max(0, left - halo)
                bottom, right = min(cells[0], top + side), min(cells[1], left + side)
                part = row[:, :, y * stride : (bottom + halo) * stride, x * stride : (right + halo) * stride]
                maps = self.model.maps(part.contiguous(memory_format=torch.channels_last), classes)
                if out is None:
                    out = maps.new_empty((1, maps.shape[1], *cells))
                out[:, :, top:bottom, left:right] = maps[:, :, top - y : bottom - y, left - x : right - x]
        assert out is not None, "an image has a tile"
        return out


def _take(images: Tensor, first: int, last: int) -> Tensor:
    """Rows first..last-1 of [images ; mirrored images], of which the second half is made on demand."""
    count = len(images)
    straight, mirrored = images[first : min(last, count)], images[max(first, count) - count : max(last, count) - count]
    if not len(mirrored):
        return straight
    mirrored = mirrored.flip(3)
    return torch.cat((straight, mirrored)) if len(straight) else mirrored
