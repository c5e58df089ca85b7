"""Steps that are done once: a record beside each output says with which settings, and what came of it."""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pplfast.cluster.ranks import Ranks, on_main
from pplfast.errors import UserError, explain_os_error
from pplfast.files import remove_file, write_json
from pplfast.lock import hold_folder
from pplfast.recipe.reading import completed
from pplfast.run.record import Record, read_record
from pplfast.steps import FIGURES, JOB, TRAINING

# Settings that say what single images are: a job finds by itself which of them have changed. Records of an older
# pplfast have none, and are taken on trust.
PER_IMAGE = frozenset(("data", "content", "updated"))


@dataclass(frozen=True)
class StepResult:
    values: dict[str, Any]  # what the step returned, JSON-able
    seconds: float  # of the pass that finished it, or over all passes where the step knows that
    stamp: str  # changes whenever its outputs are begun anew; later steps hold both times among their settings
    updated: str  # changes whenever its outputs do
    skipped: bool


class Announce(Protocol):
    """Tells the user how far the run is."""

    def __call__(self, text: str, /) -> None:
        """A step begins, or was done before."""

    def note(self, text: str, /) -> None:
        """A line about the step."""


class Steps:
    """The records of one variant, `folder/steps/<name>.json`, which rank 0 alone reads and writes.

    A step with a finished record of the same settings is skipped. One that was cut off under the same settings is
    called again and continues from its own outputs; so is a job of which only single images have changed. Under other
    settings its outputs are deleted first, but a network that was trained is kept under another name, and taken back
    once its settings are wanted again. Outputs without a record are somebody else's and are never touched.
    """

    def __init__(self, folder: Path, ranks: Ranks, announce: Announce) -> None:
        self.folder, self.ranks, self.announce = folder, ranks, announce

    def run(
        self,
        name: str,
        settings: dict[str, Any],
        action: Callable[[], dict[str, Any]],
        output: Path | None = None,
        kind: str = FIGURES,
    ) -> StepResult:
        """Called by all ranks, which get the same result. output: the file or folder that belongs to this step alone.

        action: called by all ranks too; what rank 0's returns counts: {"seconds"} of all passes, where it knows them,
        {"written"} of a job, and the values. UserError where something is in the way that no earlier run made.
        """
        settings = json.loads(json.dumps(settings))  # as in the record, where tuples become lists
        found = on_main(self.ranks, lambda: self._begin(name, settings, output, kind))
        if isinstance(found, StepResult):
            return found
        start = time.monotonic()
        values = action()
        return on_main(self.ranks, lambda: self._end(name, settings, found, values, time.monotonic() - start))

    def _begin(self, name: str, settings: dict[str, Any], output: Path | None, kind: str) -> StepResult | Record:
        """The result of a step that is done, or the record that it begins with."""
        path = self._path(name)
        previous = read_record(path) if os.path.lexists(path) else None
        if previous is None:
            _refuse_foreign(output)
        elif _changed(previous, settings) - (PER_IMAGE if kind == JOB else set()) or not _holds(previous, output):
            if kind == TRAINING and output:
                self._set_aside(name, output)
                previous = self._take_back(name, settings, output)
            else:
                _delete(output)
                previous = None
        if previous and previous.done and not _changed(previous, settings):
            self.announce(f"{name}: done before, skipped")
            if settings.keys() - previous.settings.keys():  # of an older pplfast: from now on they are known
                self._write(name, settings, previous)
            return StepResult(previous.values, previous.seconds, previous.stamp, previous.updated, skipped=True)
        begun = previous or Record(settings, False, {}, 0.0, "", "")
        stamp = begun.stamp or _now()
        write_json(path, {"settings": settings, "done": False, "stamp": stamp})
        self.announce(name)
        return Record(settings, begun.done, begun.values, begun.seconds, stamp, begun.updated)

    def _end(
        self, name: str, settings: dict[str, Any], begun: Record, values: dict[str, Any], seconds: float
    ) -> StepResult:
        seconds = round(max(seconds, values.pop("seconds", 0)), 3)
        updated = _now()
        if values.pop("written", None) == 0 and begun.done and begun.values["missing"] == values["missing"]:
            values, seconds, updated = begun.values, begun.seconds, begun.updated  # the job found nothing to do
        self._write(name, settings, Record(settings, True, values, seconds, begun.stamp, updated))
        return StepResult(values, seconds, begun.stamp, updated, skipped=False)

    def forget(self, name: str) -> None:
        """Have the next call do it again, whatever it finds."""
        on_main(self.ranks, lambda: remove_file(self._path(name)))

    def _path(self, name: str) -> Path:
        return self.folder / "steps" / f"{name}.json"

    def _write(self, name: str, settings: dict[str, Any], record: Record) -> None:
        done = {"values": record.values, "seconds": record.seconds, "stamp": record.stamp, "updated": record.updated}
        write_json(self._path(name), {"settings": settings, "done": True, **done})

    def _set_aside(self, name: str, output: Path) -> None:
        """Keep a network, or the checkpoints on the way to one, and its record as `<name>.old`."""
        if not any(output.glob("*.safetensors")) and not any((output / "checkpoints").glob("stage*")):
            return _delete(output)
        suffixes = (f".old{number or ''}" for number in (0, *range(2, 10**6)))
        suffix = next(suffix for suffix in suffixes if not os.path.lexists(f"{output}{suffix}"))
        with hold_folder(output):  # a command of its own may be writing to it
            pass
        os.rename(output, f"{output}{suffix}")
        os.replace(self._path(name), self._path(f"{name}{suffix}"))
        self.announce.note(f"{name}: other settings or data; what was trained before is kept in {output}{suffix}")

    def _take_back(self, name: str, settings: dict[str, Any], output: Path) -> Record | None:
        for path in sorted((self.folder / "steps").glob(f"{name}.old*.json")):
            kept, record = Path(f"{output}{path.stem.removeprefix(name)}"), read_record(path)
            if kept.is_dir() and not _changed(record, settings):
                os.replace(path, self._path(name))
                os.rename(kept, output)
                self.announce.note(f"{name}: what was trained with these settings is taken back from {kept}")
                return record
        return None


def _now() -> str:
    return f"{time.time():.6f}"


def _changed(record: Record, settings: dict[str, Any]) -> set[str]:
    """Names of the settings that differ."""
    old, new = completed(record.settings), completed(settings)
    old = old if isinstance(old, dict) else {"": old}
    keys = old.keys() | (new.keys() - (PER_IMAGE - old.keys()))
    return {key for key in keys if old.get(key) != new.get(key) or (key in old) != (key in new)}


def _holds(record: Record, output: Path | None) -> bool:
    """Whether what a finished step made is there. UserError for a folder where it makes a file, or the other way."""
    if output and output.exists() and output.is_dir() == (output.suffix == ".json"):
        kind = "folder" if output.is_dir() else "file"
        raise UserError(f"{output}: is a {kind}, which the step does not make; delete it")
    return not record.done or not output or output.exists()


def _refuse_foreign(output: Path | None) -> None:
    if output and os.path.lexists(output):
        raise UserError(f"{output}: is in the way and was not made by `pplfast run`; move it, or choose another --out")


def _delete(output: Path | None) -> None:
    if not output or output.is_symlink() or not output.is_dir():
        return remove_file(output) if output else None
    with hold_folder(output):  # a command of its own may be writing to it
        pass
    try:
        shutil.rmtree(output)
    except OSError as error:
        raise explain_os_error(error, output) from error
