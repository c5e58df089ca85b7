"""Where the figures of a training run go: the interface, and the files of the run's own folder."""

import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from pplfast.errors import UserError, explain_os_error
from pplfast.extend import import_object
from pplfast.files import append_line, atomic_path, check_inside, open_append, parse_json, read_lines
from pplfast.train.run_info import RunInfo, numbers

JSONL, TENSORBOARD = "log.jsonl", "tb"
DEFAULT = ("jsonl", "tensorboard")


class Logger(Protocol):
    """Takes what a run has to say once an interval, on rank 0 alone. Made with a RunInfo.

    What it raises does not end the run: it is said once, and the logger is given up; only a UserError is the run's.
    """

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """step: optimizer steps done over all stages. values: those of TrainLog, JSON-able, no float of them NaN or
        infinite. A resumed run comes again with the steps since its checkpoint."""

    def close(self) -> None:
        """The run is over, finished or not."""


class JsonLines:
    """log.jsonl: one object a line, written at once. Lines after `run.step`, of steps that come again, are dropped."""

    def __init__(self, run: RunInfo) -> None:
        self.path = run.folder / JSONL
        _keep_until(self.path, run.step)
        self._file = open_append(self.path)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        append_line(self._file, json.dumps({"time": round(time.time(), 3), **values}, allow_nan=False), self.path)

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise explain_os_error(error, self.path) from error


class TensorBoard:
    """tb/: `tensorboard --logdir` shows it. Points after `run.step` are hidden."""

    def __init__(self, run: RunInfo) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = run.folder / TENSORBOARD
        check_inside(run.folder, [self._folder / "x"])
        self._excepthook, threading.excepthook = threading.excepthook, self._hook
        try:
            self._writer = SummaryWriter(str(self._folder), purge_step=run.step + 1)
        except OSError as error:
            threading.excepthook = self._excepthook
            raise explain_os_error(error, self._folder) from error

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        try:
            for name, value in numbers(values).items():
                self._writer.add_scalar(name, value, step)
        except OSError as error:
            raise explain_os_error(error, self._folder) from error

    def close(self) -> None:
        try:
            self._writer.close()
        except OSError as error:
            raise explain_os_error(error, self._folder) from error
        finally:
            threading.excepthook = self._excepthook

    def _hook(self, args: threading.ExceptHookArgs) -> None:
        """The thread that writes keeps an error for the next call, which raises it: no traceback beside that."""
        if not (isinstance(args.exc_value, OSError) and hasattr(args.thread, "exception")):
            self._excepthook(args)


def _wandb(run: RunInfo) -> Logger:
    from pplfast.train.trackers import WeightsAndBiases

    return WeightsAndBiases(run)


def _mlflow(run: RunInfo) -> Logger:
    from pplfast.train.trackers import Mlflow

    return Mlflow(run)


@dataclass(frozen=True)
class _Known:
    make: Callable[[RunInfo], Logger]
    package: str = ""  # that it needs, and the extra of pplfast that brings it


KNOWN = {
    "jsonl": _Known(JsonLines),
    "tensorboard": _Known(TensorBoard, "tensorboard"),
    "wandb": _Known(_wandb, "wandb"),
    "mlflow": _Known(_mlflow, "mlflow"),
}


def check_loggers(names: tuple[str, ...]) -> None:
    """Raises UserError for a name that means no logger, and for one whose package is not installed."""
    for name in names:
        package = _find(name).package
        if package and find_spec(package) is None:
            raise UserError(f"--logger {name}: {package} is not installed; pip install {package}")


def open_loggers(names: tuple[str, ...], run: RunInfo) -> dict[str, Logger]:
    """Those beside JsonLines. Raises UserError where one cannot start."""
    opened = {}
    for name in dict.fromkeys(names):
        if name == "jsonl":
            continue
        try:
            opened[name] = _find(name).make(run)
        except UserError:
            raise
        except Exception as error:  # all ranks have to end alike
            raise UserError(f"--logger {name}: cannot start: {error!r}; leave it out, or mend it") from error
    return opened


def _find(name: str) -> _Known:
    if name in KNOWN:
        return KNOWN[name]
    if ":" not in name:
        raise UserError(f'--logger {name}: choose from {", ".join(KNOWN)}, or give an own "package.module:Class"')
    own = import_object(name, "logger")
    if not (isinstance(own, type) and all(callable(getattr(own, method, None)) for method in ("log", "close"))):
        raise UserError(f"--logger {name}: must be a class with log(step, values) and close()")
    return _Known(own)


def _keep_until(path: Path, step: int) -> None:
    """Drop the lines after `step`, and a torn last one."""
    kept = []
    for _, line in read_lines(path):
        try:
            entry = parse_json(line)
            if entry["step"] <= step and _is_loss(entry.get("loss")):
                kept.append(line)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    if path.exists():
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"".join(kept))


def _is_loss(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and math.isfinite(value))
