"""A recipe as TOML: what differs from the usual values, in the order of settings.py."""

import dataclasses
import json
from typing import Any

from pplfast.recipe.settings import Recipe


def recipe_to_toml(recipe: Recipe, comments: tuple[str, ...] = ()) -> str:
    """The text of a file that `load_recipe` reads as the same recipe. comments: lines at its top."""
    lines = [f"# {comment}" for comment in comments]
    _write(lines, recipe, "", Recipe())
    return "\n".join(lines) + "\n"


def _write(lines: list[str], part: Any, path: str, usual: Any) -> None:
    names = [entry.name for entry in dataclasses.fields(part)]
    entries = [(name, getattr(part, name), getattr(usual, name)) for name in names]
    plain = [(name, value) for name, value, other in entries if not _is_table(value) and value != other]
    if path and plain:
        lines += ["", f"[{path}]"]
    lines += [f"{name} = {toml_value(value)}" for name, value in plain]
    for name, value, other in entries:
        if dataclasses.is_dataclass(value) and value != other:
            _write(lines, value, f"{path}.{name}" if path else name, other)
        elif _is_table(value) and not dataclasses.is_dataclass(value):
            for stage in value:
                lines += ["", f"[[{name}]]"]
                lines += [f"{key} = {toml_value(number)}" for key, number in _own(stage)]


def _own(stage: Any) -> list[tuple[str, Any]]:
    """What of a stage differs from the class's own values."""
    entries = ((entry, getattr(stage, entry.name)) for entry in dataclasses.fields(stage))
    return [(entry.name, value) for entry, value in entries if value != entry.default]


def _is_table(value: Any) -> bool:
    """Of settings, or a list of them."""
    several = isinstance(value, tuple) and bool(value) and dataclasses.is_dataclass(value[0])
    return dataclasses.is_dataclass(value) or several


def toml_value(value: Any) -> str:
    """A text, a number, a truth value, or a list of such."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)
