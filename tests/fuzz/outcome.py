"""What becomes of one input: it is read here, in a process that may not survive it."""

import gc
import os
import re
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pplfast.errors import UserError

ACCEPTED, CLEAN, RAW, MESSAGE, HANG, MEMORY, SIGNAL, ACTED = (
    "accepted", "clean", "raw", "message", "hang", "memory", "signal", "acted",
)  # fmt: skip
GOOD = (ACCEPTED, CLEAN)
KINDS = {
    RAW: "an exception that is no UserError, or a traceback or a warning printed",
    MESSAGE: "a message that is not one line, or does not name the file",
    HANG: "too long (over 5 s)",
    MEMORY: "more than 100 MB allocated for a file of at most 10 KB",
    SIGNAL: "the process died",
    ACTED: "a program started, or a file touched outside of the reader's folder",
}

SECONDS = 5.0
SMALL_FILE = 10 << 10
MOST_MEMORY = 100 << 20
ADDRESS_SPACE = 1 << 30  # on top of what the process has: more than that is refused by the system
NO_MEMORY = re.compile(
    r"not enough memory|can't allocate memory|Unable to allocate|bad_alloc|out of memory|Cannot allocate memory"
)

NOISE = re.compile(
    r"^Traceback |\w(Warning|Error|Exception)\b"
)  # Python's; libjpeg's own "Warning: ..." is no trace of a fault

ROOT = Path(__file__).resolve().parents[2]


class Hang(BaseException):
    """Raised into whatever runs too long. No `except Exception` stops it."""


@dataclass(frozen=True)
class Outcome:
    kind: str
    what: str = ""  # type and message of the exception
    where: str = ""  # the innermost line of pplfast

    @property
    def place(self) -> tuple[str, str, str]:
        """The same for inputs that find the same defect."""
        return self.kind, re.split(r"[:(]", self.what)[0] if self.kind in (RAW, SIGNAL) else "", self.where


def observe(call: Callable[[], object], names: tuple[str, ...], size: int, seconds: float = SECONDS) -> Outcome:
    """Call it, and judge what comes of it. names: a message must hold one of these. size: of the file, in bytes.
    seconds: longer is a hang."""
    _watch.events.clear()
    _watch.noise()  # of making the input
    gc.collect(0)
    before, peak = _memory("VmSize"), _memory("VmPeak")
    limits = resource.getrlimit(resource.RLIMIT_AS)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    resource.setrlimit(resource.RLIMIT_AS, (before + ADDRESS_SPACE, limits[1]))
    _watch.on = True
    error: BaseException | None = None
    try:
        call()
    except (Exception, SystemExit, Hang) as raised:
        error = raised
    finally:
        _watch.on = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
    after = _memory("VmPeak")
    outcome = _judge(error, names)
    if _watch.events:
        return Outcome(ACTED, _watch.events[0], outcome.where)
    if outcome.kind == HANG:
        return outcome
    if size <= SMALL_FILE and (refused := _refused(error)):
        return Outcome(MEMORY, f"asked for more than {ADDRESS_SPACE >> 20} MB ({refused})", _where(_first(error)))
    if size <= SMALL_FILE and after > peak and after - before > MOST_MEMORY:
        return Outcome(MEMORY, f"{(after - before) >> 20} MB; {outcome.what}", outcome.where)
    if noise := _watch.noise():
        return Outcome(RAW, f"printed: {noise}", outcome.where)
    return outcome


def is_spent() -> bool:
    """Whether this process has had so much memory that less would not show: another one has to go on."""
    return _memory("VmPeak") - _memory("VmSize") > MOST_MEMORY // 2


