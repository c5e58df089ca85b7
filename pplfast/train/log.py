"""What a run says while it trains: a progress bar, one JSON line per interval, TensorBoard."""

import json
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pplfast.files import atomic_path, explain_os_error

LOG, TENSORBOARD = "log.jsonl", "tb"


class TrainLog:
    """Rank 0's log. Lines of earlier sessions after `step`, where a resumed run starts, are dropped.

    One line holds: time (Unix seconds), stage (from 1), position (block names), grid, iteration (steps done over all
    stages), epoch, loss (mean over the interval), lr (backbone's), images_per_s.
    """

    def __init__(self, folder: Path, step: int, total: int, console: Console | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / LOG
        _keep_until(self.path, step)
        try:
            self._file: TextIO = open(self.path, "a", encoding="utf-8")
            self._writer = SummaryWriter(str(folder / TENSORBOARD), purge_step=step + 1)
        except OSError as error:
            raise explain_os_error(error, folder) from error
        self._display = _make_display(console or Console(file=sys.stderr), step, total)

    def write(self, values: dict[str, Any]) -> None:
        """values: the fields of a line without `time`."""
        step = values["iteration"]
        try:
            self._file.write(json.dumps({"time": round(time.time(), 3), **values}) + "\n")
            self._file.flush()
            for name in ("loss", "lr", "images_per_s", "stage"):
                self._writer.add_scalar(name, values[name], step)
        except OSError as error:
            raise explain_os_error(error, self.path) from error

    def show(self, step: int, stage: str, loss: float, images_per_s: float) -> None:
        self._display.show(step, stage, loss, images_per_s)

    def say(self, text: str) -> None:
        self._display.say(text)

    def close(self) -> None:
        self._display.close()
        try:
            self._file.close()
            self._writer.close()
        except OSError as error:
            raise explain_os_error(error, self.path) from error


class _Bar:
    def __init__(self, console: Console, step: int, total: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("{task.fields[rate]:.1f} images/s"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task("training", total=total, completed=step, loss=float("nan"), rate=0.0)
        self._progress.start()

    def show(self, step: int, stage: str, loss: float, images_per_s: float) -> None:
        self._progress.update(self._task, completed=step, description=stage, loss=loss, rate=images_per_s)

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        self._progress.stop()


class _Lines:
    """For pipes and log files: a plain line at most every few seconds, and the last one."""

    INTERVAL = 10.0  # seconds

    def __init__(self, console: Console, step: int, total: int) -> None:
        self._stream, self._total = console.file, total
        self._first, self._start, self._last = step, time.monotonic(), 0.0

    def show(self, step: int, stage: str, loss: float, images_per_s: float) -> None:
        now = time.monotonic()
        if now - self._last < self.INTERVAL and step < self._total:
            return
        self._last = now
        left = (now - self._start) / max(step - self._first, 1) * (self._total - step)
        self.say(
            f"{stage}: step {step}/{self._total}, loss {loss:.4f}, {images_per_s:.1f} images/s, "
            f"{int(left) // 60}:{int(left) % 60:02d} left"
        )

    def say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        return


def _make_display(console: Console, step: int, total: int) -> "_Bar | _Lines":
    return (_Bar if console.is_terminal else _Lines)(console, step, total)


def _keep_until(path: Path, step: int) -> None:
    """Drop the lines after `step`, and a torn last one."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            if json.loads(line)["iteration"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    with atomic_path(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")
