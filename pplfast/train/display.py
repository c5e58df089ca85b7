"""What a run shows while it trains: a progress bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from pplfast.train.meter import Rates

RECENT = 0.1  # weight of the last interval, at least, in the time that a step takes


@dataclass(frozen=True)
class Shown:
    """An interval of steps that is done."""

    step: int  # over all stages
    stage: str
    loss: float
    rates: Rates

    def __str__(self) -> str:
        """Without the step: "loss 0.6931, 12.3 images/s, 41.2 TFLOP/s, MFU 13 %, 3.2 GiB"."""
        rates = self.rates
        parts = [f"loss {self.loss:.4f}", f"{rates.images_per_s:.1f} images/s"]
        if rates.tflops is not None:
            parts.append(f"{rates.tflops:.1f} TFLOP/s" if rates.tflops >= 1 else f"{rates.tflops * 1000:.1f} GFLOP/s")
        if rates.mfu is not None:
            parts.append(f"MFU {rates.mfu:.0%}")
        return ", ".join((*parts, f"{rates.memory_peak_gib:.1f} GiB"))


class Bar:
    """A row of the bar and one of figures: together they would not fit 80 columns. Says nothing of loss, speed and time
    left before the first interval is done."""

    def __init__(self, console: Console, step: int, total: int) -> None:
        self._total = total
        self._progress = _BarAndFigures(
            TextColumn("{task.description}"),
            BarColumn(16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self._task = self._progress.add_task("training", total=total, completed=step, left="")
        self._left = TimeLeft()
        self._progress.start()

    def show(self, shown: Shown) -> None:
        self._progress.figures = str(shown)
        left = f"{self._left.text(shown, self._total)} left"
        self._progress.update(self._task, completed=shown.step, description=shown.stage, left=left)

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        self._progress.stop()


class _BarAndFigures(Progress):
    figures = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.figures:
            yield Text(self.figures, no_wrap=True, overflow="ellipsis")


class Lines:
    """For pipes and log files: a plain line at most every few seconds, and the last one."""

    INTERVAL = 10.0  # seconds

    def __init__(self, console: Console, step: int, total: int) -> None:
        self._stream, self._total = console.file, total
        self._last: float | None = None
        self._left = TimeLeft()

    def show(self, shown: Shown) -> None:
        left, now = self._left.text(shown, self._total), time.monotonic()
        if self._last is not None and now - self._last < self.INTERVAL and shown.step < self._total:
            return
        self._last = now
        self.say(f"{shown.stage}: step {shown.step}/{self._total}, {shown}, {left} left")

    def say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        return


class TimeLeft:
    """From the steps of the stage alone: neither starting it nor its first interval, where kernels are compiled and
    tried, says how long the others take."""

    def __init__(self) -> None:
        self._stage = ""
        self._intervals = 0
        self._mean = 0.0  # seconds of a step

    def text(self, shown: Shown, total: int) -> str:
        """ "m:ss" for the steps that are left; called with every interval."""
        if shown.stage != self._stage:
            self._stage, self._intervals = shown.stage, 0
        self._intervals += 1
        weight = max(1 / max(self._intervals - 1, 1), RECENT)
        self._mean += weight * (shown.rates.seconds_per_step - self._mean)
        minutes, seconds = divmod(int(self._mean * (total - shown.step)), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def make_display(console: Console, step: int, total: int) -> Bar | Lines:
    return (Bar if console.is_terminal else Lines)(console, step, total)
