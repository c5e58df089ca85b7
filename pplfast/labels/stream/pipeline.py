"""One rank's stages, joined by bounded queues: decode (thread) -> network (this thread) -> CRF, encode, write files
(processes) -> shards and manifest (thread)."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pplfast.arrays import Int64Array, UInt8Array
from pplfast.data.dataset import Dataset
from pplfast.data.images import BadImage, ImageInfo
from pplfast.errors import UserError, out_of_memory
from pplfast.labels.cam import own_classes
from pplfast.labels.memory import label_bytes
from pplfast.labels.stream.budget import Room
from pplfast.labels.stream.feed import DecodedBatch, Feed
from pplfast.labels.stream.manifest import ManifestWriter, checksum
from pplfast.labels.stream.maps import MapMaker, OutOfMemory
from pplfast.labels.stream.meter import Meter
from pplfast.labels.stream.plan import source_state
from pplfast.labels.stream.record import BAD, DONE
from pplfast.labels.stream.refine import Refined, Task
from pplfast.labels.stream.shards import ShardWriter
from pplfast.labels.stream.stopping import Stopping
from pplfast.labels.stream.workers import Workers

POLL = 0.2
TRIED_AGAIN = ("memory", "maps", "failed")  # reasons that need not lie in the file: the next start tries again
# (decoded images, full maps of their classes, image labels) -> per image uint8 labels; where the CRF runs on the device
Labeller = Callable[[Sequence[UInt8Array], torch.Tensor, UInt8Array], list[UInt8Array]]


@dataclass(frozen=True)
class Stages:
    """What the pipeline joins. keep_maps: the workers write the maps as well as the labels."""

    maps: MapMaker
    labeller: Labeller | None
    workers: Workers
    manifest: ManifestWriter
    shards: ShardWriter | None
    keep_maps: bool


class Pipeline:
    """Labels the images `mine` of the data set. `largest`: of the scales; `room`: bytes for images under way.

    With `strict`, a bad image ends the job with a UserError.
    """

    def __init__(
        self,
        dataset: Dataset,
        mine: Int64Array,
        stages: Stages,
        meter: Meter,
        stopping: Stopping,
        room: Room,
        largest: float,
        rank: int,
        strict: bool,
    ) -> None:
        self._dataset, self._mine, self._stages, self._meter = dataset, mine, stages, meter
        self._stopping, self._room, self._largest, self._rank, self._strict = stopping, room, largest, rank, strict
        self._labels = dataset.known_labels
        self._most_classes = int(self._labels.sum(axis=1).max())
        self._lock = threading.Lock()  # of the manifest, to which the feed's thread notes bad images
        self._out = 0  # images with the workers
        self._failure: BaseException | None = None
        self._ended = threading.Event()

    def run(self, screen: Callable[[Path], ImageInfo], batch: int, threads: int) -> None:
        """Returns when all is done, or what was in flight after a stop. Raises what a stage raised."""
        feed = Feed(
            self._dataset,
            self._mine.tolist(),
            batch,
            lambda h, w: self._batch_of(h, w, batch),
            screen,
            self._admit,
            self._release,
            self._bad,
            self._stopping.stopped,
            self._meter,
            threads,
            self._stages.maps.device,
        )
        writer = threading.Thread(target=self._write_results, name="write", daemon=True)
        writer.start()
        try:
            for decoded in feed:
                if self._stopping.stopped() or not self._compute(decoded):
                    break
        except BaseException as error:
            self._fail(error)
        finally:
            while self._out and self._failure is None:
                time.sleep(0.02)
            self._ended.set()
            writer.join()
            self._stages.workers.close(cancel=self._failure is not None)
        if self._failure is not None:
            raise self._failure
        if self._stages.shards is not None:
            self._stages.shards.close_shard()

    # --- memory ---

    def _bytes(self, height: int, width: int) -> int:
        return label_bytes(height * width, self._most_classes, self._largest)

    def _batch_of(self, height: int, width: int, batch: int) -> int:
        """A quarter of the room at most, so that the stages overlap."""
        return max(1, min(batch, self._room.size // 4 // self._bytes(height, width)))

    def _admit(self, height: int, width: int, count: int) -> bool:
        return self._room.take(count * self._bytes(height, width), self._stopping.stopped)

    def _release(self, height: int, width: int, count: int) -> None:
        self._room.give(count * self._bytes(height, width))

    # --- stages ---

    def _compute(self, decoded: DecodedBatch) -> bool:
        """The network, and on a device the CRF; hands the images to the workers. False when stopped."""
        dataset, stages = self._dataset, self._stages
        rows = self._labels[decoded.indices]
        height, width = decoded.pixels[0].shape[:2]
        size = (height, width)
        with self._meter.busy("network"):
            try:
                maps = stages.maps(decoded.pixels, own_classes(rows), self._stopping.stopped)
            except OutOfMemory:
                for index in decoded.indices:
                    self._give_up(
                        index, size, "memory", "even a small tile of it does not fit into memory; use a larger device"
                    )
                return True
            if maps is None:
                return False
            finite = torch.isfinite(maps).all(dim=(1, 2, 3)).tolist()
            on_host = maps.cpu().numpy() if stages.labeller is None or stages.keep_maps else None
        labels = None
        if stages.labeller is not None:
            start = time.monotonic()
            labels = labels_that_fit(stages.labeller, decoded.pixels, maps, rows)
            self._meter.add("crf", time.monotonic() - start)
        for row, index in enumerate(decoded.indices):
            if not finite[row]:
                self._give_up(index, size, "maps", "the maps hold values that are not finite; check the classifier")
                continue
            if labels is not None and labels[row] is None:
                self._give_up(
                    index,
                    size,
                    "memory",
                    "its CRF does not fit into the device's memory; use a larger "
                    "device, or --crf pydensecrf and another --out",
                )
                continue
            classes = tuple(int(c) for c in np.flatnonzero(rows[row]))
            task = Task(
                dataset.ids[index],
                index,
                dataset.images[index],
                classes,
                decoded.pixels[row] if labels is None else None,
                None if on_host is None else on_host[row, : len(classes)],
                None if labels is None else labels[row],
            )
            with self._lock:
                self._out += 1
            if not stages.workers.submit(task, self._stopping.stopped):
                with self._lock:
                    self._out -= 1
                return False
        return True

    def _write_results(self) -> None:
        while not self._ended.is_set():
            try:
                task, result = self._stages.workers.finished.get(timeout=POLL)
            except queue.Empty:
                continue
            try:
                self._finish(task, result)
            except BaseException as error:
                self._fail(error)
                return
            finally:
                with self._lock:
                    self._out -= 1

    def _finish(self, task: Task, result: Refined | BaseException) -> None:
        if isinstance(result, BaseException):
            raise result
        height, width = task.size
        if result.failure:
            self._give_up(task.index, task.size, "failed", result.failure)
            return
        self._release(height, width, 1)
        for stage, seconds in result.seconds.items():
            self._meter.add(stage, seconds)
        with self._meter.busy("write"), self._lock:
            files, shards = list(result.files), self._stages.shards
            if shards is not None and result.members:
                places = shards.add(result.members)
                files += [
                    {
                        "file": file,
                        "offset": offset,
                        "member": member.name,
                        "bytes": len(member.data),
                        "sha256": checksum(member.data),
                    }
                    for member, (file, offset) in zip(result.members, places, strict=True)
                ]
            ids = [self._dataset.classes.ids[c] for c in task.classes]
            self._stages.manifest.append(
                {
                    "id": task.id,
                    "state": DONE,
                    "classes": ids,
                    "height": height,
                    "width": width,
                    "files": files,
                    "seconds": {stage: round(value, 4) for stage, value in result.seconds.items()},
                    "rank": self._rank,
                    "time": round(time.time(), 3),
                }
            )
            if shards is not None and result.members and shards.full():
                shards.close_shard()
            self._meter.count(done=1)

    def _give_up(self, index: int, size: tuple[int, int], kind: str, reason: str) -> None:
        height, width = size
        self._release(height, width, 1)
        self._bad(index, BadImage(kind, reason))

    def _bad(self, index: int, error: BadImage) -> None:
        image_id, path = self._dataset.ids[index], self._dataset.images[index]
        with self._lock:
            record = {
                "id": image_id,
                "state": BAD,
                "kind": error.kind,
                "reason": f"{path}: {error}",
                "rank": self._rank,
                "time": round(time.time(), 3),
            }
            if error.kind not in TRIED_AGAIN:
                record["source"] = source_state(path)
            self._stages.manifest.append(record)
            self._meter.count(bad=1)
        if self._strict:
            raise UserError(f"{path}: {error} (--fail-on-bad)")

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        self._stopping.stop()


def labels_that_fit(
    labeller: Labeller, pixels: Sequence[UInt8Array], maps: torch.Tensor, rows: UInt8Array
) -> list[UInt8Array | None]:
    """A batch whose lattices do not fit into memory goes image by image; None for one that does not fit alone."""
    try:
        return [*labeller(pixels, maps, rows)]
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    # Out of the handler: the error's traceback holds the tensors of the attempt.
    if len(pixels) == 1:
        return [None]
    return [
        labels_that_fit(labeller, pixels[i : i + 1], maps[i : i + 1], rows[i : i + 1])[0] for i in range(len(pixels))
    ]
