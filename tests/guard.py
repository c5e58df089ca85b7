"""What keeps the quick tests quick: while one runs that is not marked slow, starting a process is refused, and its CPU
time is limited.

CPU time, not time on the clock: other work on the machine does not stretch it.
"""

import multiprocessing.util
import platform
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

LIMIT = 10.0  # seconds of CPU time of one test, with what it is the first to import

_STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "os.exec"}


class StartsAProcess(Exception):
    """Not an OSError: code that does without a tool that is not installed must not take this for one."""


class Guard:
    """An audit hook sees what Python starts, whichever module does it; it cannot be removed, so it is switched."""

    def __init__(self) -> None:
        self.watching, self._begin = False, 0.0
        self.started: list[str] = []
        _ask_once()
        sys.addaudithook(self._audit)
        self._spawn = multiprocessing.util.spawnv_passfds
        multiprocessing.util.spawnv_passfds = self._spawned  # has no audit event

    def begin(self) -> None:
        self.started, self.watching, self._begin = [], True, time.process_time()

    def end(self) -> None:
        self.watching = False

    def complaint(self) -> str | None:
        """What was done since begin() that a quick test may not do, with the remedy."""
        if not self.watching:
            return None
        seconds = time.process_time() - self._begin
        if self.started:
            return self.started[0]
        if seconds > LIMIT:
            return f"takes {seconds:.0f} s of CPU time: one of more than about a second needs @pytest.mark.slow"
        return None

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.watching and event in _STARTS:
            self._refuse(f"{event}: {arguments[1] if event == 'subprocess.Popen' else arguments}"[:200])

    def _spawned(self, *arguments: Any) -> int:
        if self.watching:
            self._refuse("multiprocessing, by spawn")
        return self._spawn(*arguments)

    def _refuse(self, what: str) -> None:
        self.started.append(f"starts a process ({what}): a test that does needs @pytest.mark.slow")
        raise StartsAProcess(self.started[0])


def _ask_once() -> None:
    """What starts a process once and remembers the answer: it is not the doing of the first test that needs it."""
    import matplotlib.font_manager  # noqa: F401  lists the fonts of a machine that it has not seen

    from pplfast.benchmarks import results
    from pplfast.cpu import native

    platform.processor()
    native.library()
    results.commit()


class Plugin:
    def __init__(self) -> None:
        self.guard = Guard()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        if not item.get_closest_marker("slow"):
            self.guard.begin()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        result = yield
        if complaint := self.guard.complaint():  # also where the test, or what it tests, caught the exception
            pytest.fail(f"{item.nodeid} {complaint}", pytrace=False)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self) -> Iterator[None]:
        try:
            return (yield)
        finally:
            self.guard.end()
