"""CAM files written by a few threads, while the network works on the next batches."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from torch import Tensor

from pplfast.arrays import IntArray
from pplfast.data.handover import HostCopy
from pplfast.labels.camfile import Cam, save_cam, save_npy
from pplfast.labels.folder import OutputFolder

# A file is on the disk before it gets its name, or the next pass would take what a loss of power left for whole. That
# wait, a few milliseconds each, is what the threads are for: 4 write 6 times as many files a second as one.
THREADS = 4
BATCHES_WAITING = 2  # handed over and not yet written: one on its way to host memory, one on its way to the disk


@dataclass(frozen=True)
class Row:
    """One image of a batch: its place there, and its classes, whose maps come first."""

    row: int
    id: str
    classes: IntArray  # (k,), written as int16


class CamWriter:
    """Use as a context manager; leaving it in order waits for all files, an exception drops those not yet begun.

    Failed images and the number of written ones are noted in the folder by the thread that calls, and what a writer
    raises, a UserError that names the file, is raised there.
    """

    def __init__(self, folder: OutputFolder) -> None:
        self._folder = folder
        self._pool = ThreadPoolExecutor(THREADS, "write")
        self._waiting: deque[list[tuple[Row, Future[str]]]] = deque()

    def __enter__(self) -> "CamWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            while kind is None and self._waiting:
                self._settle()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def add(self, rows: Sequence[Row], size: tuple[int, int], stored: Tensor, full: Tensor | None = None) -> None:
        """stored: float32 (B, n, ceil(H/4), ceil(W/4)). full: float32 (B, n, H, W), where `<id>.npy` is written too.

        Returns at once, unless too many batches wait. The tensors must not be changed afterwards.
        """
        maps, high_res = HostCopy(stored), HostCopy(full) if full is not None else None
        self._waiting.append([(row, self._pool.submit(self._write, row, size, maps, high_res)) for row in rows])
        while len(self._waiting) > BATCHES_WAITING:
            self._settle()

    def _settle(self) -> None:
        """Wait for the oldest batch, and note what became of its images."""
        for row, future in self._waiting.popleft():
            reason = future.result()
            if reason:
                self._folder.failed(row.id, reason)
            else:
                self._folder.outcome.written += 1

    def _write(self, row: Row, size: tuple[int, int], maps: HostCopy, high_res: HostCopy | None) -> str:
        """In a thread of the pool. Returns why the image has no output, or ""."""
        own = maps.numpy()[row.row, : len(row.classes)]
        if not np.isfinite(own).all():
            return "the maps hold values that are not finite"
        cam = Cam(row.classes, own.astype(np.float16), size)
        if high_res is not None:
            save_npy(npy_path(self._folder, row.id), cam, high_res.numpy()[row.row, : len(row.classes)])
        save_cam(self._folder.output(row.id), cam)
        return ""


def npy_path(folder: OutputFolder, image_id: str) -> Path:
    return folder.path / f"{image_id}.npy"
