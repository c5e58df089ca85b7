"""Who finishes images: threads, or processes, able to go on when one of them dies."""

import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pplfast.errors import UserError
from pplfast.files import atomic_path
from pplfast.jobs.job import Finish
from pplfast.jobs.manifest import checksum
from pplfast.pool import QUEUED_PER_WORKER, signals_held, start_worker
from pplfast.storage import RETRIES

MOST_DEATHS = 2  # of workers with one image in hand, before that image is given up


@dataclass(frozen=True)
class Item:
    """An image on its way to its files. size: (H, W)."""

    id: str
    index: int
    size: tuple[int, int]
    payload: Any


@dataclass
class Result:
    """files, facts, seconds: for the record. sample: for the shard, which the rank's own process writes. retries: of
    reads, where that was in a process of its own."""

    files: list[dict[str, Any]] = field(default_factory=list)
    sample: dict[str, bytes] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failure: str = ""  # what is wrong with this image alone
    retries: int = 0


def finish(out: Path | None, how: Finish, item: Item) -> Result:
    """Raises UserError where an output cannot be written: that stops the job. All else is the image's failure. Without
    a folder the outputs are in the sample."""
    try:
        finished = how(item.payload)
    except Exception as error:  # whatever it is, the other images can still be done
        return Result(failure=str(error) if isinstance(error, UserError) else repr(error))
    if out is None:
        return Result([], finished.files, finished.facts, finished.seconds)
    files = [_write(out, f"{item.id}{suffix}", data) for suffix, data in finished.files.items()]
    return Result(files, finished.sample, finished.facts, finished.seconds)


def _write(out: Path, name: str, data: bytes) -> dict[str, Any]:
    with atomic_path(out / name, sync=False) as temporary:
        temporary.write_bytes(data)
    return {"file": name, "bytes": len(data), "sha256": checksum(data)}


_given: tuple[Path | None, Finish]


def _start(out: Path | None, how: Finish) -> None:
    """First call in each worker process."""
    global _given
    start_worker()
    os.nice(5)  # the network and the decoding, which feed all workers, go first where cores are short
    _given = out, how


def _finish_given(item: Item) -> Result:
    before = RETRIES.count
    result = finish(*_given, item)
    result.retries = RETRIES.count - before
    return result


class Workers:
    """Finishes items; results come out of `finished` in any order, as (item, Result or exception). out: the folder that
    they write to; None: the results hold the bytes.

    A process that dies takes the pool with it, and all images in work look guilty. The pool is started again with half
    the processes, since the usual cause is a lack of memory, and the suspects are repeated one at a time.
    """

    def __init__(self, out: Path | None, how: Finish, jobs: int, processes: bool) -> None:
        self._out, self._how, self.jobs, self._processes = out, how, jobs, processes
        self._slots = threading.Semaphore(jobs * QUEUED_PER_WORKER)
        self._lock, self._one_at_a_time = threading.Lock(), threading.Lock()
        self._completed = False  # whether any worker has ever finished an image
        self.finished: queue.SimpleQueue[tuple[Item, Result | BaseException] | None] = queue.SimpleQueue()
        self._pool = self._start()

    def _start(self) -> ProcessPoolExecutor | ThreadPoolExecutor:
        if not self._processes:
            return ThreadPoolExecutor(self.jobs, "finish")
        return ProcessPoolExecutor(self.jobs, get_context("spawn"), _start, (self._out, self._how))

    def submit(self, item: Item, stopped: Callable[[], bool]) -> bool:
        """Waits for a place in the queue; false when `stopped` says so first."""
        while not self._slots.acquire(timeout=0.2):
            if stopped():
                return False
        pool, future = self._send(item)
        future.add_done_callback(lambda done: self._done(pool, item, done))
        return True

    def _send(self, item: Item) -> tuple[Any, Future[Result]]:
        while True:
            pool = self._pool
            try:
                if isinstance(pool, ThreadPoolExecutor):
                    return pool, pool.submit(finish, self._out, self._how, item)
                with signals_held():
                    return pool, pool.submit(_finish_given, item)
            except BrokenProcessPool:
                self._replace(pool)

    def _done(self, pool: Any, item: Item, future: Future[Result]) -> None:
        error = None if future.cancelled() else future.exception()
        if isinstance(error, BrokenProcessPool):
            # Not in this thread: it belongs to the broken pool and must be free to end.
            threading.Thread(target=self._again, args=(pool, item), daemon=True).start()
        elif not future.cancelled():
            self._completed = self._completed or error is None
            self._finish(item, error if error is not None else future.result())

    def _finish(self, item: Item, result: Result | BaseException) -> None:
        self._slots.release()
        self.finished.put((item, result))

    def _again(self, pool: Any, item: Item) -> None:
        with self._one_at_a_time:
            for _ in range(MOST_DEATHS):
                self._replace(pool)
                pool, future = self._send(item)
                try:
                    result: Result | BaseException = future.result()
                except BrokenProcessPool:
                    continue
                except BaseException as error:
                    result = error
                self._completed = True
                self._finish(item, result)
                return
        why = "probably for lack of memory; use fewer --jobs"
        if self._completed:
            self._finish(item, Result(failure=f"its worker process died {MOST_DEATHS + 1} times, {why}"))
        else:
            text = f"the worker processes die before they finish an image, {why}, and see what they print above"
            self._finish(item, UserError(text))

    def _replace(self, broken: Any) -> None:
        with self._lock:
            if self._pool is broken:
                self.jobs = max(1, self.jobs // 2)
                self._pool = self._start()

    def close(self, cancel: bool) -> None:
        self._pool.shutdown(wait=not cancel, cancel_futures=cancel)
