"""Image labels of samples in shards: from the members of a tar or the cells of a Parquet file to texts, and from these
to the label matrix.

A label is a class name, or an integer, the class's place from 0, as its decimal text: the class list is given
afterwards.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pplfast.arrays import Int64Array
from pplfast.data.classes import ClassList, means_no_class
from pplfast.errors import UserError
from pplfast.files import parse_json
from pplfast.reading import quoted

LABEL_SUFFIXES = (".json", ".cls", ".txt")  # of members of a tar; the first that names labels counts
LARGEST_MEMBER = 2**20  # bytes
KEYS = ("labels", "label", "classes", "class", "categories", "category", "cls")  # of a JSON object, the first counts
NO_CLASS, UNKNOWN = -1, -2  # in place of a column

_SEPARATORS = re.compile(r"[;,\r\n]")
_INTEGER = re.compile(r"[0-9]{1,9}")


def member_labels(members: Mapping[str, bytes | None], sample: str) -> list[str] | None:
    """The labels of a sample by its members' suffixes, all of LABEL_SUFFIXES; None for a member that is too large.

    None where no member holds labels; [] where one does, and names none. UserError, naming the sample, for what is
    malformed.
    """
    for suffix in LABEL_SUFFIXES:
        if suffix not in members:
            continue
        data, where = members[suffix], f"{sample}{suffix}"
        if data is None:
            raise UserError(
                f"{where}: larger than the {LARGEST_MEMBER} bytes of a label file; take it out of the shard"
            )
        found = _of_json(data, where) if suffix == ".json" else _of_text(data, where)
        if found is not None:
            return found
    return None


def label_texts(value: Any, where: str) -> list[str]:
    """Of a name, an integer or a list of these. UserError for anything else."""
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(part, str | int) and not isinstance(part, bool) for part in values):
        raise UserError(f"{where}: labels are {quoted(repr(value))}; write a name, an integer or a list of these")
    texts = _distinct(str(part).strip() for part in values)
    if not all(map(_is_unicode, texts)):
        raise UserError(f"{where}: labels are {quoted(repr(value))}, with half a character; write them in UTF-8")
    return texts


def _is_unicode(text: str) -> bool:
    """Not so where JSON has half of an escaped pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _of_json(data: bytes, where: str) -> list[str] | None:
    try:
        value = parse_json(data)
    except ValueError as error:
        raise UserError(f"{where}: not valid JSON ({error}); write the shard again without it, or mend it") from None
    if isinstance(value, dict):
        value = next((value[key] for key in KEYS if key in value), None)
    return None if value is None else label_texts(value, where)


def _of_text(data: bytes, where: str) -> list[str]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not a text in UTF-8 ({error}); save it as UTF-8") from None
    return _distinct(part.strip() for part in _SEPARATORS.split(text))


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(text for text in texts if text))


def label_columns(texts: Sequence[str], classes: ClassList, stated: Sequence[str] | None) -> Int64Array:
    """The column of each label, (len(texts),); NO_CLASS for one of images with none of the classes, UNKNOWN for one
    that is neither a class's name nor a place in the list.

    stated: the names that integers are places in, where the data set says them; None: they are places in `classes`.
    """
    columns = {name: column for column, name in enumerate(classes.names)}

    def column_of(text: str) -> int:
        place = int(text) if is_place(text) else None
        if stated is not None and place is not None:
            text = stated[place] if place < len(stated) else text
        if text in columns:
            return columns[text]
        if means_no_class(text):
            return NO_CLASS
        return place if stated is None and place is not None and place < len(classes) else UNKNOWN

    return np.array([column_of(text) for text in texts], np.int64)


def is_place(text: str) -> bool:
    """Whether a label is a class's place in the list."""
    return _INTEGER.fullmatch(text) is not None


def sorted_labels(texts: Iterable[str]) -> list[str]:
    """Integers first, by their value."""
    return sorted(texts, key=lambda text: (0, int(text), text) if is_place(text) else (1, 0, text))
