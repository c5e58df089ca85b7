"""A recipe from its preset, its TOML file or its saved form."""

import dataclasses
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pplfast.errors import UserError, did_you_mean
from pplfast.recipe.overrides import Overrides, apply_overrides
from pplfast.recipe.ranges import SettingError, finite_float, short
from pplfast.recipe.settings import AugmentConfig, Length, ModelConfig, OptimConfig, Recipe

Part = TypeVar("Part")

LARGEST_FILE = 1_000_000  # bytes


def preset_names() -> list[str]:
    """The names of the recipes that come with the package, in alphabetical order."""
    return sorted(
        Path(str(entry)).stem for entry in resources.files("pplfast.recipes").iterdir() if str(entry).endswith(".toml")
    )


def load_recipe(name_or_file: str | os.PathLike[str], overrides: Overrides = ()) -> Recipe:
    """A preset by name or a TOML file by path, with some settings changed.

    overrides: {"optim.lr": 0.02, "stages.0.grid": 4}, or texts as --set takes them, ["optim.lr=0.02"].
    Raises UserError naming the file, the key and the remedy.
    """
    name = os.fspath(name_or_file)
    source, text = _read(name)
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise UserError(f"{source}: not a recipe: its lists or tables are nested too deeply") from None
    except ValueError as error:  # tomllib's own, and Python's for a number of thousands of digits
        raise UserError(f"{source}: not valid TOML: {str(error)[:300]}") from None
    table.setdefault("name", Path(name).stem)
    recipe = recipe_from_dict(table, source)
    if not overrides:
        return recipe
    changed = recipe_to_dict(recipe)
    apply_overrides(changed, overrides)
    shown = overrides if isinstance(overrides, str) else ", ".join(overrides)
    return recipe_from_dict(changed, f"{source} with {shown}")


def _read(name: str) -> tuple[str, str]:
    """What to call it in messages, and its text."""
    if name in preset_names():
        preset = resources.files("pplfast.recipes").joinpath(f"{name}.toml")
        return f"preset {name}", preset.read_text(encoding="utf-8")
    try:
        with open(name, "rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise UserError(f"{name}: is no recipe file: larger than {LARGEST_FILE // 1000} kB; give a TOML file")
        return name, content.decode("utf-8-sig")  # Notepad writes a byte order mark
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{name}: neither a recipe file nor a preset{did_you_mean(name, preset_names())} "
            f"(presets: {', '.join(preset_names())})"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{name}: is no recipe file: not text in UTF-8; give a TOML file") from None
    except (OSError, ValueError) as error:  # of a NUL in the name it is a ValueError
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{name!r}: cannot be read as a recipe file ({reason}); give a TOML file") from None


def recipe_from_dict(table: dict[str, Any], source: str) -> Recipe:
    """A recipe from nested tables, as `recipe_to_dict` gives them; keys that they lack have their usual values.

    source: what messages call it. Raises UserError naming the source, the key and what it must be.
    """
    recipe = part_from_dict(Recipe, table, source)
    if not recipe.stages:
        raise UserError(f"{source}: 'stages' = []: must be at least one [[stages]] table")
    return recipe


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Nested tables with every key, of plain values and tuples: JSON-able."""
    return dataclasses.asdict(recipe)


TABLES: dict[str, Any] = {"model": ModelConfig, "augment": AugmentConfig, "optim": OptimConfig}


def completed(record: Any, usual: Mapping[str, Any] | None = None) -> Any:
    """What a folder was made by, with the usual values of settings that the pplfast of that time did not know.

    record: any JSON value; tables of a recipe are recognised by their keys, at any depth. usual: what it may lack. For
    comparing it with what is wanted: an older folder is still the same.
    """
    if isinstance(record, list | tuple):
        return [completed(entry) for entry in record]
    if not isinstance(record, dict):
        return record
    loss = {"loss": Recipe.loss} if "stages" in record else {}
    steps = {"steps": Length.steps} if "epochs" in record else {}
    tables = {key: dataclasses.asdict(kind()) for key, kind in TABLES.items()}
    inner = {key: completed(value, tables.get(key)) for key, value in record.items()}
    return {**loss, **steps, **(usual or {}), **inner}


def part_from_dict(kind: type[Part], table: Any, source: str) -> Part:
    """One table of a recipe, as `recipe_to_dict` gives it; keys that it lacks have the class's own values.

    Raises UserError naming the source, the key and the range of a number that is out of it.
    """
    part: Part = _build(kind, table, source, "")
    return part


def _build(kind: Any, table: dict[str, Any], source: str, path: str, base: Any = None) -> Any:
    """base: the values of keys that are not given; the class's own without it."""
    if not isinstance(table, dict):
        name = f"'{path.removesuffix('.')}'" if path else "it"
        raise UserError(f"{source}: {name} must be a table, not {short(table)}")
    hints = typing.get_type_hints(kind)
    unknown = [key for key in table if key not in hints]
    if unknown:
        key = str(unknown[0])[:60]
        hint = did_you_mean(key, hints)
        raise UserError(f"{source}: unknown key '{path}{key}'{hint} (known here: {', '.join(hints)})")
    bases = {
        entry.name: getattr(base, entry.name) if base is not None else entry.default_factory()
        for entry in dataclasses.fields(kind)
        if entry.default_factory is not dataclasses.MISSING
    }
    values = {key: _convert(value, hints[key], source, f"{path}{key}", bases.get(key)) for key, value in table.items()}
    for entry in dataclasses.fields(kind):
        if entry.default is entry.default_factory is dataclasses.MISSING and entry.name not in values and base is None:
            raise UserError(f"{source}: '{path}{entry.name}' is missing")
    try:
        return kind(**values) if base is None else dataclasses.replace(base, **values)
    except SettingError as error:
        raise UserError(f"{source}: '{path}{error.key}'{error.what}") from None


def _convert(value: Any, hint: Any, source: str, path: str, base: Any = None) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, source, f"{path}.", base)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{source}: '{path}' must be a list, not {short(value)}")
        inner = typing.get_args(hint)
        if inner[-1] is not Ellipsis and len(inner) != len(value):
            raise UserError(f"{source}: '{path}' must have {len(inner)} values, not {len(value)}")
        return tuple(_convert(item, inner[0], source, f"{path}[{i}]") for i, item in enumerate(value))
    if isinstance(hint, types.UnionType):
        raise TypeError(f"{path}: unions are not supported in recipes")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return finite_float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise UserError(f"{source}: '{path}' must be {hint.__name__}, not {short(value)}")
    return value
