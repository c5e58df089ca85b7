"""The bytes of an image file on their way to its decoder: DALI, or a library in processes beside."""

import io
import os
import threading
from collections.abc import Sequence
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
from pplfast.errors import UserError
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
        sent = {
            row: _processes.submit(image, self._values, self._threads)
            for row, image in enumerate(encoded)
            if image.info.decoder != DALI
        }
        dali = iter(self._dali([image.data for image in encoded if image.info.decoder == DALI]))
        found = [
            _processes.result(sent[row], image, self._values) if row in sent else next(dali)
            for row, image in enumerate(encoded)
        ]
        return [
            BadImage("damaged", image or DAMAGED) if image is None or isinstance(image, str) else image
            for image in found
        ]


class _Processes:
    """Of this process, for all its decoders and their threads."""

    def __init__(self) -> None:
        self._lock, self._one_at_a_time = threading.Lock(), threading.Lock()
        self._pool: ProcessPoolExecutor | None = None

    def submit(self, image: Encoded, values: Values | None, count: int) -> "_Waiting":
        """count: of processes, where none have been started."""
        with self._lock:
            for _ in range(2):  # they may have died since
                if self._pool is None:
                    self._pool = _pool(count)
                try:
                    return self._pool, _submitted(self._pool, image, values)
                except BrokenProcessPool:
                    self._pool = None
        raise _cannot_start()

    def result(self, waiting: "_Waiting", image: Encoded, values: Values | None) -> UInt8Array | str:
        """As `decode_bytes`. A process that dies takes with it all that is at work: each is tried again, alone."""
        pool, future = waiting
        try:
            return future.result()
        except BrokenProcessPool:
            with self._lock:
                if self._pool is pool:  # not one that has been started since
                    self._pool = None
        with self._one_at_a_time, _pool(1) as alone:
            try:
                return _submitted(alone, image, values).result()
            except BrokenProcessPool:
                _check_start()
        return f"{image.info.decoder} ends its process over it; restore it, or save it in another form"


_Waiting = tuple[ProcessPoolExecutor, "Future[UInt8Array | str]"]
_processes = _Processes()


def _pool(count: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(count, get_context("spawn"), start_worker)


def _submitted(pool: ProcessPoolExecutor, image: Encoded, values: Values | None) -> "Future[UInt8Array | str]":
    with signals_held():
        return pool.submit(decode_bytes, image.data.tobytes(), image.info, values)


def _check_start() -> None:
    """Raises UserError where no process can be started: then it is not the image's fault."""
    with _pool(1) as pool:
        try:
            pool.submit(int).result()
        except BrokenProcessPool:
            raise _cannot_start() from None


def _cannot_start() -> UserError:
    return UserError(
        "processes that decode images cannot be started: memory is short, or a script lacks "
        "`if __name__ == '__main__':` before what it does"
    )


def decode_bytes(data: bytes, info: ImageInfo, values: Values | None) -> UInt8Array | str:
    """uint8 (H, W, 3), or what is wrong with the file."""
    try:
        return decode(io.BytesIO(data), info, values)
    except BadImage as error:
        return str(error)
    except Exception as error:  # nobody knows all that the libraries raise, and it must cost this image alone
        return f"{info.decoder} fails over it ({type(error).__name__}: {error!s:.200}); save it in another form"
