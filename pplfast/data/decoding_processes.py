"""Processes that decode what DALI does not: the libraries hold Python's lock, and their codecs may crash."""

import io
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context

from pplfast.arrays import UInt8Array
from pplfast.data.bad_image import BadImage
from pplfast.data.decoding import decode
from pplfast.data.image_info import ImageInfo, Values
from pplfast.errors import UserError
from pplfast.pool import signals_held, start_worker


@dataclass(frozen=True)
class Encoded:
    """data: uint8 (bytes,). info: of the header, which was found good."""

    data: UInt8Array
    info: ImageInfo


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
PROCESSES = _Processes()


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
