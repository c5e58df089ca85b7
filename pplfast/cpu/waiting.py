"""OpenMP's threads on shared cores: they sleep while they wait for each other as long as other processes compute.

Each operation is split into equal parts whose threads wait for the slowest. libgomp's threads spin for some
milliseconds before they sleep, which saves a fifth of a training step on a machine of one's own. Where another process
wants a core, a spinning thread takes the time that the thread it waits for would need.
"""

import contextlib
import ctypes
import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

CHOSEN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # a user who sets one of these has decided
PERIOD = 0.5  # seconds between two looks at the machine
QUIET = 4  # looks in a row that find nobody else, before the threads spin again: spinning too early costs far more
OTHERS = 0.3  # cores that other processes use, and
KEPT_WAITING = 0.1  # the share of time that a thread of this process is ready and has no core: from there on it is busy
_STAT, _MAPS, _TASKS = Path("/proc/stat"), Path("/proc/self/maps"), Path("/proc/self/task")
_IDLE = (3, 4)  # of a line's columns in /proc/stat: idle, waiting for a disk
_GUEST = 7  # steal, and guests, which are counted in the columns before

_lock = threading.Lock()
_watched: set[int] = set()  # ids of processes: a fork does not inherit the thread that watches


@dataclass(frozen=True)
class Sample:
    """What the kernel has counted so far, in seconds."""

    now: float
    machine: float  # that all processes computed, on the cores which this one may use
    own: float  # that this process computed
    delays: dict[str, float]  # by thread: ready to run, and without a core


def yield_to_neighbours() -> bool:
    """Watch from now on, for the whole process, whether others want its cores; False where that is not possible (no
    libgomp, no Linux) or the user has set OMP_WAIT_POLICY or GOMP_SPINCOUNT.

    Results stay the same to the bit: neither the threads nor their parts change.
    """
    if any(name in os.environ for name in CHOSEN) or not _runtimes():
        return False
    try:
        first = take_sample()
    except (OSError, ValueError, IndexError):  # no /proc, or one that does not count these
        return False
    with _lock:
        if os.getpid() not in _watched:
            _watched.add(os.getpid())
            threading.Thread(target=_watch, args=(first,), name="pplfast-neighbours", daemon=True).start()
    return True


def take_sample() -> Sample:
    """Raises OSError, ValueError or IndexError where the kernel does not count these."""
    cores = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    ticks = 0
    for line in _STAT.read_text().splitlines():
        name, *columns = line.split()
        if name in cores:
            ticks += sum(int(text) for index, text in enumerate(columns[:_GUEST]) if index not in _IDLE)
    delays = {}
    for task in os.listdir(_TASKS):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            delays[task] = int((_TASKS / task / "schedstat").read_text().split()[1]) / 1e9
    return Sample(time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), time.process_time(), delays)


def is_busy(before: Sample, after: Sample) -> bool:
    """Whether other processes kept this one's threads from running. Its own threads may do so too, those that decode
    images: that alone is no reason."""
    seconds = after.now - before.now
    others = (after.machine - before.machine) - (after.own - before.own)
    delay = max((after.delays[task] - before.delays.get(task, 0.0) for task in after.delays), default=0.0)
    return others > OTHERS * seconds and delay > KEPT_WAITING * seconds


@contextlib.contextmanager
def short_spins() -> Iterator[bool]:
    """OpenMP's threads of this process sleep after a hundred turns, some microseconds, instead of 300,000; gives False
    where torch has one thread just now, which waits for nobody.

    libgomp does so by itself while it has more threads than cores (its manual, GOMP_SPINCOUNT), and looks at their
    number each time that it waits; nothing else of it can be set once it is loaded. So one thread is started that has
    a team of its own, just large enough, of which none does anything, and whose end is the end of its team.
    """
    ready, end = threading.Event(), threading.Event()
    teams: list[int] = []  # the size of the team, once it is there

    def hold() -> None:
        try:
            working = torch.get_num_threads()  # in a new thread: what the process has been told last
            if working > 1:
                teams.append(max(2, len(os.sched_getaffinity(0)) - working + 2))
                _start_team(teams[0])
        finally:
            ready.set()
        end.wait()

    holder = threading.Thread(target=hold, name="pplfast-team", daemon=True)
    holder.start()
    ready.wait()
    try:
        yield bool(teams)
    finally:
        end.set()
        holder.join()


def _start_team(threads: int) -> None:
    for runtime in _runtimes():
        function = ctypes.cast(runtime.omp_get_thread_num, ctypes.c_void_p)  # takes no argument, and does nothing
        runtime.GOMP_parallel(function, None, ctypes.c_uint(threads), ctypes.c_uint(0))


def _watch(before: Sample) -> None:
    log = logging.getLogger(__name__)
    try:
        while True:
            before = _until(True, before, 1)
            with short_spins() as short:
                if short:
                    log.info("other processes use these cores: OpenMP's threads sleep while they wait")
                    before = _until(False, before, QUIET)
                    log.info("the cores are free again: OpenMP's threads spin while they wait")
    except (OSError, RuntimeError) as error:  # no file or thread can be had any more: what is wrong shows elsewhere
        log.info("no longer watching who uses these cores: %s", error)


def _until(busy: bool, before: Sample, looks: int) -> Sample:
    """Returns once the machine has been so for that many looks in a row, with the latest sample."""
    found = 0
    while found < looks:
        time.sleep(PERIOD)
        after = take_sample()
        found = found + 1 if is_busy(before, after) == busy else 0
        before = after
    return before


def _runtimes() -> list[ctypes.CDLL]:
    """Each libgomp of the process: torch's, and another one if a package has brought its own."""
    with contextlib.suppress(OSError):
        paths = {line.split(maxsplit=5)[-1] for line in _MAPS.read_text().splitlines() if "/libgomp" in line}
        return [ctypes.CDLL(path) for path in sorted(paths)]
    return []
