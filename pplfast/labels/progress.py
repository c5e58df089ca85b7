"""Progress over a list of images: a bar in a terminal, plain lines elsewhere (logs, pipes)."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Use as a context manager and call `advance` per image; shows images/s and the remaining time on stderr."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done, self._shown = title, total, 0, -1
        console = Console(stderr=True)
        self._bar = None
        if console.is_terminal:
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]:.1f} images/s"),
                TimeRemainingColumn(),
                console=console,
            )

    def __enter__(self) -> "Progress":
        self._start = self._last_line = time.monotonic()
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=self.total, rate=0.0)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self.total and self._shown != self.done:
            self._print_line()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def advance(self, images: int = 1) -> None:
        self.done += images
        if self._bar is not None:
            self._bar.update(self._task, advance=images, rate=self._rate())
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._print_line()

    def _rate(self) -> float:
        return self.done / max(self.seconds, 1e-9)

    def _print_line(self) -> None:
        self._last_line, self._shown = time.monotonic(), self.done
        rate = self._rate()
        left = f", {(self.total - self.done) / rate:.0f} s left" if self.done and self.done < self.total else ""
        print(f"{self.title}: {self.done}/{self.total}, {rate:.1f} images/s{left}", file=sys.stderr, flush=True)
