"""The bytes of an image file on their way to its decoder: DALI, or a library in processes beside."""

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np

from pplfast.arrays import UInt8Array
from pplfast.data.bad_image import BadImage
from pplfast.data.decoding import decode
from pplfast.data.image_info import DALI, ImageInfo, Values
from pplfast.data.images import open_image_file
from pplfast.files import StrPath
from pplfast.pool import signals_held, start_worker

if TYPE_CHECKING:
    import torch

DAMAGED = "damaged or truncated; restore it"  # what a failed decode means, once the header was found good


@dataclass(frozen=True)
class Encoded:
    """data: uint8 (bytes,). info: of the header, which was found good."""

    data: UInt8Array
    info: ImageInfo


def read_encoded(path: StrPath) -> UInt8Array:
    """uint8 (bytes,). BadImage for whatever the operating system refuses."""
    with open_image_file(path) as file:
        data = np.empty(os.fstat(file.fileno()).st_size, np.uint8)
        return data[: file.readinto(data.data)]


class ImageDecoder:
    """Decodes batch by batch, each image by the decoder that its header names; a bad one costs its own result only.

    What DALI does not decode goes to processes: the libraries hold Python's lock, and their codecs may crash. values:
    the range of images deeper than 8 bits.
    """

    def __init__(self, batch_size: int, threads: int, device: "torch.device", values: Values | None) -> None:
        from pplfast.data.pipelines import Decoder

        self._dali, self._threads, self._values = Decoder(batch_size, threads, device), threads, values

    def __call__(self, encoded: Sequence[Encoded]) -> list[UInt8Array | BadImage]:
        """uint8 (H, W, 3) for each, or what is wrong with the file."""
        others = [row for row, image in enumerate(encoded) if image.info.decoder != DALI]
        waiting = {row: _Decoding(encoded[row], self._values, self._threads) for row in others}
        dali = iter(self._dali([image.data for image in encoded if image.info.decoder == DALI]))
        found = [waiting[row].result() if row in waiting else next(dali) for row in range(len(encoded))]
        return [
            BadImage("damaged", image or DAMAGED) if image is None or isinstance(image, str) else image
            for image in found
        ]


class _Decoding:
    """One image on its way through a process."""

    def __init__(self, image: Encoded, values: Values | None, processes: int) -> None:
        self._decoder = image.info.decoder
        self._send: Callable[[], Future[UInt8Array | str]] = lambda: _processes(processes).submit(
            decode_bytes, image.data.tobytes(), image.info, values
        )
        self._future = self._submit()

    def _submit(self) -> "Future[UInt8Array | str]":
        with signals_held():
            try:
                return self._send()
            except BrokenProcessPool:
                _start_again()
                return self._send()

    def result(self) -> UInt8Array | str:
        """As `decode_bytes`. A process that dies takes all that are at work with it: each is tried once more, and by
        then alone."""
        try:
            return self._future.result()
        except BrokenProcessPool:
            _start_again()
        try:
            return self._submit().result()
        except BrokenProcessPool:
            _start_again()
            return f"{self._decoder} ends its process over it; restore it, or save it in another form"


_pool: ProcessPoolExecutor | None = None  # of this process, for all its decoders


def _processes(count: int) -> ProcessPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ProcessPoolExecutor(count, get_context("spawn"), start_worker)
    return _pool


def _start_again() -> None:
    global _pool
    _pool = None


def decode_bytes(data: bytes, info: ImageInfo, values: Values | None) -> UInt8Array | str:
    """uint8 (H, W, 3), or what is wrong with the file."""
    try:
        return decode(io.BytesIO(data), info, values)
    except BadImage as error:
        return str(error)
    except Exception as error:  # nobody knows all that the libraries raise, and it must cost this image alone
        return f"{info.decoder} fails over it ({type(error).__name__}: {error!s:.200}); save it in another form"
