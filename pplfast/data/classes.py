"""The classes of a data set: their names, in the order of the label vectors, and their values in masks."""

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pplfast.errors import UserError
from pplfast.files import StrPath
from pplfast.reading import quoted

BACKGROUND = 0
IGNORE = 255

_RESERVED = {"ignore": IGNORE, "background": BACKGROUND}  # names that class files have for values of every mask
_NO_CLASS = ("background", "none", "negative", "negatives")  # labels of an image with none of the classes
_OPTION = "--classes"
_CVAT = re.compile(r"([^:]+):[\d,\s]*:[^:]*:[^:]*")  # a line of its labelmap.txt: name:colour:parts:actions
_NUMBERED = re.compile(r"(\d+)(?:\s*[:,.)]\s*|\s+)\S")

VOC_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


@dataclass(frozen=True)
class ClassList:
    """The classes of a data set, without the background.

    `names[c]` is column c of a label matrix; `ids[c]` is its value in masks (0 background, 255 ignore).
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.ids):
            raise ValueError(f"{len(self.names)} names for {len(self.ids)} ids")

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """Column of `name`; ValueError where it is not one of the classes."""
        return self.names.index(name)


VOC = ClassList(VOC_NAMES, tuple(range(1, 21)))


def parse_classes(text_or_file: StrPath, numbered: bool = False) -> ClassList:
    """Classes from "cat,dog", from "bus=6,car=7" (name=value in masks), or from a file with one of these per line,
    or from CVAT's labelmap.txt.

    Without values, a list of VOC names gets VOC's values; any other list 1, 2, ... in its order. UserError names what
    cannot be a class, as the background: in masks it has its value already. numbered: such lines are passed over, as
    the place of each counts in YOLO's labels, so that none can be taken off.
    """
    entries, source = _entries(text_or_file)
    if numbered:
        entries = [entry for entry in entries if can_be_class(entry.partition("=")[0])]
        _check_any(entries, source)
    if not any("=" in entry for entry in entries):
        _check_numbers(entries, source)
    return _build(entries, source)


def states_values(text_or_file: StrPath) -> bool:
    """Whether what `parse_classes` takes has the values in masks too."""
    return any("=" in entry for entry in _entries(text_or_file)[0])


def named_classes(names: Sequence[str], source: str) -> ClassList:
    """Classes by the names that labels have for them, with values as `parse_classes` gives them. UserError, which names
    the source, for what cannot be a class."""
    _check_any(names, source)
    if (bad := next((name for name in names if "=" in name), None)) is not None:
        raise UserError(f"{source}: class name {quoted(bad)} holds '='; rename it")
    return _build(names, source)


def means_no_class(name: str) -> bool:
    """Whether a label says that an image has none of the classes: background, none or negative, also as __none__."""
    return name.strip("_ ").lower() in _NO_CLASS


def can_be_class(name: str) -> bool:
    """Whether it is neither a label of images with none of the classes nor the name of a value of every mask."""
    return not means_no_class(name) and _reserved(name) is None


def _check_any(names: Sequence[str], source: str) -> None:
    if not names:
        raise UserError(f"{source}: names no class; give --classes")


def _entries(text_or_file: StrPath) -> tuple[list[str], str]:
    """Names, or names and values, and where they are from."""
    text, source = os.fspath(text_or_file), _OPTION
    if isinstance(text_or_file, os.PathLike) or os.path.isfile(text):
        source = text
        try:
            entries = Path(text).read_text(encoding="utf-8-sig").splitlines()  # as Notepad writes it
        except UnicodeDecodeError as error:
            raise UserError(f"{text}: not a list of classes in UTF-8 ({error}); save it as UTF-8") from None
        except OSError as error:
            raise UserError(f"{text}: not a readable list of classes ({error})") from None
    elif "," not in text and "=" not in text and (text.endswith(".txt") or os.sep in text):
        raise UserError(f"{text}: no such file; give a file with one class per line, or names like cat,dog")
    else:
        entries = text.split(",")
    entries = [entry.strip() for entry in entries if entry.strip() and not entry.lstrip().startswith("#")]
    if entries and all(matches := [_CVAT.fullmatch(entry) for entry in entries]):
        names = [match[1].strip() for match in matches if match]
        entries = [name for name in names if _reserved(name) != BACKGROUND]  # CVAT adds it to every file
    if not entries:
        raise UserError(f"{source}: no classes in {quoted(text)}; give names like cat,dog or bus=6,car=7")
    return entries, source


def _build(entries: Sequence[str], source: str) -> ClassList:
    names = tuple(entry.partition("=")[0].strip() for entry in entries)
    values = [entry.partition("=")[2].strip() for entry in entries]
    with_value = sum("=" in entry for entry in entries)
    if with_value not in (0, len(entries)):
        raise UserError(f"{source}: {with_value} of {len(entries)} classes have '=value'; give it to all or to none")
    if len(names) >= IGNORE:
        raise UserError(f"{source}: {len(names)} classes; masks have room for {IGNORE - 1}")
    for name in names:
        if (value := _reserved(name)) is not None:
            # A line less in a file of YOLO's would give all classes below it another number.
            remedy = "take it off the list" if source == _OPTION else "give --classes the others"
            raise UserError(f"{source}: {quoted(name)} is no class: masks hold {value} for it; {remedy}")
        if reason := _fault(name, names):
            raise UserError(f"{source}: class name {quoted(name)} {reason}; rename it")
    if with_value:
        ids = tuple(_value(value, name, source) for name, value in zip(names, values, strict=True))
        if len(set(ids)) < len(ids):
            raise UserError(f"{source}: two classes share one of the values {', '.join(map(str, ids))}")
    elif set(names) <= set(VOC_NAMES):
        ids = tuple(VOC.ids[VOC.index(name)] for name in names)
    else:
        ids = tuple(range(1, len(names) + 1))
    return ClassList(names, ids)


def _reserved(name: str) -> int | None:
    """The value that masks have for what the class is called, if it is no class."""
    return _RESERVED.get(name.strip("_ ").lower())


def _check_numbers(entries: Sequence[str], source: str) -> None:
    """Raises UserError where all lines begin with 0, 1, ... or 1, 2, ...: nothing says whether 0 is in the masks."""
    numbers = [int(match[1]) for entry in entries if (match := _NUMBERED.match(entry)) and len(match[1]) < 4]
    if len(numbers) == len(entries) and numbers in (list(range(len(numbers))), list(range(1, len(numbers) + 1))):
        raise UserError(
            f"{source}: its lines are numbered, as {quoted(entries[0])}; write the names alone, for the values 1, 2, "
            "... in masks, or name=value"
        )


def _fault(name: str, names: Sequence[str]) -> str:
    """What is wrong with a class name; "" where nothing is."""
    if not name:
        return "is empty"
    if names.count(name) > 1:
        return "occurs twice"
    if any(mark in name for mark in ";,"):
        return "holds ',' or ';'"
    # They would reach the terminal with every table.
    return (
        "holds a character that cannot be printed"
        if any(unicodedata.category(mark) in ("Cc", "Cs") for mark in name)
        else ""
    )


def _value(text: str, name: str, source: str) -> int:
    if not text.isdecimal() or len(text) > 3 or not BACKGROUND < int(text) < IGNORE:
        raise UserError(
            f"{source}: {quoted(f'{name}={text}')}: the value in masks must be a whole number from 1 to 254"
        )
    return int(text)
