"""Ctrl-C and SIGTERM: finish what is in flight, within a limit.

Python runs a signal handler between two bytecodes of the main thread, which may be inside the network for many
seconds. So the signal's number goes to a pipe that a thread reads: that works at once.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

LIMIT = 7.0  # seconds from the signal to the end of the process at the latest; promised: 10
SAID = 1.0  # seconds for the last words; a full pipe that nobody reads takes none
REPEATED = 0.5  # seconds after which a second Ctrl-C is one: a launcher passes the first on, beside the terminal
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """A context in which the first signal sets `stopped`. What is not done after LIMIT seconds, or at a second Ctrl-C,
    is given up: `abandon` is called and the process ends with the signal's exit code."""

    def __init__(self, announce: bool, abandon: Callable[[], None]) -> None:
        self._announce, self._abandon = announce, abandon
        self._event = threading.Event()
        self.signal = 0

    def stopped(self) -> bool:
        return self._event.is_set()

    def stop(self) -> None:
        """Without a signal: another part failed."""
        self._event.set()

    @property
    def exit_code(self) -> int:
        return 128 + self.signal

    def __enter__(self) -> "Stopping":
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:  # no other one may handle signals
            self._handlers = {number: signal.signal(number, _ignore) for number in SIGNALS}
            self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._main:
            signal.set_wakeup_fd(self._wakeup)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
        os.close(
            self._write
        )  # ends the thread, which holds what is to be abandoned: not beyond the end of the process,
        self._thread.join()  # since freeing a tensor in a thread while Python ends aborts it

    def _watch(self) -> None:
        timer: threading.Timer | None = None
        first = 0.0
        while data := os.read(self._read, 1):
            if data[0] not in SIGNALS:
                continue
            if timer is None:
                self.signal, first = data[0], time.monotonic()
                self._event.set()
                timer = threading.Timer(LIMIT, self._end)
                timer.daemon = True
                timer.start()
                if self._announce:  # last: whoever reads it may have ended, or reads no more
                    threading.Thread(target=_say_stopping, name="say stopping", daemon=True).start()
            elif data[0] == signal.SIGINT and time.monotonic() - first > REPEATED:
                self._end()
        if timer is not None:
            timer.cancel()
            timer.join()
        os.close(self._read)

    def _end(self) -> None:
        said = threading.Thread(target=self._say_abandoned, name="say abandoned", daemon=True)
        said.start()
        said.join(SAID)
        os._exit(self.exit_code)

    def _say_abandoned(self) -> None:
        with suppress(OSError):
            self._abandon()


def _say_stopping() -> None:
    with suppress(OSError):
        print("stopping: finishing what is in flight (once more to stop at once)", file=sys.stderr, flush=True)


def _ignore(number: int, frame: object) -> None:
    """The thread acts; without a handler of Python's own the signal would not reach the pipe."""
