"""A table of image labels as people write it: `image,label;label`, or a column of 0 and 1 for each class."""

import csv
import io
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pplfast.data.names import check_name, image_file, image_id
from pplfast.errors import UserError
from pplfast.reading import open_regular, quoted

# What people call the columns, without case, spaces, '_' and '-'.
IMAGE_WORDS = frozenset((
    "image", "images", "id", "file", "files", "filename", "filenames", "imageid", "imagename", "imagefile",
    "imagefilename", "imagepath", "imageindex", "img", "imgid", "imgname", "imgpath", "name", "path", "filepath",
))  # fmt: skip
LABEL_WORDS = frozenset((
    "label", "labels", "class", "classes", "classname", "classnames", "classlabel", "category", "categories",
    "categoryname", "tag", "tags", "target", "targets", "labelname", "labelnames", "imagelabel", "y", "annotation",
    "annotations", "species", "type",
))  # fmt: skip
FORMS = "expected image,label;label, or a table image,cat,dog of 0 and 1"
_DELIMITERS = (",", ";", "\t")
_SET, _NOT_SET = frozenset(("1", "1.0", "true")), frozenset(("0", "0.0", "false"))  # cells, as pandas too writes them
_MARKS = _SET | _NOT_SET
_LOOKED_AT = 20  # rows, that tell what a table is like


@dataclass(frozen=True)
class Row:
    line: int  # the first one of the image
    image: str  # as written, with or without its suffix
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    rows: list[Row]  # one per image, in the order of the file
    columns: tuple[str, ...]  # names of the columns of 0 and 1; none where labels are written as names


_Line = tuple[int, list[str]]  # its number, its cells


def read_csv(path: Path, folder: Path, classes: Collection[str] = ()) -> Table:
    """Rows of the same image are joined. Cells may be separated by ',', ';' or tabs, labels by ';' or '|'.

    `folder`, where the images are, and `classes`, if they are known, tell a header from a row. UserError for a file
    that is missing or not text, and for a row of another form than the others.
    """
    try:
        delimiter = _delimiter(path, folder)
        lines = [(number, cells) for number, cells in _lines(path, delimiter) if any(cells)]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give --labels a CSV of image,label;label") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a CSV of image,label;label in UTF-8 ({error}); save it as UTF-8") from None
    except (OSError, csv.Error) as error:
        raise UserError(f"{path}: not a readable CSV of image,label;label ({error})") from None
    columns = _columns(lines, folder, classes)
    width = len(columns) + 1 if columns else 2
    for number, cells in lines[bool(columns) :]:  # pandas leaves the name of its index empty
        if len(cells) != width or not cells[0]:
            form = f"expected {width} cells, as in the header" if columns else f"{FORMS} (labels are separated by ';')"
            raise UserError(f"{path}, line {number}: {quoted(delimiter.join(cells))}: {form}")
    if columns:
        return Table(_joined([_of_columns(path, line, columns) for line in lines[1:]], folder), columns)
    if lines and _is_header(lines, folder, classes):
        lines = lines[1:]
    return Table(_joined([Row(number, cells[0], _split(cells[1], classes)) for number, cells in lines], folder), ())


def names_images(path: Path, folder: Path) -> bool:
    """Whether one of the first rows of a CSV, which may have faults, begins with an image that is there."""
    for delimiter in _DELIMITERS:
        try:
            lines = islice(_lines(path, delimiter, "surrogateescape"), _LOOKED_AT)
            if any(cells and is_image(folder, cells[0]) for _, cells in lines):
                return True
        except (OSError, csv.Error):
            continue
    return False


def _lines(path: Path, delimiter: str, errors: str = "strict") -> Iterator[_Line]:
    """Raises OSError, UnicodeDecodeError and csv.Error. errors: what becomes of bytes that are not UTF-8."""
    with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", errors=errors, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
        for cells in reader:
            yield reader.line_num, [cell.strip() for cell in cells]


