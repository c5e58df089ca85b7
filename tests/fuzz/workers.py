"""Inputs are read in child processes. Each says which one it begins, so that its death or silence has a name."""

import contextlib
import ctypes
import faulthandler
import json
import os
import random
import re
import selectors
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from fuzz.outcome import HANG, ROOT, SECONDS, SIGNAL, Outcome, begin, is_spent, observe
from fuzz.reader import Prepared

BATCH = 100  # inputs of one process
PATIENCE = 2.0  # times the longest time of an input: the alarm cannot interrupt compiled code
START = 120.0  # seconds until a process has begun with its first input


@dataclass(frozen=True)
class Result:
    """One input: its reader, its number and what became of it."""

    reader: str
    number: int
    outcome: Outcome


def make_input(prepared: Prepared, seed: str, number: int) -> bytes:
    """The first are the seeds as they are."""
    if number < len(prepared.seeds):
        return prepared.seeds[number]
    rng = random.Random(f"{seed}/{prepared.reader.name}/{number}")
    return prepared.reader.mutate(rng, prepared.seeds)


def read_one(prepared: Prepared, folder: Path, content: bytes, seconds: float) -> Outcome:
    """In this process, which must have called `begin`."""
    reader = prepared.reader
    if reader.writes:
        prepared.lay_out(folder)
    place = folder / reader.file
    place.write_bytes(content)
    return observe(lambda: reader.read(folder), (place.name, *reader.named), len(content), seconds)


@dataclass(eq=False)
class _Child:
    prepared: Prepared
    numbers: range
    pid: int
    pipe: int
    crash: Path  # where it leaves its stack when a signal ends it
    buffer: bytes = b""
    current: int | None = None
    since: float = field(default_factory=time.monotonic)
    silent: bool = False


@dataclass(frozen=True)
class Plan:
    """seed: of all inputs. jobs: processes at a time. folder: for their files. seconds: longest time of an input."""

    seed: str
    jobs: int
    folder: Path
    seconds: float = SECONDS


def run_all(readers: Sequence[Prepared], count: int, plan: Plan) -> list[Result]:
    """`count` inputs, shared among the readers. What took too long is tried once more, alone: another program may have
    taken the time."""
    shares = {one: count // len(readers) + (index < count % len(readers)) for index, one in enumerate(readers)}
    batches = [
        (one, range(start, min(start + BATCH, share)))
        for one, share in shares.items()
        for start in range(0, share, BATCH)
    ]
    results = list(run(batches, plan))
    alone = replace(plan, jobs=1)
    by_name = {one.reader.name: one for one in readers}
    for index, result in enumerate(results):
        if result.outcome.kind == HANG:
            [results[index]] = run([(by_name[result.reader], range(result.number, result.number + 1))], alone)
    return results


def run(batches: Sequence[tuple[Prepared, range]], plan: Plan) -> Iterator[Result]:
    """The inputs of these numbers. Results come as they are ready, in any order."""
    waiting = list(reversed(batches))
    with selectors.DefaultSelector() as selector:
        children: set[_Child] = set()
        try:
            while waiting or children:
                while waiting and len(children) < plan.jobs:
                    child = _start(*waiting.pop(), plan)
                    children.add(child)
                    selector.register(child.pipe, selectors.EVENT_READ, child)
                for key, _ in selector.select(0.5):
                    child = key.data
                    data = os.read(child.pipe, 1 << 16)
                    yield from _take(child, data)
                    if not data:
                        selector.unregister(child.pipe)
                        children.remove(child)
                        left, died = _end(child)
                        yield from died
                        if left:
                            waiting.append((child.prepared, left))
                for child in children:
                    _end_silent(child, plan)
        finally:
            for child in children:
                os.kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)


def _end_silent(child: _Child, plan: Plan) -> None:
    patience = START if child.current is None else PATIENCE * plan.seconds
    if not child.silent and time.monotonic() - child.since > patience:
        os.kill(child.pid, signal.SIGABRT)  # it leaves its stack
        child.silent = True


def _take(child: _Child, data: bytes) -> Iterator[Result]:
    child.buffer += data
    *lines, child.buffer = child.buffer.split(b"\n")
    for line in lines:
        number, outcome = json.loads(line)
        child.since, child.current = time.monotonic(), number
        if outcome is not None:
            child.current = None
            child.numbers = range(number + 1, child.numbers.stop)
            yield Result(child.prepared.reader.name, number, Outcome(**outcome))


def _end(child: _Child) -> tuple[range, list[Result]]:
    """The numbers that are left of a child that has ended, and the one that it ended with."""
    os.close(child.pipe)
    _, status = os.waitpid(child.pid, 0)
    stack = child.crash.read_text(errors="replace") if child.crash.exists() else ""
    shutil.rmtree(child.crash.parent, ignore_errors=True)
    if child.current is None:
        if status and child.numbers:
            raise RuntimeError(
                f"{child.prepared.reader.name}: a process ended with {status} between two inputs:\n{stack}"
            )
        return child.numbers, []
    found = re.search(rf'File "{ROOT}/((?:pplfast|kernels|benchmarks)/[^"]+)", line (\d+)', stack)
    how = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
    kind, what = (HANG, "in compiled code") if child.silent else (SIGNAL, how)
    outcome = Outcome(kind, what, f"{found[1]}:{found[2]}" if found else "")
    return range(child.current + 1, child.numbers.stop), [Result(child.prepared.reader.name, child.current, outcome)]


def _start(prepared: Prepared, numbers: range, plan: Plan) -> _Child:
    receive, send = os.pipe()
    own = plan.folder / f"child{receive}-{prepared.reader.name}-{numbers.start}"
    own.mkdir()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(send)
        return _Child(prepared, numbers, pid, receive, own / "crash")
    code = 1
    try:
        os.close(receive)
        _work(prepared, numbers, plan, own, send)
        code = 0
    except BaseException:
        traceback.print_exc(file=open(own / "crash", "a"))
    finally:
        os._exit(code)


def _work(prepared: Prepared, numbers: range, plan: Plan, own: Path, pipe: int) -> None:
    ctypes.CDLL(None).mallopt(-8, 1)  # one arena: a thread's own would count as 64 MB
    crash = open(own / "crash", "w")
    faulthandler.enable(crash)
    said = os.open(own / "said", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(said, descriptor)
    place = own / "input"
    os.chdir(own)
    prepared.lay_out(place)
    with contextlib.suppress(
        Exception
    ):  # what the first call imports and builds is no input's; its outcome comes later
        prepared.reader.read(place)
    begin(own, said)
    for number in numbers:
        _say(pipe, number, None)
        _say(pipe, number, asdict(read_one(prepared, place, make_input(prepared, plan.seed, number), plan.seconds)))
        if is_spent():
            return


def _say(pipe: int, number: int, outcome: dict[str, str] | None) -> None:
    os.write(pipe, json.dumps([number, outcome]).encode() + b"\n")
