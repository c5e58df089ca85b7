"""Image files -> decoded batches of one size, in a thread of its own, with a bounded queue behind it."""

import hashlib
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch

from pplfast.data.decoding_processes import Encoded
from pplfast.data.encoded import ImageDecoder, read_encoded
from pplfast.data.image_info import ImageInfo
from pplfast.data.images import BadImage, ImageFile, read_stored
from pplfast.data.pipelines import resolve_device
from pplfast.data.stored import Fetched, Stored
from pplfast.jobs.job import ImageBatch, Job
from pplfast.jobs.meter import Meter
from pplfast.pool import mapped

BATCHES_READY = 2
WINDOW = 16  # batches' worth of images whose headers are read ahead, to find some of one size
POLL = 0.2  # seconds between looks at `stopped` while waiting

Size = tuple[int, int]  # H, W


class Keeper(Protocol):
    """Who the feed asks and tells, from its threads."""

    def screen(self, index: int, image: ImageFile) -> ImageInfo:
        """The header of an image that can be used; raises BadImage for another. image: its file, or its bytes."""

    def batch_of(self, size: Size) -> int:
        """How many images of that size at a time."""

    def admit(self, size: Size, count: int) -> bool:
        """Waits for memory; false to stop. Who takes the images gives it back."""

    def bad(self, index: int, error: BadImage, admitted: Size | None = None) -> None:
        """The image gets no output; gives its memory back where it was admitted."""

    def read(self, index: int, sha256: str, decoder: str) -> None:
        """The image's file has been read, and goes to that decoder."""

    def stopped(self) -> bool: ...


class Feed:
    """Every image once, at most `batch` at a time, grouped by size within a window of the list; a group that waits
    longest goes first.

    Iterate over it to get the batches; an exception of the thread is raised there.
    """

    def __init__(
        self,
        job: Job,
        indices: Sequence[int],
        batch: int,
        keeper: Keeper,
        meter: Meter,
        threads: int,
        device: torch.device,
    ) -> None:
        self._job, self._indices, self._batch, self._keeper, self._meter = job, indices, batch, keeper, meter
        self._threads, self._device = threads, resolve_device(device)
        self._readers = job.dataset.readers(threads)
        self._waiting: dict[int, tuple[ImageFile, ImageInfo]] = {}
        self._ready: queue.Queue[ImageBatch | BaseException | None] = queue.Queue(BATCHES_READY)
        self._thread = threading.Thread(target=self._work, name="feed", daemon=True)

    def __iter__(self) -> Iterator[ImageBatch]:
        self._thread.start()
        while not self._keeper.stopped():
            try:
                item = self._ready.get(timeout=POLL)
            except queue.Empty:
                continue
            if item is None:
                break
            if isinstance(item, BaseException):
                raise item
            yield item
            del item  # or it would be held while the next one is made

    def end(self) -> None:
        """Wait for the thread, once the keeper says that all is stopped or all images came: DALI's threads end with it,
        not with the process, which they would abort."""
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        try:
            decoder = self._decoder() if self._job.decodes else None
            with ThreadPoolExecutor(self._readers, "read") as readers:
                for size, group in self._groups(readers):
                    if not self._keeper.admit(size, len(group)):
                        return
                    batch = ImageBatch(group, size, [])
                    if decoder is not None:
                        with self._meter.busy("decode"):
                            batch = self._decode(decoder, readers, batch)
                    if batch.indices and not self._put(batch):
                        return
                    del batch
            self._put(None)
        except BaseException as error:  # it belongs to the thread that iterates
            self._put(error)

    def _decoder(self) -> ImageDecoder:
        return ImageDecoder(self._batch, self._threads, self._device, self._job.dataset.values)

    def _put(self, item: ImageBatch | BaseException | None) -> bool:
        while not self._keeper.stopped():
            try:
                self._ready.put(item, timeout=POLL)
                return True
            except queue.Full:
                continue
        return False

    def _groups(self, readers: ThreadPoolExecutor) -> Iterator[tuple[Size, list[int]]]:
        waiting: dict[Size, list[int]] = {}  # in the order of each size's first image
        held, ahead = 0, max(4 * self._batch, 2 * self._readers)
        for index, found in mapped(readers, self._screen, map(int, self._indices), ahead):
            if self._keeper.stopped():
                return
            if isinstance(found, BadImage):
                self._keeper.bad(index, found)
                continue
            _, info = found
            size = info.height, info.width
            if self._job.decodes:
                self._waiting[index] = found
            group = waiting.setdefault(size, [])
            group.append(index)
            held += 1
            if len(group) >= self._keeper.batch_of(size):
                held -= len(group)
                yield size, waiting.pop(size)
            while held > WINDOW * self._batch:
                size = next(iter(waiting))
                held -= len(waiting[size])
                yield size, waiting.pop(size)
        yield from waiting.items()

    def _screen(self, index: int) -> tuple[int, tuple[ImageFile, ImageInfo] | BadImage]:
        return index, self._screened(index)

    def _screened(self, index: int) -> tuple[ImageFile, ImageInfo] | BadImage:
        try:
            image: ImageFile = self._job.dataset.images[index]
            if isinstance(image, Stored):  # its header is not worth a request of its own
                image = Fetched(image, read_stored(image))
            return image, self._keeper.screen(index, image)
        except BadImage as error:
            return error

    def _decode(self, decoder: ImageDecoder, readers: ThreadPoolExecutor, batch: ImageBatch) -> ImageBatch:
        encoded, indices = [], []
        for index, data in zip(batch.indices, readers.map(self._read, batch.indices), strict=True):
            if isinstance(data, BadImage):
                self._keeper.bad(index, data, batch.size)
            else:
                encoded.append(data)
                indices.append(index)
        good, pixels = [], []
        for index, image in zip(indices, decoder(encoded), strict=True):
            if isinstance(image, BadImage):
                self._keeper.bad(index, image, batch.size)
            elif image.shape[:2] != batch.size:  # replaced since its header was read
                self._keeper.bad(index, BadImage("failed", "changed while it was read; run again"), batch.size)
            else:
                good.append(index)
                pixels.append(image)
        return ImageBatch(good, batch.size, pixels)

    def _read(self, index: int) -> Encoded | BadImage:
        image, info = self._waiting.pop(index)
        try:
            data = read_encoded(image)
        except BadImage as error:
            return error
        self._keeper.read(index, hashlib.sha256(data.data).hexdigest(), info.decoder)
        return Encoded(data, info)
