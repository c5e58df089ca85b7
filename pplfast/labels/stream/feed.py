"""Image files -> decoded batches of one shape, in a thread of its own, with a bounded queue behind it."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from pplfast.arrays import UInt8Array
from pplfast.data.dataset import Dataset
from pplfast.data.encoded import DAMAGED, read_encoded
from pplfast.data.images import BadImage, ImageInfo
from pplfast.data.pipelines import Decoder, resolve_device
from pplfast.labels.stream.meter import Meter

BATCHES_READY = 2
WINDOW = 16  # batches' worth of images whose headers are read ahead, to find some of one shape
POLL = 0.2  # seconds between looks at `stop` while waiting


@dataclass(frozen=True)
class DecodedBatch:
    indices: list[int]  # positions in the data set
    pixels: list[UInt8Array]  # uint8 (H, W, 3) RGB, all of one shape


class Feed:
    """Every image once, grouped by shape within a window of the list; a group that waits longest goes first.

    batch_of(height, width): how many images of that shape at a time, at most `batch`.
    screen(path): the header of a usable image; BadImage otherwise. on_bad(index, error): called for each that is not.
    admit(height, width, count): waits for memory; false to stop. The taker gives it back, here for bad images only.
    Iterate over it to get the batches; an exception of the thread is raised there.
    """

    def __init__(
        self,
        dataset: Dataset,
        indices: Sequence[int],
        batch: int,
        batch_of: Callable[[int, int], int],
        screen: Callable[[Path], ImageInfo],
        admit: Callable[[int, int, int], bool],
        release: Callable[[int, int, int], None],
        on_bad: Callable[[int, BadImage], None],
        stopped: Callable[[], bool],
        meter: Meter,
        threads: int,
        device: torch.device,
    ):
        self._dataset, self._indices, self._batch, self._batch_of = dataset, indices, batch, batch_of
        self._screen, self._admit, self._release, self._on_bad = screen, admit, release, on_bad
        self._stopped, self._meter, self._threads = stopped, meter, threads
        self._device = resolve_device(device)
        self._ready: queue.Queue[DecodedBatch | BaseException | None] = queue.Queue(BATCHES_READY)
        self._thread = threading.Thread(target=self._work, name="feed", daemon=True)

    def __iter__(self) -> Iterator[DecodedBatch]:
        self._thread.start()
        while not self._stopped():
            try:
                item = self._ready.get(timeout=POLL)
            except queue.Empty:
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def _work(self) -> None:
        try:
            decoder = Decoder(self._batch, self._threads, self._device)
            with ThreadPoolExecutor(self._threads, "read") as readers:
                for (height, width), group in self._groups(readers):
                    if not self._admit(height, width, len(group)):
                        return
                    with self._meter.busy("decode"):
                        batch = self._decode(decoder, readers, group, height, width)
                    if batch.indices and not self._put(batch):
                        return
            self._put(None)
        except BaseException as error:  # it belongs to the thread that iterates
            self._put(error)

    def _put(self, item: DecodedBatch | BaseException | None) -> bool:
        while not self._stopped():
            try:
                self._ready.put(item, timeout=POLL)
                return True
            except queue.Full:
                continue
        return False

    def _groups(self, readers: ThreadPoolExecutor) -> Iterator[tuple[tuple[int, int], list[int]]]:
        waiting: dict[tuple[int, int], list[int]] = {}  # in the order of each shape's first image
        held, step = 0, 4 * self._batch
        for at in range(0, len(self._indices), step):
            if self._stopped():
                return
            chunk = [int(index) for index in self._indices[at : at + step]]
            for index, shape in zip(chunk, list(readers.map(self._shape, chunk)), strict=True):
                if isinstance(shape, BadImage):
                    self._on_bad(index, shape)
                    continue
                group = waiting.setdefault(shape, [])
                group.append(index)
                held += 1
                if len(group) >= self._batch_of(*shape):
                    held -= len(group)
                    yield shape, waiting.pop(shape)
            while held > WINDOW * self._batch:
                shape = next(iter(waiting))
                held -= len(waiting[shape])
                yield shape, waiting.pop(shape)
        yield from waiting.items()

    def _shape(self, index: int) -> tuple[int, int] | BadImage:
        try:
            info = self._screen(self._dataset.images[index])
        except BadImage as error:
            return error
        return info.height, info.width

    def _decode(
        self, decoder: Decoder, readers: ThreadPoolExecutor, group: list[int], height: int, width: int
    ) -> DecodedBatch:
        encoded, indices = [], []
        for index, data in zip(group, readers.map(self._read, group), strict=True):
            if isinstance(data, BadImage):
                self._bad(index, data, height, width)
            else:
                encoded.append(data)
                indices.append(index)
        good, pixels = [], []
        for index, image in zip(indices, decoder(encoded), strict=True):
            if image is None:
                self._bad(index, BadImage("damaged", DAMAGED), height, width)
            elif image.shape[:2] != (height, width):  # replaced since its header was read
                self._bad(index, BadImage("damaged", "changed while it was read; run again"), height, width)
            else:
                good.append(index)
                pixels.append(image)
        return DecodedBatch(good, pixels)

    def _bad(self, index: int, error: BadImage, height: int, width: int) -> None:
        self._release(height, width, 1)
        self._on_bad(index, error)

    def _read(self, index: int) -> UInt8Array | BadImage:
        try:
            return read_encoded(self._dataset.images[index], inspect=False)
        except BadImage as error:
            return error
