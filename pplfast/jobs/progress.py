"""ProgressBar over a list of images: a bar in a terminal, plain lines elsewhere (logs, pipes)."""

import sys
import time
from contextlib import suppress
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

SECONDS_BETWEEN_LINES = 15.0


class ProgressBar:
    """Use as a context manager; call `advance` per image, or `show` with what is known. Shows images/s and the
    remaining time on stderr. earlier: images that were done before, which the rate does not count."""

    def __init__(self, title: str, total: int, earlier: int = 0) -> None:
        self.title, self.total, self.earlier, self.done, self._shown = title, total, earlier, 0, -1
        self._start = self._last_line = time.monotonic()
        console = Console(stderr=True)
        self._bar = None
        if console.is_terminal:
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
                console=console,
            )
            self._bar.start()
            self._task = self._bar.add_task(title, total=total + earlier, completed=earlier, text="")

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self.total and self._shown != self.done:
            self._print_line(f"{self._rate():.1f} images/s")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def advance(self, images: int = 1) -> None:
        self.show(self.done + images)

    def show(self, done: int, more: str = "", last: bool = False) -> None:
        """more: what else is to be said beside the rate. last: print a line, however short ago the last one was."""
        self.done = done
        text = f"{self._rate():.1f} images/s{more}"
        if self._bar is not None:
            self._bar.update(self._task, completed=self.earlier + done, text=text)
        elif last or time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._print_line(text)

    def _rate(self) -> float:
        return self.done / max(self.seconds, 1e-9)

    def _print_line(self, text: str) -> None:
        self._last_line, self._shown = time.monotonic(), self.done
        left = f", {(self.total - self.done) / self._rate():.0f} s left" if 0 < self.done < self.total else ""
        count = f"{self.earlier + self.done}/{self.earlier + self.total}"
        with suppress(OSError):  # whoever read it may have ended, which must not end the work
            print(f"{self.title}: {count}, {text}{left}", file=sys.stderr, flush=True)
