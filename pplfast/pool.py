"""Work on many images in worker processes: the CRF holds Python's lock, so threads would not help.

Workers are spawned, not forked: a fork of a process with torch's or DALI's threads can hang. They import the module of
the given function, so keep torch out of it. A script that calls this is imported by them too, as always with spawned
processes: it needs `if __name__ == "__main__":`, and its own imports cost each worker their time and memory.
"""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context, parent_process, resource_tracker
from typing import TypeVar

from pplfast.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

WAITING = 256
QUEUED_PER_WORKER = 4  # tasks waiting, so that no worker idles and memory does not grow with the list


def default_jobs() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_unordered(
    function: Callable[[Item], Result], tasks: Sequence[Item], jobs: int
) -> Iterator[tuple[Item, Result]]:
    """Yield (task, result) as they finish; an exception in `function` is raised here.

    function: importable by name (or a functools.partial of such); tasks and results are pickled.
    jobs: number of processes; with 1, or a single task, everything runs in this process.
    Leaving the loop early, an exception and Ctrl-C let the running tasks finish and drop the waiting ones. Raises
    UserError when a worker dies (usually for lack of memory).
    """
    if jobs < 1:
        raise UserError(f"jobs {jobs}: must be 1 or more")
    if min(jobs, len(tasks)) <= 1:
        for task in tasks:
            yield task, function(task)
        return
    executor = ProcessPoolExecutor(min(jobs, len(tasks)), get_context("spawn"), start_worker)
    waiting = iter(tasks)
    running: dict[Future[Result], Item] = {}
    try:
        while True:
            for task in islice(waiting, jobs * QUEUED_PER_WORKER - len(running)):
                with signals_held():
                    running[executor.submit(function, task)] = task
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    except BrokenProcessPool:
        raise UserError(
            f"a worker process died, probably for lack of memory; use fewer than {jobs} jobs and run the "
            "same command again: it continues"
        ) from None
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def mapped(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], most: int = WAITING
) -> Iterator[Result]:
    """The results in the order of the items, of which no more than `most` are taken before their results are: unlike
    `pool.map`, for lists of any length."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextmanager
def signals_held() -> Iterator[None]:
    """For the start of workers: what interrupts one before it comes to `start_worker` would print a traceback."""
    resource_tracker.ensure_running()  # its own start lets the signals through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker() -> None:
    """First call of a worker process: its life is its parent's."""
    # Ctrl-C reaches the whole process group, and a launcher's SIGTERM all processes: the parent alone decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # A killed parent cannot tell its workers to end, and they would wait for work for ever.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None, "a worker has one"
    parent.join()
    os._exit(1)
