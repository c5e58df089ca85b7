"""Inference batches: images of one shape together, at several scales, plain and mirrored."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import torch

from pplfast.arrays import UInt8Array
from pplfast.data.dataset import Dataset
from pplfast.data.encoded import DAMAGED, read_encoded
from pplfast.data.handover import Handover
from pplfast.data.images import BadImage, inspect_image
from pplfast.data.pipelines import Decoder, Scaler, ahead, resolve_device
from pplfast.errors import UserError

BATCHES_AHEAD = 2  # one being made, one ready


@dataclass(frozen=True)
class InferenceBatch:
    indices: list[int]  # positions in the data set, B of them
    height: int  # of the original images
    width: int
    images: list[torch.Tensor]  # per scale float32 (B*F, 3, h, w), channels_last; B plain rows, then B mirrored ones


class Fit(NamedTuple):
    """How images of one shape go through the loader: how many at a time, and how many such batches ahead."""

    batch: int
    ahead: int


@dataclass
class _Made:
    batch: InferenceBatch | None  # None where no image of the batch could be used
    bad: list[tuple[int, str]] = field(default_factory=list)


class InferenceLoader:
    """Every image once, grouped by its stored height and width; a group's images keep their order.

    At scale s an image has (round(h*s), round(w*s)) pixels, by antialiased bicubic resizing in 0..255 as in the
    field's published CAM code. mean, std: 3 values in units of 0..255. indices: the images to use (default: all).
    An image that cannot be used is reported as on_bad(index, reason) and left out; without `on_bad` it raises
    UserError. fit(height, width): decided by the header, before anything is decoded; raises BadImage for a shape that
    cannot be used. Without it all shapes go `batch_size` at a time.
    """

    def __init__(
        self,
        dataset: Dataset,
        scales: Sequence[float],
        flip: bool,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int,
        threads: int = 2,
        device: str | torch.device = "cpu",
        indices: Sequence[int] | None = None,
        on_bad: Callable[[int, str], None] | None = None,
        fit: Callable[[int, int], Fit] | None = None,
    ):
        self._dataset, self._on_bad = dataset, on_bad
        self._fit = fit or (lambda height, width: Fit(batch_size, BATCHES_AHEAD))
        self._indices = [int(index) for index in (range(len(dataset)) if indices is None else indices)]
        device = resolve_device(device)
        self._decoder = Decoder(batch_size, threads, device)
        self._scaler = Scaler(scales, flip, mean, std, batch_size, threads, Handover(device))
        self._readers = ThreadPoolExecutor(threads, "read")
        self._decode_thread = ThreadPoolExecutor(1, "decode")
        self._scale_thread = ThreadPoolExecutor(1, "scale")

    def __iter__(self) -> Iterator[InferenceBatch]:
        for count, batches in groupby(self._batches(), lambda item: item[0]):
            for made in ahead(self._submit, (indices for _, indices in batches), count):
                for index, reason in made.bad:
                    self._report(index, reason)
                if (batch := made.batch) is not None:
                    del made  # or it would hold the batch while the next one is made
                    yield batch
                    del batch

    def _batches(self) -> Iterator[tuple[int, list[int]]]:
        """How many to make ahead, and a batch; those with few ahead come last."""
        groups: dict[tuple[int, int], list[int]] = {}
        fits: dict[tuple[int, int], Fit] = {}
        for index, found in zip(self._indices, self._readers.map(self._shape, self._indices), strict=True):
            if isinstance(found, BadImage):
                self._report(index, str(found))
            else:
                shape, fits[shape] = found
                groups.setdefault(shape, []).append(index)
        for shape in sorted(groups, key=lambda shape: -fits[shape].ahead):
            (batch, count), group = fits[shape], groups[shape]
            yield from ((count, group[at : at + batch]) for at in range(0, len(group), batch))

    def _shape(self, index: int) -> tuple[tuple[int, int], Fit] | BadImage:
        try:
            info = inspect_image(self._dataset.images[index])
            return (info.height, info.width), self._fit(info.height, info.width)
        except BadImage as error:
            return error

    def _report(self, index: int, reason: str) -> None:
        if self._on_bad is None:
            raise UserError(f"{self._dataset.images[index]}: {reason}; `pplfast data check` lists all such images")
        self._on_bad(index, reason)

    def _submit(self, indices: list[int]) -> "Future[_Made]":
        reads = [self._readers.submit(self._read, index) for index in indices]
        decoded = self._decode_thread.submit(self._decode, indices, reads)
        return self._scale_thread.submit(self._scale, decoded)

    def _read(self, index: int) -> UInt8Array | BadImage:
        try:
            return read_encoded(self._dataset.images[index], inspect=False)  # inspected when the groups were made
        except BadImage as error:
            return error

    def _decode(
        self,
        indices: list[int],
        reads: "list[Future[UInt8Array | BadImage]]",
    ) -> tuple[dict[int, UInt8Array], list[tuple[int, str]]]:
        encoded = {index: read.result() for index, read in zip(indices, reads, strict=True)}
        bad = [(index, str(value)) for index, value in encoded.items() if isinstance(value, BadImage)]
        readable = {index: value for index, value in encoded.items() if not isinstance(value, BadImage)}
        images = dict(zip(readable, self._decoder(list(readable.values())), strict=True))
        bad += [(index, DAMAGED) for index, image in images.items() if image is None]
        return {index: image for index, image in images.items() if image is not None}, bad

    def _scale(self, decoded: "Future[tuple[dict[int, UInt8Array], list[tuple[int, str]]]]") -> _Made:
        images, bad = decoded.result()
        if not images:
            return _Made(None, bad)
        arrays = list(images.values())
        height, width = arrays[0].shape[:2]
        return _Made(InferenceBatch(list(images), height, width, self._scaler(arrays)), bad)
