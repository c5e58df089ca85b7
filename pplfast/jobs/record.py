"""What a manifest's line may hold. A folder may come from a stranger: nothing of it is taken but what the job writes.

The names in a record decide which files are read and deleted, so each must be the one that the job gives that image.
"""

import math
import os
import re
from collections.abc import Callable
from typing import Any

from pplfast.data.image_info import DECODERS

DONE, BAD = "done", "bad"
SHARD = re.compile(r"shards/labels-[0-9]{5,9}-[0-9]{6,9}\.tar")
SHA256 = re.compile(r"[0-9a-f]{64}")
SUFFIXES = (".png", ".npy", ".npz", ".overlay.jpg")  # of the files of an image
LARGEST = 2**53  # of a number that is counted with: what JSON's other readers hold exactly

Record = dict[str, Any]  # id, state (done | bad), and what the job and the pipeline know of the image


def check_record(record: Any, tar: str | None = None) -> Record:
    """The record. tar: the shard that its files are in, of outputs of a data set in shards. Raises ValueError, with the
    reason, for what no job writes."""
    if not isinstance(record, dict):
        raise ValueError(f"a {type(record).__name__}, not an object")
    _check(record, FIELDS, ("id", "state"))
    if not is_id(record["id"]):
        raise ValueError("its id is no name of an image within a data set")
    if record["state"] == BAD and "reason" not in record:
        raise ValueError("a bad image without a reason")
    for entry in record.get("files", ()):
        if not isinstance(entry, dict):
            raise ValueError("a file that is not an object")
        _check(entry, FILE_FIELDS, ("file", "bytes", "sha256"))
        if not (_is_own(entry, record["id"]) if tar is None else entry["file"] == tar and "offset" in entry):
            raise ValueError(f"{entry['file']!r} is not the name of an output of {record['id']!r}")
    return record


def is_id(name: str) -> bool:
    """Whether it stays below the folder that it is put into, and is a name that the file system can have."""
    if not name.isascii():
        try:
            os.fsencode(name)
        except UnicodeEncodeError:
            return False
    return "\0" not in name and not name.startswith("/") and ".." not in name.split("/")


def _is_own(entry: Record, image_id: str) -> bool:
    if "offset" in entry:
        return SHARD.fullmatch(entry["file"]) is not None
    return entry["file"] in (f"{image_id}{suffix}" for suffix in SUFFIXES)


def _check(table: Record, fields: dict[str, Callable[[Any], bool]], needed: tuple[str, ...]) -> None:
    for name in needed:
        if name not in table:
            raise ValueError(f"without {name}")
    for name, value in table.items():
        if name not in fields:
            raise ValueError(f"with {name!r}, which it does not have")
        if not fields[name](value):
            raise ValueError(f"with a value that its {name} cannot have")


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST and math.isfinite(value)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_count, value))


def _integers(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)


FIELDS: dict[str, Callable[[Any], bool]] = {
    "id": _text,
    "state": lambda value: value in (DONE, BAD) if isinstance(value, str) else False,
    "classes": _counts,
    "height": _count,
    "width": _count,
    "files": lambda value: isinstance(value, list),
    "seconds": lambda value: isinstance(value, dict) and all(map(_number, value.values())),
    "rank": _count,
    "time": _number,
    "kind": _text,
    "reason": _text,
    "source": lambda value: value is None or _source(value),
    "image_sha256": lambda value: isinstance(value, str) and SHA256.fullmatch(value) is not None,
    "decoder": lambda value: value in DECODERS if isinstance(value, str) else False,
    "inputs": lambda value: isinstance(value, dict) and all(_text(part) or _integers(part) for part in value.values()),
    "tiled": _count,
    "confidence": lambda value: isinstance(value, dict) and all(map(_is_share, value.items())),
}
FILE_FIELDS: dict[str, Callable[[Any], bool]] = {
    "file": _text,
    "offset": _count,
    "member": _text,
    "bytes": _count,
    "sha256": lambda value: isinstance(value, str) and SHA256.fullmatch(value) is not None,
}


def _is_share(entry: tuple[Any, Any]) -> bool:
    """Of a mask value: "8": 0.71."""
    return entry[0].isascii() and entry[0].isdigit() and len(entry[0]) <= 3 and _number(entry[1]) and 0 <= entry[1] <= 1


def _source(value: Any) -> bool:
    """[bytes, nanoseconds of its change]: since 1970, but before it on odd file systems."""
    return _integers(value) and len(value) == 2
