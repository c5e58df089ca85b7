"""Values of a run's JSON files, checked where they are read: a run folder may be damaged, or from a stranger."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeGuard

from pplfast.errors import UserError
from pplfast.files import read_json

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
        """As it stands in the file: only to be shown as JSON."""
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
        return Table(read_json(path, remedy), path, remedy)
    except UserError as error:
        raise error if remedy in str(error) else UserError(f"{error}; {remedy}") from None


def finite(value: object, low: float, high: float) -> TypeGuard[float]:
    """Whether a value of JSON is a number in this range: no text, no NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _short(value: Any) -> str:
    """On one line: `repr` writes out what does not print."""
    if isinstance(value, dict | list):
        return f"a {type(value).__name__}"
    if isinstance(value, int) and abs(value) > MAX_FIGURE:
        return "a huge number"  # Python refuses to write thousands of digits
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
