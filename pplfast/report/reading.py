"""Values of a run's JSON files, checked where they are read: a run folder may be damaged, or from a stranger."""

import json
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeGuard

from pplfast.errors import UserError

MAX_JSON = 16 * 2**20  # bytes; ImageNet's summary.json with every image that was left out has a third of it
MAX_DEPTH = 50
MAX_FIGURE = 1e15
SHOWN = 40  # characters of a wrong value that a message repeats


class Table:
    """A JSON object with the file it is from: every reader raises a UserError that names the file and the key."""

    def __init__(self, values: dict[str, Any], path: Path, remedy: str, place: str = "") -> None:
        self._values, self.path, self._remedy, self._place = values, path, remedy, place

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def has(self, key: str) -> bool:
        """Whether there is a value, and not null."""
        return self._values.get(key) is not None

    def number(self, key: str, low: float = 0.0, high: float = MAX_FIGURE) -> float:
        """A finite number from `low` to `high`."""
        value = self._values.get(key)
        if not finite(value, low, high):
            raise self.wrong(key, f"a number from {low:g} to {high:g}")
        return float(value)

    def number_or_null(self, key: str, low: float = 0.0, high: float = MAX_FIGURE) -> float | None:
        """None where the file says null, not where it says nothing."""
        return None if key in self._values and not self.has(key) else self.number(key, low, high)

    def whole(self, key: str, low: int = 0, high: float = MAX_FIGURE) -> int:
        """A whole number from `low` to `high`."""
        value = self._values.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.wrong(key, f"a whole number from {low} to {high:g}")
        return value

    def text(self, key: str) -> str:
        value = self._values.get(key)
        if not isinstance(value, str):
            raise self.wrong(key, "a text")
        return value

    def flag(self, key: str) -> bool:
        value = self._values.get(key)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def table(self, key: str, known: Iterable[str] | None = None) -> "Table":
        """known: the keys that it may have; None for any."""
        value = self._values.get(key)
        if not isinstance(value, dict):
            raise self.wrong(key, "an object")
        table = Table(value, self.path, self._remedy, f"{self._place}{key}.")
        if known is not None and (unknown := set(value) - set(known)):
            raise table.wrong(min(unknown), "absent: no version of pplfast writes it")
        return table

    def tables(self, key: str) -> list["Table"]:
        values = self._list(key, dict, "objects")
        return [Table(value, self.path, self._remedy, f"{self._place}{key}[{i}].") for i, value in enumerate(values)]

    def texts(self, key: str) -> list[str]:
        return self._list(key, str, "texts")

    def _list(self, key: str, kind: type[Any], what: str) -> list[Any]:
        values = self._values.get(key)
        if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
            raise self.wrong(key, f"a list of {what}")
        return values

    def raw(self, key: str) -> Any:
        """As it stands in the file, at most MAX_DEPTH deep: only to be shown as JSON."""
        if key not in self._values:
            raise self.wrong(key, "given")
        return self._values[key]

    def wrong(self, key: str, expected: str) -> UserError:
        where = f"{self._place}{key}"
        where = where if where.isprintable() and len(where) <= 2 * SHOWN else _short(where)
        found = f"is {_short(self._values[key])}" if key in self._values else "is missing"
        return UserError(f"{self.path}: {where} {found}, and must be {expected}; {self._remedy}")


def read_table(path: Path, remedy: str) -> Table:
    """A JSON file that holds an object. UserError for any other, naming it; remedy: what to do about it, in words."""
    try:
        value = parse_json(read_bytes(path, MAX_JSON, remedy))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); {remedy}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds a {type(value).__name__}, not an object; {remedy}")
    return Table(value, path, remedy)


def read_bytes(path: Path, limit: int, remedy: str) -> bytes:
    """The whole of an ordinary file of at most `limit` bytes; no more is ever held in memory."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise UserError(f"{path}: is no ordinary file; {remedy}")
        with open(path, "rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {remedy}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    if len(content) > limit:
        raise UserError(f"{path}: over {limit // 2**20} MiB, more than a run writes there; {remedy}")
    return content


def parse_json(content: bytes) -> Any:
    """ValueError for what is no JSON in UTF-8, or nested deeper than MAX_DEPTH."""
    try:
        value = json.loads(content.decode("utf-8"))
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from None
    level, depth = [value], 0
    while level := [inner for outer in level for inner in _inside(outer)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
    return value


def finite(value: object, low: float, high: float) -> TypeGuard[float]:
    """Whether a value of JSON is a number in this range: no text, no NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _short(value: Any) -> str:
    """On one line: `repr` writes out what does not print."""
    if isinstance(value, dict | list):
        return f"a {type(value).__name__}"
    if isinstance(value, int) and abs(value) > MAX_FIGURE:
        return "a huge number"  # Python refuses to write thousands of digits
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
