"""The folder of a job's outputs: by which settings it was filled, and what readers of it find."""

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pplfast.errors import UserError
from pplfast.files import StrPath, is_output, read_json, write_json
from pplfast.jobs.job import Choice
from pplfast.jobs.manifest import read_manifest
from pplfast.jobs.options import MERGED
from pplfast.jobs.record import BAD
from pplfast.storage import join, write_file
from pplfast.storage.tables import read_table

SETTINGS_FILE = "settings.json"


def decide(folder: StrPath, wanted: Mapping[str, Any], choices: Mapping[str, Choice]) -> dict[str, Any]:
    """The settings of a job in this folder: what is wanted, and of each choice what was decided when it was begun."""
    recorded = read_settings(folder) or {}
    decided = {
        name: recorded[name] if name in recorded and choice.possible(recorded[name]) else choice.value
        for name, choice in choices.items()
    }
    settings: dict[str, Any] = json.loads(json.dumps({**wanted, **decided}))  # tuples become lists, as in the file
    return settings


def claim_folder(path: Path, settings: dict[str, Any], outputs: Iterable[Path] = ()) -> None:
    """Write the settings into the folder. UserError for a file, a folder that was filled with other settings, and one
    that no job has filled but has something of the name of an output."""
    if os.path.exists(path) and not os.path.isdir(path):
        raise UserError(f"{path}: is a file; give a folder for the outputs")
    record = path / SETTINGS_FILE
    if os.path.lexists(record):
        _refuse_other_settings(record, read_json(record), settings)
        return
    foreign = next((output for output in outputs if os.path.lexists(output)), None) if os.path.isdir(path) else None
    if foreign is not None:
        raise UserError(f"{foreign}: is in the way, and {path} has no {SETTINGS_FILE} of a job; choose another --out")
    write_json(record, settings)


def claim_shards(out: str, settings: dict[str, Any], there: Collection[str], outputs: Iterable[str]) -> None:
    """The same for outputs in shards, in a folder or at a URL; there: the names of all files in it."""
    if SETTINGS_FILE in there:
        _refuse_other_settings(join(out, SETTINGS_FILE), read_settings(out) or {}, settings)
        return
    foreign = next((output for output in outputs if output in there), None)
    if foreign is not None:
        raise UserError(
            f"{join(out, foreign)}: is in the way, and {out} has no {SETTINGS_FILE} of a job; choose another --out"
        )
    write_file(join(out, SETTINGS_FILE), json.dumps(settings, indent=2, allow_nan=False).encode() + b"\n")


def read_settings(folder: StrPath) -> dict[str, Any] | None:
    """The settings that a folder, or a URL, was filled with; None where it has no record of them."""
    return read_table(join(os.fspath(folder), SETTINGS_FILE))


def find_outputs(folder: StrPath, ids: Sequence[str], suffix: str, command: str) -> dict[str, str]:
    """Check that every id has its `<id><suffix>` in the folder; returns id -> reason of those known to have failed.

    Raises UserError for a folder or outputs that are missing without such a note; `command` is what makes them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; make it with `{command}`")
    failed = {record["id"]: record["reason"] for record in read_manifest(folder).values() if record["state"] == BAD}
    missing = [image_id for image_id in ids if image_id in failed or not is_output(folder / f"{image_id}{suffix}")]
    unexplained = [image_id for image_id in missing if image_id not in failed]
    if unexplained:
        raise UserError(
            f"{folder}: {len(unexplained)} of the list's {len(ids)} images have no {suffix} here (first: "
            f"{unexplained[0]}); make them with `{command}` for this list"
        )
    if ids and len(missing) == len(ids):
        raise UserError(
            f"{folder}: all {len(ids)} images of the list failed (first: {ids[0]}: {failed[ids[0]]}, see "
            f"{folder / MERGED}); mend them and run `{command}` again"
        )
    return {image_id: failed[image_id] for image_id in missing}


def _refuse_other_settings(record: StrPath, there: dict[str, Any], wanted: dict[str, Any]) -> None:
    if there == wanted:
        return
    absent = object()  # an own value: null is one that a file may hold
    key = next(key for key in sorted({*there, *wanted}) if there.get(key, absent) != wanted.get(key, absent))
    was, now = (repr(table[key]) if key in table else "nothing" for table in (there, wanted))
    raise UserError(
        f"{os.path.dirname(record)}: was filled with {key} = {was}, not {now}; choose another output folder, or delete "
        "this one"
    )
