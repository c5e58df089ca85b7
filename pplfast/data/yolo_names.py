"""Which class each number of YOLO's labels is: `names` of a data.yaml, or the lines of a classes.txt or obj.names."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pplfast.data.splits import is_part
from pplfast.errors import UserError
from pplfast.files import read_bounded
from pplfast.reading import quoted, shortened

LARGEST = 128 * 1024  # bytes; PyYAML takes seconds for more, and 1000 names are a third of it
DEEPEST = 16
LINES = ("classes.txt", "obj.names")  # files with a name in each line, from class 0 on


def find_names(root: Path) -> tuple[Path, dict[int, str]] | None:
    """The file that names the classes, and their names by number; None where there is none. UserError for one that
    cannot be read."""
    for home in _homes(root):
        for path in _tables(home):
            if names := read_yaml_names(path):
                return path, names
        for path in (home / name for name in LINES):
            if os.path.isfile(path) and (names := _read_lines(path)):
                return path, names
    return None


def _homes(root: Path) -> Iterator[Path]:
    """The data set's folder; for one of its parts, as ROOT/images/train, those above."""
    folder = Path(os.path.abspath(root))
    yield folder
    while is_part(folder.name):
        folder = folder.parent
        yield folder


def _tables(home: Path) -> list[Path]:
    """data.yaml, or the only other one."""
    usual = home / "data.yaml"
    if os.path.isfile(usual):
        return [usual]
    others = [path for pattern in ("*.yaml", "*.yml") for path in home.glob(pattern) if path.is_file()]
    return others if len(others) == 1 else []


def read_yaml_names(path: Path) -> dict[int, str]:
    """`names` of a data.yaml, a list or a table by number; empty where it has none. UserError for all else."""
    try:
        value = _parse(read_bounded(path, LARGEST).decode("utf-8-sig"))
        names = value.get("names") if isinstance(value, dict) else None
        if isinstance(names, dict):
            return {_number(key): _name(name) for key, name in names.items()}
        if isinstance(names, list):
            return dict(enumerate(map(_name, names)))
        if names:
            raise ValueError(f"its names are {quoted(names)}, not a list or a table")
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: also of its encoding
        why = " ".join(str(error).split())
        raise UserError(
            f"{path}: not a data.yaml with names of classes ({shortened(why)}); correct it, or give --classes"
        ) from None
    return {}


def _number(key: str) -> int:
    if not (key.isascii() and key.isdecimal() and len(key) < 10):
        raise ValueError(f"{quoted(key)} in names is no number of a class")
    return int(key)


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a name is a list or a table")
    return value.strip()


def _parse(text: str) -> Any:
    """Strings, lists and dicts of YAML's events: nothing in the file becomes another object, or is repeated. Raises
    YAMLError and ValueError."""
    events = iter(yaml.parse(text, Loader=yaml.SafeLoader))
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            return _value(events, next(events), 0)
    return None


def _value(events: Iterator[Any], event: Any, depth: int) -> Any:
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        raise ValueError("anchors and aliases are not read")
    if depth > DEEPEST:
        raise ValueError("nested too deep")
    if isinstance(event, yaml.ScalarEvent):
        return event.value
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_value(events, event, depth + 1))
        return items
    table: dict[str, Any] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        key = _value(events, event, depth + 1)
        if not isinstance(key, str) or key in table:
            raise ValueError(f"{quoted(str(key))} is no key, or one for the second time")
        table[key] = _value(events, next(events), depth + 1)
    return table


def _read_lines(path: Path) -> dict[int, str]:
    """A name in each line; in a file that pplfast takes for classes too, `name=value`, and comments after '#'."""
    try:
        lines = read_bounded(path, LARGEST).decode("utf-8-sig").splitlines()
    except ValueError as error:
        raise UserError(f"{path}: not a list of classes in UTF-8 ({error}); save it as UTF-8") from None
    names = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return {number: name.partition("=")[0].strip() for number, name in enumerate(names)}
