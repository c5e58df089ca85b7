"""Settings of a recipe changed by key: "optim.lr", "stages.0.grid"; one way for --set and for Python."""

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from pplfast.errors import UserError, did_you_mean

Overrides = Mapping[str, Any] | Sequence[str]

INSTEAD = {"epochs": "steps", "steps": "epochs"}  # of these a table has one


def apply_overrides(table: dict[str, Any], overrides: Overrides) -> None:
    """Put each value into the nested table of `recipe_to_dict`.

    overrides: {"optim.lr": 0.02}, or the texts that --set takes, "optim.lr=0.02", whose values are TOML or else text.
    Setting a table's epochs drops its steps, and the other way round: the last of the two holds.
    Raises UserError for a text that is none and for a key whose table or stage the recipe does not have; the last part
    of a key and the value are left to the recipe's own check.
    """
    if isinstance(overrides, str):
        overrides = (overrides,)
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            _put(table, key, value, key)
        return
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text}: must be KEY=VALUE with a key of the recipe, like optim.lr=0.02")
        _put(table, key.strip(), _parse(value.strip()), f"--set {text}")


def _put(table: dict[str, Any], key: str, value: Any, shown: str) -> None:
    *parents, last = key.split(".")
    target: Any = table
    for depth, name in enumerate(parents):
        target = _step(target, name, ".".join(parents[:depth]), shown)
    if not isinstance(target, dict):
        raise UserError(f"{shown}: '{'.'.join(parents)}' has no keys; set it as a whole")
    target[last] = value
    if (other := INSTEAD.get(last)) in target:
        target[other] = 0


def _step(target: Any, name: str, path: str, shown: str) -> Any:
    """The table or stage `name` within `target`, which is what the recipe has at `path`."""
    if isinstance(target, list | tuple):
        if not target or not isinstance(target[0], dict):
            raise UserError(f"{shown}: '{path}' has no keys; set it as a whole")
        if not name.isdecimal() or len(name) > 9 or int(name) >= len(target):
            count = len(target)
            which = f"0 to {count - 1}" if count > 2 else " and ".join(map(str, range(count)))
            raise UserError(
                f"{shown}: the recipe has {count} {path if count > 1 else path.removesuffix('s')} ({which})"
            )
        return target[int(name)]
    if not isinstance(target, dict) or name not in target:
        known = target if isinstance(target, dict) else {}
        where = f"'{path}' of the recipe" if path else "the recipe"
        raise UserError(
            f"{shown}: {where} has no key '{name}'{did_you_mean(name, known)}"
            + (f" (known: {', '.join(known)})" if known else "")
        )
    return target[name]


def _parse(value: str) -> Any:
    """A TOML value; anything that is none is taken as text, so that quotes are optional."""
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):  # also a number of thousands of digits, and lists in lists in lists
        return value
