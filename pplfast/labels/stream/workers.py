"""The pool of CRF processes: bounded, and able to go on when one of them dies."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from pplfast.errors import UserError
from pplfast.labels.pool import QUEUED_PER_WORKER
from pplfast.labels.stream import refine
from pplfast.labels.stream.refine import RefineConfig, Refined, Task

MOST_DEATHS = 2  # of workers with one image in hand, before that image is given up


class Workers:
    """Runs `refine` on tasks; results come out of `finished` in any order, as (task, Refined or exception).

    A worker that dies takes the pool with it, and all images in work look guilty. The pool is started again with half
    the processes, since the usual cause is a lack of memory, and the suspects are repeated one at a time.
    """

    def __init__(self, config: RefineConfig, jobs: int) -> None:
        self._config, self.jobs = config, jobs
        self._slots = threading.Semaphore(jobs * QUEUED_PER_WORKER)
        self._lock, self._one_at_a_time = threading.Lock(), threading.Lock()
        self._completed = False  # whether any worker has ever finished an image
        self.finished: queue.SimpleQueue[tuple[Task, Refined | BaseException]] = queue.SimpleQueue()
        self._pool = self._start()

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self.jobs, get_context("spawn"), refine.start, (self._config,))

    def submit(self, task: Task, stopped: Callable[[], bool]) -> bool:
        """Waits for a place in the queue; false when `stopped` says so first."""
        while not self._slots.acquire(timeout=0.2):
            if stopped():
                return False
        pool, future = self._send(task)
        future.add_done_callback(lambda done: self._done(pool, task, done))
        return True

    def _send(self, task: Task) -> tuple[ProcessPoolExecutor, Future[Refined]]:
        while True:
            pool = self._pool
            try:
                return pool, pool.submit(refine.refine, task)
            except BrokenProcessPool:
                self._replace(pool)

    def _done(self, pool: ProcessPoolExecutor, task: Task, future: Future[Refined]) -> None:
        error = None if future.cancelled() else future.exception()
        if isinstance(error, BrokenProcessPool):
            # Not in this thread: it belongs to the broken pool and must be free to end.
            threading.Thread(target=self._again, args=(pool, task), daemon=True).start()
        elif not future.cancelled():
            self._completed = self._completed or error is None
            self._finish(task, error if error is not None else future.result())

    def _finish(self, task: Task, result: Refined | BaseException) -> None:
        self._slots.release()
        self.finished.put((task, result))

    def _again(self, pool: ProcessPoolExecutor, task: Task) -> None:
        with self._one_at_a_time:
            for _ in range(MOST_DEATHS):
                self._replace(pool)
                pool, future = self._send(task)
                try:
                    result: Refined | BaseException = future.result()
                except BrokenProcessPool:
                    continue
                except BaseException as error:
                    result = error
                self._completed = True
                self._finish(task, result)
                return
        if self._completed:
            self._finish(
                task,
                Refined(
                    failure=f"its worker process died {MOST_DEATHS + 1} times, probably for lack of "
                    "memory; use fewer --jobs"
                ),
            )
        else:
            self._finish(
                task,
                UserError(
                    "the worker processes die before they finish an image, probably for lack of "
                    "memory; use fewer --jobs, and see what they print above"
                ),
            )

    def _replace(self, broken: ProcessPoolExecutor) -> None:
        with self._lock:
            if self._pool is broken:
                self.jobs = max(1, self.jobs // 2)
                self._pool = self._start()

    def close(self, cancel: bool) -> None:
        self._pool.shutdown(wait=not cancel, cancel_futures=cancel)
