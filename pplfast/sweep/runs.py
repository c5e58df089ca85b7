"""The runs of a sweep: which are done, and the others, some at a time, each a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from pplfast.errors import UserError, explain_os_error, one_line
from pplfast.files import open_append, read_json
from pplfast.lock import hold_folder
from pplfast.recipe import recipe_to_dict
from pplfast.recipe.reading import completed
from pplfast.run.chain import CHECK_DATA
from pplfast.run.config import RunConfig, absolute
from pplfast.sweep import child
from pplfast.sweep.points import Point

POLL = 0.1  # seconds
ENDING = 120.0  # seconds that runs have to save their checkpoints
BEFORE = 60.0  # seconds to wait for a run of a sweep that was killed, and saves its checkpoint
TAIL = 65536  # bytes of a log


@dataclass(frozen=True, eq=False)
class SweepRun:
    """One point with one seed. words: of the command that does it, `pplfast` left out."""

    point: Point
    seed: int
    config: RunConfig
    words: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return self.config.out

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    def __str__(self) -> str:
        return f"{self.point.name}, seed {self.seed}"


@dataclass(frozen=True)
class Slot:
    """A part of the machine that one run at a time has. words: options of `pplfast run`; those of the sweep's own
    command come after them."""

    words: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


class Process(Protocol):
    """What of subprocess.Popen is used."""

    def poll(self) -> int | None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


def visible_gpus() -> list[str]:
    """Those that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count()
    given = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return given[:count] if given else [str(index) for index in range(count)]


def make_slots(at_once: int, gpus: Sequence[str], cores: int, memory: float) -> list[Slot]:
    """gpus: as CUDA_VISIBLE_DEVICES names them; runs take turns where there are more runs than GPUs. memory: GiB of
    each run, which would each take half of what is free."""
    share = str(max(1, cores // at_once))
    words = ("--threads", share, "--jobs", share, "--memory", f"{memory:.3f}") if at_once > 1 else ()
    threads = (("OMP_NUM_THREADS", share),) if at_once > 1 else ()
    devices = [(("CUDA_VISIBLE_DEVICES", gpus[index % len(gpus)]),) if gpus else () for index in range(at_once)]
    return [Slot(words, (*threads, *device)) for device in devices]


def is_done(run: SweepRun, data: dict[str, Any]) -> bool:
    """Whether it was finished with these settings and data. data: of `data_settings`."""
    if not (run.folder / "summary.json").is_file():
        return False
    try:
        record = read_json(run.folder / "run.json")
        checked = read_json(run.folder / "steps" / f"{CHECK_DATA}.json")
    except UserError:
        return False
    config = run.config
    wanted = {
        "recipe": recipe_to_dict(config.recipe),
        "variants": config.variants,
        "data": {"train": _data(vars(absolute(config.train))), "val": _data(vars(absolute(config.val)))},
    }
    found = {key: record.get(key) for key in wanted} | {"data": _each_data(record.get("data"))}
    same = completed(found) == completed(_plain(wanted))
    return same and bool(checked.get("settings") == _plain(data))


def _data(table: Any) -> Any:
    """Of a list, without the range of its deep images: as measured, it is in the data's settings."""
    return {key: value for key, value in table.items() if key != "range"} if isinstance(table, dict) else table


def _each_data(tables: Any) -> Any:
    return {key: _data(table) for key, table in tables.items()} if isinstance(tables, dict) else tables


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value))


def start(run: SweepRun, slot: Slot) -> Process:
    """Its process, which writes to the end of its log. Waits for one that a sweep before has left."""
    with hold_folder(run.folder, wait=BEFORE):
        pass
    try:
        run.log.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain_os_error(error, run.log.parent) from error
    command, *options = run.words
    words = [command, *slot.words, *options]
    with open_append(run.log) as log:
        return subprocess.Popen(
            [sys.executable, str(child.__file__), str(os.getpid()), *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **dict(slot.environment)},
            process_group=0,  # Ctrl-C reaches the sweep alone, which ends its runs itself
        )


def work_through(
    runs: Sequence[SweepRun],
    slots: Sequence[Slot],
    say: Callable[[str], None],
    begin: Callable[[SweepRun, Slot], Process] = start,
) -> Generator[tuple[SweepRun, str], None, None]:
    """Each run once it has ended, with what went wrong, or "". When the caller stops, or is stopped, all are ended."""
    waiting, free, ended = deque(runs), deque(slots), deque[tuple[SweepRun, str]]()
    active: dict[SweepRun, tuple[Process, Slot]] = {}
    try:
        while waiting or active or ended:
            for run, (process, slot) in list(active.items()):
                if (code := process.poll()) is not None:
                    del active[run]
                    free.append(slot)
                    ended.append((run, failure(run, code)))
            while waiting and free:
                run, slot = waiting.popleft(), free.popleft()
                try:
                    active[run] = begin(run, slot), slot
                    say(f"{run}: started")
                except UserError as error:  # of its folder
                    free.append(slot)
                    ended.append((run, str(error)))
            if ended:  # only now: while the caller scores one, no slot is to be empty
                yield ended.popleft()
            else:
                time.sleep(POLL)
    finally:
        _end([process for process, _ in active.values()], say)


def failure(run: SweepRun, code: int) -> str:
    """What is wrong with a run that ended with this code, and where its log is; "" where nothing is."""
    if not code:
        return ""
    killed = f"ended by {signal.Signals(-code).name}" if code < 0 else ""
    killed += "; give it more memory, or a lower --at-once" if code == -signal.SIGKILL else ""
    return one_line(f"{killed or _last_message(run.log) or f'exit code {code}'} (log: {run.log})")


def _last_message(log: Path) -> str:
    """The last line that names an error, else the last line."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            lines = file.read().decode("utf-8", "replace").replace("\r", "\n").splitlines()
    except OSError:
        return ""
    lines = [line.strip() for line in lines if line.strip()]
    return next((line for line in reversed(lines) if ": error: " in line), lines[-1] if lines else "")


def _end(processes: Sequence[Process], say: Callable[[str], None]) -> None:
    """SIGTERM to all, and SIGKILL to those that are left when their time is over, or at a second Ctrl-C."""
    if not processes:
        return
    say(f"ending {len(processes)} run{'s' * (len(processes) > 1)}; checkpoints are saved")
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + ENDING
    try:
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
            time.sleep(POLL)
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                process.kill()
