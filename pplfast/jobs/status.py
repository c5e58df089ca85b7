"""Heartbeats: every rank says in a small file how far it is; rank 0 shows them together, and tells Prometheus.

The files lie in the job's folder, so that this needs nothing but the shared file system or the object store: a rank
that is killed holds nobody up.
"""

import json
import math
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pplfast.errors import UserError
from pplfast.files import StrPath, atomic_path, parse_json
from pplfast.jobs.manifest import FOLDER
from pplfast.jobs.meter import PHASES, Meter
from pplfast.jobs.progress import ProgressBar
from pplfast.storage import StorageError, is_remote, join, last_part, list_folder, read_file, remove, write_file

RUNNING, DONE, STOPPED, FAILED = "running", "done", "stopped", "failed"
SECONDS_BETWEEN_BEATS, SECONDS_REMOTE = 1.0, 10.0  # an object store is asked less often
POLL, POLL_REMOTE = 0.1, 2.0  # seconds between two looks at ranks that are waited for
# Seconds without a beat until a rank counts as lost, where no lock tells: native code may let no other thread run.
SILENCE, SILENCE_REMOTE = 15.0, 60.0
READERS = 16
STATUS_FILE = re.compile(r"rank[0-9]{5,9}\.status")


@dataclass(frozen=True)
class Status:
    """One rank at one moment. busy: share of the time that each phase worked. memory: resident bytes of the rank's
    own process. retries: reads and writes that were tried again."""

    token: str
    rank: int
    state: str
    total: int
    done: int
    bad: int
    seconds: float
    busy: dict[str, float] = field(default_factory=dict)
    memory: int = 0
    retries: int = 0


def status_file(out: StrPath, rank: int) -> str:
    return join(join(os.fspath(out), FOLDER), f"rank{rank:05d}.status")


def read_status(out: StrPath, rank: int, token: str) -> Status | None:
    """The last heartbeat of a rank in the job `token`; None before its first, and for what no rank wrote."""
    try:
        status = Status(**parse_json(read_file(status_file(out, rank))))
    except (StorageError, ValueError, TypeError):
        return None
    return status if status.token == token and status.rank == rank and _plausible(status) else None


def _plausible(status: Status) -> bool:
    counts = (status.total, status.done, status.bad, status.memory, status.retries)
    if not all(type(count) is int and count >= 0 for count in counts) or not isinstance(status.busy, dict):
        return False
    numbers = (status.seconds, *status.busy.values())
    return all(type(number) in (int, float) and math.isfinite(number) for number in numbers)


def remove_statuses(out: StrPath) -> None:
    """UserError where they cannot be."""
    folder = join(os.fspath(out), FOLDER)
    try:
        for file in list_folder(folder):
            if STATUS_FILE.fullmatch(last_part(file.path)):
                remove(file.path)
    except StorageError as error:
        raise UserError(f"{folder}: {error}") from None


def seconds_between(out: StrPath) -> float:
    """From one beat to the next, in that folder."""
    return SECONDS_REMOTE if is_remote(os.fspath(out)) else SECONDS_BETWEEN_BEATS


def resident_bytes() -> int:
    with suppress(OSError), open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


class Heartbeat:
    """Writes the status of this rank every few seconds, in a thread of its own, until `end`."""

    def __init__(self, out: StrPath, token: str, rank: int, total: int, meter: Meter) -> None:
        self._out, self._token, self._rank, self._total, self._meter = out, token, rank, total, meter
        self._ended = threading.Event()
        try:
            self.write(RUNNING)
        except StorageError as error:
            raise UserError(f"{status_file(out, rank)}: {error}") from None
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def end(self, state: str) -> None:
        self._ended.set()
        self._thread.join()
        self.write(state)

    def write(self, state: str) -> None:
        meter = self._meter
        status = Status(
            self._token,
            self._rank,
            state,
            self._total,
            meter.done,
            meter.bad,
            meter.seconds,
            meter.utilisation(),
            resident_bytes(),
            meter.retries,
        )
        path, text = status_file(self._out, self._rank), json.dumps(asdict(status))
        if is_remote(path):
            write_file(path, text.encode())
            return
        with atomic_path(path, sync=False) as temporary:  # nobody reads it after a loss of power
            temporary.write_text(text, encoding="utf-8")

    def _beat(self) -> None:
        while not self._ended.wait(seconds_between(self._out)):
            with suppress(Exception):  # a full disk is found, and reported, by the phase that writes
                self.write(RUNNING)


@dataclass(frozen=True)
class Total:
    """All ranks together."""

    done: int
    bad: int
    rate: float  # images/s
    busy: dict[str, float]  # mean over the ranks
    retries: int

    @classmethod
    def of(cls, statuses: Sequence[Status]) -> "Total":
        seconds = max((status.seconds for status in statuses), default=0.0)
        done, bad = sum(s.done for s in statuses), sum(s.bad for s in statuses)
        busy = {phase: sum(s.busy.get(phase, 0.0) for s in statuses) / max(len(statuses), 1) for phase in PHASES}
        return cls(done, bad, (done + bad) / max(seconds, 1e-9), busy, sum(s.retries for s in statuses))

    def phases(self) -> str:
        return " ".join(f"{phase} {share:.0%}" for phase, share in self.busy.items())


