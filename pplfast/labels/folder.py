"""A folder with one output per image: which are done, with which settings, and which images failed."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pplfast.data.dataset import Dataset
from pplfast.errors import UserError, one_line
from pplfast.files import (
    StrPath,
    append_line,
    check_inside,
    is_output,
    open_append,
    parse_json,
    read_json,
    read_lines,
    remove_file,
    write_json,
)
from pplfast.labels.stream.manifest import MERGED, read_records
from pplfast.labels.stream.record import BAD

SETTINGS_FILE = "settings.json"
BAD_FILE = "bad.jsonl"
EXIT_BAD = 3  # exit code: finished, but some images are bad


@dataclass
class Outcome:
    """What one pass over a list did: counts of images, and (id, reason) of those that failed."""

    written: int = 0
    skipped: int = 0  # were there already
    bad: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """Of a command that did this pass: 0, or 3 where some images failed."""
        return EXIT_BAD if self.bad else 0

    def summary(self, what: str, folder: StrPath) -> str:
        """Lines for the user: the counts, then each image that failed."""
        counts = f"{self.written} {what} written to {folder} in {self.seconds:.0f} s, {self.skipped} were there already"
        if not self.bad:
            return counts
        reasons = [one_line(f"  {image_id}: {reason}") for image_id, reason in self.bad]
        return "\n".join([f"{counts}, {len(self.bad)} failed (see {Path(folder) / BAD_FILE}):", *reasons])


class OutputFolder:
    """Outputs `<id><suffix>`; a second pass skips what is there, and refuses to mix two settings in one folder.

    settings: what decides the content of the outputs, JSON-able. Raises UserError when the folder was filled with
    other settings.
    """

    def __init__(self, path: StrPath, suffix: str, settings: dict[str, Any]) -> None:
        self.path, self.suffix = Path(path), suffix
        claim_folder(self.path, settings)
        remove_file(self.path / BAD_FILE)  # those images are tried again now
        self.outcome = Outcome()

    def output(self, image_id: str) -> Path:
        return self.path / f"{image_id}{self.suffix}"

    def pending(self, ids: Sequence[str]) -> list[int]:
        """Positions of the ids without output. UserError where something else is in an output's place, or where a link
        leads out of the folder."""
        check_inside(self.path, map(self.output, ids))
        positions = [position for position, image_id in enumerate(ids) if not is_output(self.output(image_id))]
        self.outcome.skipped = len(ids) - len(positions)
        return positions

    def failed(self, image_id: str, reason: str) -> None:
        """Note an image that has no output; the line is on disk at once."""
        self.outcome.bad.append((image_id, reason))
        path = self.path / BAD_FILE
        with open_append(path) as file:
            append_line(file, json.dumps({"id": image_id, "error": reason}), path)

    def on_bad(self, dataset: Dataset, advance: Callable[[], None]) -> Callable[[int, str], None]:
        """For a loader: notes the image at a position of the data set as failed, and that it is over with it."""

        def note(index: int, reason: str) -> None:
            self.failed(dataset.ids[index], f"{dataset.images[index]}: {reason}")
            advance()

        return note

    def finish(self, seconds: float) -> Outcome:
        """The outcome of the pass. Raises UserError when every image failed: then it is not the images."""
        self.outcome.seconds = seconds
        bad = self.outcome.bad
        if bad and not self.outcome.written and not self.outcome.skipped:
            raise UserError(
                f"{self.path}: all {len(bad)} images failed (first: {bad[0][0]}: {bad[0][1]}); see "
                f"{self.path / BAD_FILE}"
            )
        return self.outcome


def claim_folder(path: Path, settings: dict[str, Any]) -> None:
    """Write the settings into the folder. UserError for a file, or a folder that was filled with other settings."""
    if os.path.exists(path) and not os.path.isdir(path):
        raise UserError(f"{path}: is a file; give a folder for the outputs")
    settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
    record = path / SETTINGS_FILE
    if os.path.lexists(record):
        _refuse_other_settings(record, read_json(record), settings)
    else:
        write_json(record, settings)


def read_settings(folder: StrPath) -> dict[str, Any] | None:
    """The settings that a folder was filled with; None where it has no record of them."""
    record = Path(folder) / SETTINGS_FILE
    return read_json(record) if os.path.lexists(record) else None


def find_outputs(folder: StrPath, ids: Sequence[str], suffix: str, command: str) -> dict[str, str]:
    """Check that every id has its `<id><suffix>` in the folder; returns id -> reason of those known to have failed.

    Raises UserError for a folder or outputs that are missing without such a note; `command` is what makes them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; make it with `{command}`")
    failed = _failed_ids(folder)
    missing = [image_id for image_id in ids if not is_output(folder / f"{image_id}{suffix}")]
    unexplained = [image_id for image_id in missing if image_id not in failed]
    if unexplained:
        raise UserError(
            f"{folder}: {len(unexplained)} of the list's {len(ids)} images have no {suffix} here (first: "
            f"{unexplained[0]}); make them with `{command}` for this list"
        )
    if len(missing) == len(ids):
        raise UserError(
            f"{folder}: all {len(ids)} images of the list failed (first: {ids[0]}: {failed[ids[0]]}); "
            f"mend them and run `{command}` again"
        )
    return {image_id: failed[image_id] for image_id in missing}


def _failed_ids(folder: Path) -> dict[str, str]:
    jobs = {record["id"]: record["reason"] for record in read_records(folder / MERGED) if record["state"] == BAD}
    path = folder / BAD_FILE
    noted = {}
    for number, line in read_lines(path):
        try:
            entry = parse_json(line)
            if not (isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("id", "error"))):
                raise ValueError("not a note of an image")
        except ValueError as error:
            raise UserError(
                f"{path}, line {number}: not readable ({error}); delete it and run the command that wrote it again"
            ) from None
        noted[entry["id"]] = entry["error"]
    return jobs | noted


def _refuse_other_settings(record: Path, there: dict[str, Any], wanted: dict[str, Any]) -> None:
    if there == wanted:
        return
    absent = object()  # an own value: null is one that a file may hold
    key = next(key for key in sorted({*there, *wanted}) if there.get(key, absent) != wanted.get(key, absent))
    was, now = (repr(table[key]) if key in table else "nothing" for table in (there, wanted))
    raise UserError(
        f"{record.parent}: was filled with {key} = {was}, not {now}; choose another output folder, or delete this one"
    )