def _delimiter(path: Path, folder: Path) -> str:
    """That which splits the first rows alike, into an image and more; ',' where none does. Raises as `_lines`."""
    for delimiter in _DELIMITERS:
        try:
            lines = [line for line in islice(_lines(path, delimiter), _LOOKED_AT) if any(line[1])]
        except csv.Error:  # with the right one there may be none
            continue
        widths = {len(cells) for _, cells in lines}
        if len(widths) == 1 and max(widths) > 1:
            first = lines[0][1][0]
            if _plain(first) in IMAGE_WORDS or any(is_image(folder, cells[0]) for _, cells in lines):
                return delimiter
    return _DELIMITERS[0]


def _columns(lines: Sequence[_Line], folder: Path, classes: Collection[str]) -> tuple[str, ...]:
    """The names of the columns of 0 and 1 in the header of such a table; else none."""
    if len(lines) < 2:
        return ()
    names, cells = lines[0][1][1:], lines[1][1]
    if not names or len(cells) != len(names) + 1 or not all(names):
        return ()
    if any(name.lower() in _MARKS or _plain(name) in LABEL_WORDS for name in names):
        return ()
    if len(names) > 1:
        return tuple(names) if all(cell.lower() in _MARKS for cell in cells[1:]) else ()
    # A single class; or are 0 and 1 the names of two?
    alone = _is_header(lines, folder, ()) and _MARKS.isdisjoint(classes)
    return tuple(names) if alone and all(cells[-1].lower() in _MARKS for _, cells in lines[1:]) else ()


def _of_columns(path: Path, line: _Line, columns: Sequence[str]) -> Row:
    number, (image, *cells) = line
    for name, cell in zip(columns, cells, strict=True):
        if cell.lower() not in _MARKS:
            raise UserError(f"{path}, line {number}: {quoted(cell)} in column {quoted(name)}: expected 0 or 1")
    return Row(number, image, tuple(name for name, cell in zip(columns, cells, strict=True) if cell.lower() in _SET))


def _split(cell: str, classes: Collection[str]) -> tuple[str, ...]:
    parts = (part.strip() for part in cell.split(";"))
    each = (name for part in parts for name in ([part] if part in classes else part.split("|")))
    return tuple(name.strip() for name in each if name.strip())


def _joined(rows: Sequence[Row], folder: Path) -> list[Row]:
    found: dict[tuple[str, str], tuple[Row, list[str]]] = {}
    for row in rows:
        key = (image_id(row.image), "")
        if key in found and not _same(folder, found[key][0].image, row.image):  # two files of one id: not joined
            key = (key[0], row.image)
        found.setdefault(key, (row, []))[1].extend(row.labels)
    return [Row(first.line, first.image, tuple(labels)) for first, labels in found.values()]


def _same(folder: Path, first: str, second: str) -> bool:
    """Whether two cells name one file."""
    return first == second or image_file(folder, first) == image_file(folder, second)


def _is_header(lines: Sequence[_Line], folder: Path, classes: Collection[str]) -> bool:
    """Whether the first line names columns. A name with digits or a dot is an image's: were it taken for a header, a
    misspelt class would cost the image in silence. Without known classes, the image of the second line has to be
    there."""
    image, labels = lines[0][1]
    if _plain(image) in IMAGE_WORDS and _plain(labels) in LABEL_WORDS:
        return True
    if not labels or ";" in labels or labels in classes or "." in image or any(map(str.isdigit, image)):
        return False
    if is_image(folder, image):
        return False
    return bool(classes) or (len(lines) > 1 and is_image(folder, lines[1][1][0]))


def is_image(folder: Path, cell: str) -> bool:
    """Whether a cell names an image that is there, and lies in the folder."""
    try:
        check_name(cell, "")
    except UserError:
        return False
    return os.path.isfile(image_file(folder, cell))


def _plain(word: str) -> str:
    return re.sub(r"[\s_-]", "", word).lower()
