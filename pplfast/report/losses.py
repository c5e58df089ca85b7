"""The losses of a training log, read line by line: a log may be cut off, damaged, or larger than the memory."""

import math
from array import array
from dataclasses import dataclass, field
from pathlib import Path

from pplfast.checked import finite
from pplfast.errors import explain_os_error
from pplfast.files import parse_json
from pplfast.reading import open_regular

MAX_LOG = 64 * 2**20  # bytes that are read: some 250,000 lines
MAX_LINE = 2**16
MAX_STEP, MAX_LOSS = 1e15, 1e30


@dataclass(frozen=True)
class Losses:
    """Of the lines of log.jsonl. values: NaN where the loss was not finite."""

    steps: "array[float]" = field(default_factory=lambda: array("d"))
    values: "array[float]" = field(default_factory=lambda: array("d"))
    note: str = ""  # what of the file is not shown


def read_losses(path: Path) -> Losses:
    """UserError for a log that cannot be read at all. The last line may be cut off where a process was killed."""
    losses, damaged, read = Losses(), 0, 0
    try:
        with open_regular(path) as file:
            while read < MAX_LOG and (line := file.readline(MAX_LINE)):
                read += len(line)
                damaged += not _take(line, losses) and line.endswith(b"\n")
    except OSError as error:
        raise explain_os_error(error, path, reading=True) from None
    notes = [f"{damaged} lines of it cannot be read"] if damaged else []
    if read >= MAX_LOG:
        notes.append(f"only its first {MAX_LOG // 2**20} MiB are shown")
    return Losses(losses.steps, losses.values, f"{path}: {', '.join(notes)}" if notes else "")


def _take(line: bytes, losses: Losses) -> bool:
    """Append the loss of one line; False where it has none."""
    try:
        entry = parse_json(line)
    except ValueError:
        return False
    if not isinstance(entry, dict) or "loss" not in entry:
        return False
    step, loss = entry.get("step"), entry["loss"]
    if not finite(step, 0, MAX_STEP) or not (loss is None or finite(loss, -MAX_LOSS, MAX_LOSS)):
        return False
    losses.steps.append(step)
    losses.values.append(math.nan if loss is None else loss)
    return True