class Display:
    """Rank 0's view of all ranks, shown as often as they write; `prometheus`: also in a text file."""

    def __init__(
        self, title: str, out: StrPath, token: str, world: int, total: int, earlier: int, prometheus: Path | None
    ) -> None:
        self._out, self._token, self._world, self._prometheus = out, token, world, prometheus
        self._progress = ProgressBar(title, total, earlier)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._show, name="display", daemon=True)
        self._thread.start()

    def statuses(self) -> list[Status]:
        def read(rank: int) -> Status | None:
            return read_status(self._out, rank, self._token)

        if not is_remote(os.fspath(self._out)):
            found = list(map(read, range(self._world)))
        else:
            with ThreadPoolExecutor(READERS, "status") as pool:
                found = list(pool.map(read, range(self._world)))
        return [status for status in found if status is not None]

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        self._update(last=self._progress.total > 0)
        with self._progress:
            pass

    def _show(self) -> None:
        while not self._ended.wait(seconds_between(self._out)):
            with suppress(Exception):  # the display must not end a job
                self._update(last=False)

    def _update(self, last: bool) -> None:
        statuses, progress = self.statuses(), self._progress
        total = Total.of(statuses)
        progress.show(total.done + total.bad, f", {total.bad} bad, {total.phases()}", last)
        if self._prometheus is not None:
            write_prometheus(self._prometheus, statuses, progress.total + progress.earlier, progress.earlier)


def write_prometheus(path: Path, statuses: Sequence[Status], total: int, earlier: int) -> None:
    """The node exporter's text format (its textfile collector reads it)."""
    sums = Total.of(statuses)
    finished = earlier + sums.done + sums.bad
    left = max(0, total - finished)
    lines = [
        "# HELP pplfast_label_images Images of the list by state.",
        "# TYPE pplfast_label_images gauge",
        f'pplfast_label_images{{state="finished"}} {finished}',
        f'pplfast_label_images{{state="bad"}} {sums.bad}',
        f'pplfast_label_images{{state="pending"}} {left}',
        "# HELP pplfast_label_images_per_second Since this job started.",
        "# TYPE pplfast_label_images_per_second gauge",
        f"pplfast_label_images_per_second {sums.rate:.6g}",
        "# HELP pplfast_label_seconds_left At this rate.",
        "# TYPE pplfast_label_seconds_left gauge",
        f"pplfast_label_seconds_left {left / sums.rate if sums.rate else float('inf'):.6g}".replace("inf", "+Inf"),
        "# HELP pplfast_label_phase_busy Share of the time that a phase of a rank worked.",
        "# TYPE pplfast_label_phase_busy gauge",
        *(
            f'pplfast_label_phase_busy{{rank="{s.rank}",phase="{phase}"}} {share:.4f}'
            for s in statuses
            for phase, share in s.busy.items()
        ),
        "# HELP pplfast_label_resident_bytes Of a rank's own process.",
        "# TYPE pplfast_label_resident_bytes gauge",
        *(f'pplfast_label_resident_bytes{{rank="{s.rank}"}} {s.memory}' for s in statuses),
        "# HELP pplfast_label_storage_retries Reads and writes of files that were tried again.",
        "# TYPE pplfast_label_storage_retries gauge",
        f"pplfast_label_storage_retries {sums.retries}",
    ]
    with atomic_path(path, sync=False) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def wait_for_ranks(
    statuses: Callable[[], Sequence[Status]],
    world: int,
    alive: Callable[[int], bool],
    stopped: Callable[[], bool],
    poll: float = POLL,
) -> list[int]:
    """Until every rank has ended; the ranks that did not finish: stopped, failed or killed."""
    while True:
        states = {status.rank: status.state for status in statuses()}
        running = [rank for rank in range(world) if states.get(rank, RUNNING) == RUNNING]
        gone = [rank for rank in running if not alive(rank)]
        if len(gone) == len(running) or stopped():
            # once more: a rank writes its last status before it lets go of its manifest
            states = {status.rank: status.state for status in statuses()}
            return [rank for rank in range(world) if states.get(rank) != DONE]
        time.sleep(poll)


class Beats:
    """Who is alive, by their heartbeats: a rank whose status has not changed for `silence` seconds is not. Where none
    can be read, it is the store that is not there."""

    def __init__(self, statuses: Callable[[], Sequence[Status]], silence: float) -> None:
        self._read, self._silence, self._start = statuses, silence, time.monotonic()
        self._last: dict[int, tuple[Status, float]] = {}  # and when it was new

    def statuses(self) -> Sequence[Status]:
        found = self._read()
        if not found:
            self._start = time.monotonic()
            self._last = {rank: (status, self._start) for rank, (status, _) in self._last.items()}
        for status in found:
            if status.rank not in self._last or self._last[status.rank][0] != status:
                self._last[status.rank] = status, time.monotonic()
        return found

    def alive(self, rank: int) -> bool:
        _, changed = self._last.get(rank, (None, self._start))
        return time.monotonic() - changed < self._silence
