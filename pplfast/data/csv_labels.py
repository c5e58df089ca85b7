"""The CSV form of image labels: `image,label;label`, header optional."""

import csv
import io
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from pplfast.data.names import image_file, image_id
from pplfast.errors import UserError
from pplfast.reading import open_regular, quoted

HEADER_IMAGE = ("image", "id", "file", "filename")
HEADER_LABELS = ("label", "labels", "class", "classes")


@dataclass(frozen=True)
class Row:
    line: int  # the first one of the image
    image: str  # as written, with or without its suffix
    labels: tuple[str, ...]


def read_csv(path: Path, folder: Path, classes: Collection[str]) -> list[Row]:
    """One row per image, in the order of the file: rows of the same image are joined.

    `folder`, where the images are, and `classes` tell a header from a row. UserError for a file that is missing or not
    text, and for a row without exactly two cells.
    """
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, skipinitialspace=True)
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give --labels a CSV of image,label;label") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a CSV of image,label;label in UTF-8 ({error}); save it as UTF-8") from None
    except (OSError, csv.Error) as error:
        raise UserError(f"{path}: not a readable CSV of image,label;label ({error})") from None
    lines = [(number, cells) for number, cells in lines if any(cells)]
    for number, cells in lines:
        if len(cells) != 2 or not cells[0]:
            raise UserError(
                f"{path}, line {number}: {quoted(','.join(cells))}: expected image,label;label (labels are separated "
                "by ';')"
            )
    if lines and _is_header(lines[0][1], folder, classes):
        lines = lines[1:]
    rows: dict[tuple[str, str], tuple[int, str, list[str]]] = {}
    for number, (image, labels) in lines:
        key = (image_id(image), "")
        if key in rows and not _same(folder, rows[key][1], image):  # two files of one id, whose labels are not joined
            key = (key[0], image)
        _, _, names = rows.setdefault(key, (number, image, []))
        names += [label.strip() for label in labels.split(";") if label.strip()]
    return [Row(number, image, tuple(names)) for number, image, names in rows.values()]


def _same(folder: Path, first: str, second: str) -> bool:
    """Whether two cells name one file."""
    return first == second or image_file(folder, first) == image_file(folder, second)


def _is_header(cells: Sequence[str], folder: Path, classes: Collection[str]) -> bool:
    """Whether the first line names columns. A name with digits or a dot is an image's: were it taken for a header, a
    misspelt class would cost the image in silence."""
    image, labels = cells
    if image.lower() in HEADER_IMAGE and labels.lower() in HEADER_LABELS:
        return True
    if not labels or ";" in labels or labels in classes or "." in image or any(map(str.isdigit, image)):
        return False
    return not os.path.isfile(image_file(folder, image))