def _judge(error: BaseException | None, names: tuple[str, ...]) -> Outcome:
    if error is None:
        return Outcome(ACCEPTED)
    where = _where(error)
    if isinstance(error, Hang):
        return Outcome(HANG, "", where)
    what = f"{type(error).__name__}: {error}"[:300]
    if not isinstance(error, UserError):
        return Outcome(RAW, what, where)
    text = str(error)
    if len(text.splitlines()) != 1 or not text.isprintable():
        return Outcome(MESSAGE, f"not one printable line: {text!r}"[:300], where)
    if not any(name in text for name in names):
        return Outcome(MESSAGE, f"names neither {' nor '.join(names)}: {text}"[:300], where)
    return Outcome(CLEAN, what, where)


def _chain(error: BaseException | None) -> list[BaseException]:
    """The exception and those that it was raised for, `from None` or not."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _first(error: BaseException | None) -> BaseException | None:
    chain = _chain(error)
    return chain[-1] if chain else None


def _refused(error: BaseException | None) -> str:
    """The words of a refused allocation, also where the reader has made a clean line of it."""
    for one in _chain(error):
        if isinstance(one, MemoryError) or NO_MEMORY.search(str(one)):
            return f"{type(one).__name__}: {one}"[:200]
    return ""


def _where(error: BaseException | None) -> str:
    if error is None:
        return ""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    own = [frame for frame in frames if _is_own(frame.filename)]
    last = [*frames, *own][-1:]
    return "".join(f"{frame.filename.removeprefix(f'{ROOT}/')}:{frame.lineno}" for frame in last)


def _is_own(file: str) -> bool:
    return any(file.startswith(str(ROOT / room)) for room in ("pplfast", "kernels", "benchmarks"))


def _memory(field: str) -> int:
    """Bytes. Of the address space, which also counts what numpy and torch have allocated and not yet touched."""
    with open("/proc/self/status", "rb") as file:
        found = re.search(rb"%b:\s+(\d+) kB" % field.encode(), file.read())
    return int(found[1]) << 10 if found else 0


class _Watch:
    """An audit hook: sees what Python starts and which files it changes, whoever does it."""

    STARTS = frozenset(
        ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty",
        "socket.connect", "pty.spawn")
    )  # fmt: skip
    CHANGES = frozenset(
        ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
        "os.chown", "os.utime", "shutil.rmtree",
         "shutil.move")
    )  # fmt: skip

    def __init__(self) -> None:
        self.on, self.folder, self.said, self.events = False, "", -1, list[str]()

    def noise(self) -> str:
        """A line of what no user should see, printed since the last call: by a thread, by a destructor."""
        sys.stderr.flush()
        text = os.pread(self.said, 1 << 20, 0).decode("utf-8", "replace")
        os.ftruncate(self.said, 0)
        return next((line for line in text.splitlines() if NOISE.search(line)), "")

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in self.STARTS:
            self.events.append(f"{event} {arguments}"[:200])
        elif event in self.CHANGES:
            for path in arguments[: 2 if event in ("os.rename", "os.link", "shutil.move") else 1]:
                self._check(event, path)
        elif (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        ):
            self._check(event, arguments[0])

    def _check(self, event: str, path: object) -> None:
        if isinstance(path, str | os.PathLike):
            place = os.path.realpath(os.path.dirname(os.path.abspath(path)))
            if not f"{place}/".startswith((f"{self.folder}/", "/proc/self/")) and place != "/dev":
                self.events.append(f"{event} {path}"[:200])


_watch = _Watch()


def begin(folder: Path, said: int) -> None:
    """Once in a process that is going to observe. folder: all that readers may change. said: the open file that holds
    what is printed."""
    sys.dont_write_bytecode = True
    warnings.filterwarnings("always", category=UserWarning, append=True)  # not only the first of each place
    warnings.filterwarnings("always", category=RuntimeWarning, append=True)
    _watch.said = said
    _watch.folder = os.path.realpath(folder)
    sys.addaudithook(_watch)
    signal.signal(signal.SIGALRM, _alarm)


def _alarm(number: int, frame: object) -> None:
    raise Hang
