"""The record of a step, read back: nothing in it is taken on trust, since a run's folder may be a stranger's."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pplfast.errors import UserError
from pplfast.files import read_json

STAMP = re.compile(r"[0-9]{1,12}\.[0-9]{6}")


class Values(dict[str, Any]):
    """What a step returned. A value that it lacks is a UserError that names its record."""

    def __init__(self, values: dict[str, Any], record: Path) -> None:
        super().__init__(values)
        self._record = record

    def __missing__(self, key: str) -> Any:
        raise _refusal(self._record, f"it has no value {key!r}")


@dataclass(frozen=True)
class Record:
    """settings: any JSON. stamp: when its outputs were begun, updated: when they last changed; "" where not known.
    The rest only where the step is done."""

    settings: Any
    done: bool
    values: dict[str, Any]
    seconds: float
    stamp: str
    updated: str


def read_record(path: Path) -> Record:
    """Raises UserError, naming the file and what to do, for what no step writes."""
    table = read_json(path)
    if "settings" not in table or type(table.get("done")) is not bool:
        raise _refusal(path, "settings or done are missing")
    stamp = table.get("stamp", "")
    updated = table.get("updated", stamp)
    if not all(isinstance(time, str) and (STAMP.fullmatch(time) or not time) for time in (stamp, updated)):
        raise _refusal(path, "its times are none")
    if not table["done"]:
        return Record(table["settings"], False, {}, 0.0, stamp, updated)
    values, seconds = table.get("values"), table.get("seconds")
    if not isinstance(values, dict) or not _number(seconds) or not stamp:
        raise _refusal(path, "values, seconds or stamp are none")
    for name, value in values.items():
        if name in KINDS and not KINDS[name](value):
            raise _refusal(path, f"its {name} cannot be")
    if (values.get("declared") is None) != (values.get("empty") is None):
        raise _refusal(path, "declared and empty do not go together")
    assert isinstance(seconds, int | float), "checked"
    return Record(table["settings"], True, Values(values, path), seconds, stamp, updated)


def _refusal(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: not the record of a step ({reason}); choose another --out, or delete this one")


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value < 2**53


def _optional(value: Any) -> bool:
    return value is None or _number(value)


def _optional_share(value: Any) -> bool:
    return value is None or (_number(value) and value <= 1)


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _optional_count(value: Any) -> bool:
    return value is None or _count(value)


def _figure(value: Any) -> bool:
    """A loss of one's own may be below 0."""
    return value is None or (type(value) in (int, float) and abs(value) < 2**53)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_text, value.values()))


# Of the values that the program uses again.
KINDS: dict[str, Callable[[Any], bool]] = {
    "left_out": _texts,
    "content": _texts,
    "masks": _texts,
    "miou": _figure,
    "threshold": _optional_share,
    "missing": _count,
    "images_per_second": _optional,
    "loss": _figure,
    "source": _text,
    "dataset": _text,
    "images": _count,
    "listed": _count,
    "foreground": _number,
    "almost_all": _count,
    "declared": _optional_count,
    "empty": _optional_count,
    "absent": _optional,
}
