"""A network on batches of decoded images: scale by scale, within a number of pixels per call, and in tiles where one
image alone passes it."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from pplfast import cpu
from pplfast.arrays import UInt8Array
from pplfast.data.handover import Handover
from pplfast.data.pipelines import Resizer, ahead, resolve_device
from pplfast.errors import out_of_memory
from pplfast.jobs.activations import activation_bytes
from pplfast.jobs.job import Choice
from pplfast.models.backbone import Network
from pplfast.precision import resolve_precision

OVERLAP = 128  # pixels that a tile sees beyond its own part, on each side where there are any
SMALLEST_TILE = 256  # pixels on a side, overlap not counted

Run = Callable[..., Tensor]  # images (rows, 3, h, w), and what goes with each row -> (rows, ...)
Tiled = Callable[..., Tensor]  # one row, what goes with it, and the pixels that one call may have


def network_choices(
    model: Network, run: Run, precision: str, device: torch.device, network_bytes: int
) -> dict[str, Choice]:
    """What a job decides once for its folder: "precision" where it is "auto", and "call_pixels", above which an image
    goes in tiles: a result must not depend on the memory that happens to be free when a job goes on."""
    resolved = resolve_precision(precision, device)
    model.to(device)
    cpu.install(model, device)
    with torch.autocast(device.type, torch.bfloat16, enabled=resolved == "bf16"):
        fits = network_bytes / max(1.0, activation_bytes(run, device))
    pixels = max(SMALLEST_TILE**2, 2 ** int(math.log2(max(1.0, fits))))
    choices = {"call_pixels": Choice(pixels, lambda value: type(value) is int and SMALLEST_TILE**2 <= value < 2**40)}
    if precision == "auto":
        choices["precision"] = Choice(resolved, ("fp32", "bf16").__contains__)
    return choices


class ScaledNetwork:
    """model: in eval mode. run: of it, on rows of images. tiled: of it, on one row that is larger than call_pixels.

    The rows of a scale (images, then mirrored images) go through the network in groups within `call_pixels`. tiled_at:
    the pixels of the smallest tile of the last call, 0 where no image was cut.
    """

    def __init__(
        self,
        model: Network,
        run: Run,
        tiled: Tiled,
        scales: Sequence[float],
        flip: bool,
        precision: str,
        call_pixels: int,
        batch: int,
        threads: int,
    ) -> None:
        self._run, self._tiled, self._scales, self.flip = run, tiled, tuple(scales), flip
        self.device = resolve_device(next(model.parameters()).device)
        self._bf16, self._call_pixels, self._group_pixels = precision == "bf16", call_pixels, call_pixels
        cpu.install(model, self.device)
        mean, std = model.backbone.mean, model.backbone.std
        self._resizer = Resizer(mean, std, batch, threads, Handover(self.device))
        self._scaler = ThreadPoolExecutor(1, "scale")
        self.tiled_at = 0

    def cast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16)

    def __call__(self, pixels: Sequence[UInt8Array], *more: Tensor) -> Iterator[tuple[Tensor, tuple[int, int]]]:
        """pixels: B times uint8 (H, W, 3); more: (B, ...) each -> per scale what the network makes of B rows, or of
        2 * B with mirrored ones, and the (h, w) of the scaled images. Raises the device's out-of-memory error where
        even the smallest tile does not fit."""
        self.tiled_at = 0
        for scaled in ahead(lambda scale: self._scaler.submit(self._resizer, pixels, scale), self._scales, 1):
            with torch.inference_mode(), self.cast():
                result, (height, width) = self._rows(scaled, more), scaled.shape[2:]
            del scaled  # or it would be held while the next one is made
            yield result, (height, width)
            del result

    def _rows(self, images: Tensor, more: tuple[Tensor, ...]) -> Tensor:
        """Of the images, then of the mirrored ones."""
        more = tuple(each.repeat(2, *[1] * (each.ndim - 1)) if self.flip else each for each in more)
        done: list[Tensor] = []
        rows, at = len(images) * (2 if self.flip else 1), 0
        size = images.shape[2] * images.shape[3]
        tile = self._call_pixels if size > self._call_pixels else 0
        while at < rows:
            count = 1 if tile else min(rows - at, max(1, self._group_pixels // size))
            part = _take(images, at, at + count)
            arguments = [each[at : at + count] for each in more]
            try:
                done.append(self._tiled(part, *arguments, tile) if tile else self._run(part, *arguments))
                at += count
                continue
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or (count == 1 and (tile or size) < SMALLEST_TILE**2):
                    raise
            # Out of the handler: the error's traceback holds the tensors of the attempt.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if count > 1:  # less from now on: what did not fit once would not fit the next time
                self._group_pixels = count * size // 2
            else:
                tile = (tile or size) // 2
        if tile:
            self.tiled_at = min(self.tiled_at or tile, tile)
        return torch.cat(done) if len(done) > 1 else done[0]


def in_tiles(run: Run, row: Tensor, pixels: int, align: int, stride: int) -> Tensor:
    """One row (1, 3, h, w) -> run(row) (1, n, ceil(h / stride), ceil(w / stride)), in overlapping parts of about that
    many pixels. Exact up to what lies beyond the overlap. align: the product of the network's strides, a multiple of
    stride, the pixels between two cells of the result."""
    height, width = row.shape[2:]
    side = max(SMALLEST_TILE, math.isqrt(pixels) - 2 * OVERLAP) // align * align
    halo = -(-OVERLAP // align) * align
    out: Tensor | None = None
    for top in range(0, height, side):
        for left in range(0, width, side):
            y, x = max(0, top - halo), max(0, left - halo)
            part = row[:, :, y : top + side + halo, x : left + side + halo]
            made = run(part.contiguous(memory_format=torch.channels_last))
            if out is None:
                out = made.new_empty((1, made.shape[1], -(-height // stride), -(-width // stride)))
            own = out[:, :, top // stride : (top + side) // stride, left // stride : (left + side) // stride]
            first = (top - y) // stride, (left - x) // stride
            own.copy_(made[:, :, first[0] : first[0] + own.shape[2], first[1] : first[1] + own.shape[3]])
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


def layers_hash(*layers: nn.Module) -> str:
    """Names a network by its last layers: training never leaves them unchanged."""
    digest = hashlib.sha256()
    for layer in layers:
        for tensor in layer.state_dict().values():
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
