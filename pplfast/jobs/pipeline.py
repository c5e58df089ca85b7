"""One rank's phases, joined by bounded queues: decode (thread) -> compute (this thread) -> finish, write files
(workers) -> the outputs (thread)."""

import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch

from pplfast.arrays import Int64Array
from pplfast.cpu.memory import no_memory_kept
from pplfast.data.image_info import ImageInfo
from pplfast.data.images import BadImage, ImageFile
from pplfast.errors import UserError, out_of_memory
from pplfast.jobs.feed import Feed, Size
from pplfast.jobs.job import ImageBatch, Job
from pplfast.jobs.memory import Room
from pplfast.jobs.meter import Meter
from pplfast.jobs.options import JobOptions
from pplfast.jobs.outputs import Outputs
from pplfast.jobs.plan import inputs, source_state
from pplfast.jobs.record import BAD, DONE, Record
from pplfast.jobs.screen import screen
from pplfast.jobs.stopping import Stopping
from pplfast.jobs.workers import Item, Result, Workers

LARGE = 2**28  # bytes: an image that takes as much leaves holes that malloc does not fill with the next one
NO_ROOM = "it does not fit into the memory of the device even alone; use a larger device, or make it smaller"


@dataclass(frozen=True)
class Ends:
    """Where the images of a rank go."""

    workers: Workers
    outputs: Outputs


class Pipeline:
    """Does a prepared job on the images at `indices` of its data set. room: for the images under way."""

    def __init__(
        self, job: Job, ends: Ends, options: JobOptions, room: Room, meter: Meter, stopping: Stopping, rank: int
    ) -> None:
        self._job, self._ends, self._options, self._room = job, ends, options, room
        self._meter, self._stopping, self._rank = meter, stopping, rank
        self._pixel = job.pixel_bytes()
        self._lock = threading.Lock()
        self._known: dict[int, Record] = {}  # what is known of the images under way
        self._out = 0  # images with the workers
        self._failure: BaseException | None = None

    def run(self, positions: Int64Array, threads: int, device: torch.device) -> None:
        """Returns when all is done, or what was in flight after a stop. Raises what a phase raised."""
        # On a CPU the last bits of an image's result depend on what is beside it in a call, so it goes alone: ranks and
        # restarts must not show. The jobs take no longer for it (benchmarks/jobs_old_new.py). A GPU needs the company.
        self._batch = 1 if device.type == "cpu" else self._job.batch
        indices = cast(Sequence[int], positions)  # to the feed it is one; a list would take ten times its bytes
        feed = Feed(self._job, indices, self._batch, self, self._meter, threads, device)
        writer = threading.Thread(target=self._write_results, name="write", daemon=True)
        writer.start()
        try:
            for batch in feed:
                if self.stopped() or not self._compute(batch):
                    break
                del batch  # or it would be held while the next one is made
        except BaseException as error:
            self._fail(error)
        finally:
            while self._out and self._failure is None:
                time.sleep(0.02)
            self._ends.workers.finished.put(None)
            writer.join()
            feed.end()
            self._ends.workers.close(cancel=self._failure is not None)
        if self._failure is not None:
            self._ends.outputs.abandon()
            raise self._failure
        self._ends.outputs.close()

    # --- asked and told by the feed ---

    def screen(self, index: int, image: ImageFile) -> ImageInfo:
        self._ends.outputs.check(index)
        state = source_state(self._job.dataset.images[index])
        self._known[index] = {"source": state, "inputs": inputs(self._job, index)}
        self._job.depends(index)
        most = int(self._room.size / self._pixel)
        return screen(image, self._options.rotated, most, self._job.smallest, self._job.dataset.values)

    def batch_of(self, size: Size) -> int:
        """A quarter of the room at most, so that the phases overlap."""
        return max(1, min(self._batch, self._room.size // 4 // self._bytes(size)))

    def admit(self, size: Size, count: int) -> bool:
        return self._room.take(count * self._bytes(size), self.stopped)

    def read(self, index: int, sha256: str, decoder: str) -> None:
        self._known[index] |= {"image_sha256": sha256, "decoder": decoder}

    def bad(self, index: int, error: BadImage, admitted: Size | None = None) -> None:
        path = self._job.dataset.images[index]
        if admitted is not None:
            self._release(admitted)
        said = {"id": self._job.dataset.ids[index], "state": BAD, "kind": error.kind, "reason": f"{path}: {error}"}
        self._take(index, said, {}, Result())
        self._meter.count(bad=1)
        if self._options.strict:
            raise UserError(f"{path}: {error} (--fail-on-bad)")

    def stopped(self) -> bool:
        return self._stopping.stopped()

    # --- memory ---

    def _bytes(self, size: Size) -> int:
        return int(size[0] * size[1] * self._pixel) + 1

    def _release(self, size: Size) -> None:
        self._room.give(self._bytes(size))

    # --- phases ---

    def _compute(self, batch: ImageBatch) -> bool:
        """Hands the images to the workers. False when stopped."""
        large = self._bytes(batch.size) > LARGE
        with self._meter.busy("network"), no_memory_kept() if large else nullcontext():
            payloads = self._payloads(batch)
        if payloads is None:
            return False
        for index, payload in zip(batch.indices, payloads, strict=True):
            if isinstance(payload, BadImage):
                self.bad(index, payload, batch.size)
                continue
            item = Item(self._job.dataset.ids[index], index, batch.size, payload)
            with self._lock:
                self._out += 1
            if not self._ends.workers.submit(item, self.stopped):
                with self._lock:
                    self._out -= 1
                return False
        return True

    def _payloads(self, batch: ImageBatch) -> list[Any | BadImage] | None:
        """A batch that does not fit into memory goes image by image."""
        try:
            return self._job.compute(batch, self.stopped)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        # Out of the handler: the error's traceback holds the tensors of the attempt.
        if len(batch.indices) == 1:
            return [BadImage("memory", NO_ROOM)]
        payloads: list[Any | BadImage] = []
        for row in range(len(batch.indices)):
            alone = self._payloads(batch.one(row))
            if alone is None:
                return None
            payloads += alone
        return payloads

    def _write_results(self) -> None:
        while (result := self._ends.workers.finished.get()) is not None:
            try:
                self._finish(*result)
            except BaseException as error:
                self._fail(error)
                return
            finally:
                with self._lock:
                    self._out -= 1

    def _finish(self, item: Item, result: Result | BaseException) -> None:
        if isinstance(result, BaseException):
            raise result
        self._meter.count(retries=result.retries)
        if result.failure:
            self.bad(item.index, BadImage("failed", result.failure), item.size)
            return
        self._release(item.size)
        for phase, seconds in result.seconds.items():
            self._meter.add(phase, seconds)
        with self._meter.busy("write"):
            said = {"id": item.id, **result.facts, "height": item.size[0], "width": item.size[1]}
            rounded = {phase: round(value, 4) for phase, value in result.seconds.items()}
            self._take(item.index, said, {"state": DONE, "seconds": rounded}, result)
        self._meter.count(done=1)

    def _take(self, index: int, said: dict[str, Any], more: Record, made: Result) -> None:
        known = self._known.pop(index, {})
        record = {**said, **more, **known, "rank": self._rank, "time": round(time.time(), 3)}
        self._ends.outputs.take(index, record, said, made)

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        self._stopping.stop()
