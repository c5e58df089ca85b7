"""Steps that are done once: a record beside each output says with which settings, and what came of it."""

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pplfast.errors import UserError, explain_os_error
from pplfast.files import remove_file, write_json
from pplfast.lock import hold_folder
from pplfast.recipe.reading import completed
from pplfast.run.record import read_record

if TYPE_CHECKING:
    from pplfast.train import TrainResult


@dataclass(frozen=True)
class StepResult:
    values: dict[str, Any]  # what the step returned, JSON-able
    seconds: float  # of the pass that finished it, or over all passes where the step knows that
    stamp: str  # changes whenever the step is done anew; later steps hold it among their settings
    skipped: bool


class Announce(Protocol):
    """Tells the user how far the run is."""

    def __call__(self, text: str, /) -> None:
        """A step begins, or was done before."""

    def note(self, text: str, /) -> None:
        """A line about the step."""


class Steps:
    """The records of one variant, `folder/steps/<name>.json`.

    A step with a finished record of the same settings is skipped. One that was cut off under the same settings is
    called again and continues from its own outputs. Under other settings its outputs are deleted first; outputs
    without a record are somebody else's and are never touched.
    """

    def __init__(self, folder: Path, announce: Announce) -> None:
        self.folder, self.announce = folder, announce

    def run(
        self, name: str, settings: dict[str, Any], outputs: Sequence[Path], action: Callable[[], dict[str, Any]]
    ) -> StepResult:
        """outputs: the files and folders that belong to this step alone; a finished step has all of them.

        UserError where outputs are in the way that no earlier run made.
        """
        settings = _plain(settings)
        record = self.folder / "steps" / f"{name}.json"
        previous = read_record(record) if os.path.lexists(record) else None
        same = previous is not None and _plain(completed(previous.settings)) == _plain(completed(settings))
        if previous and same and previous.done and all(_is_there(path) for path in outputs):
            self.announce(f"{name}: done before, skipped")
            return StepResult(previous.values, previous.seconds, previous.stamp, skipped=True)
        if not same:
            if not previous:
                _refuse_foreign(outputs)
            _delete(outputs)
            write_json(record, {"settings": settings, "done": False})
        self.announce(name)
        start = time.monotonic()
        values = action()
        seconds = round(max(time.monotonic() - start, values.pop("seconds", 0)), 3)
        stamp = f"{time.time():.6f}"
        write_json(record, {"settings": settings, "done": True, "values": values, "seconds": seconds, "stamp": stamp})
        return StepResult(values, seconds, stamp, skipped=False)

    def discard(self, name: str, outputs: Sequence[Path]) -> None:
        """Remove what an earlier run made of a step that this run does not have."""
        record = self.folder / "steps" / f"{name}.json"
        if os.path.lexists(record):
            _delete([*outputs, record])


def _plain(settings: Any) -> Any:
    """As in the record, where tuples become lists."""
    return json.loads(json.dumps(settings))


def training_values(result: "TrainResult") -> dict[str, Any]:
    """What a step returns that trains a network."""
    return {"images_per_second": result.images_per_s, "loss": result.loss, "seconds": result.seconds}


def _refuse_foreign(outputs: Sequence[Path]) -> None:
    for path in outputs:
        if os.path.lexists(path):
            raise UserError(
                f"{path}: is in the way and was not made by `pplfast run`; move it, or choose another --out"
            )


def _is_there(path: Path) -> bool:
    """UserError for a folder where the step makes a file, or a file where it makes a folder."""
    if path.exists() and path.is_dir() == (path.suffix == ".json"):
        raise UserError(
            f"{path}: is a {'folder' if path.is_dir() else 'file'}, which the step does not make; delete it"
        )
    return path.exists()


def _delete(outputs: Sequence[Path]) -> None:
    for path in outputs:
        if path.is_symlink() or not path.is_dir():
            remove_file(path)
            continue
        with hold_folder(path):  # a command of its own may be writing to it
            pass
        try:
            shutil.rmtree(path)
        except OSError as error:
            raise explain_os_error(error, path) from error
