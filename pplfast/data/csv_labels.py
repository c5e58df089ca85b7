"""The CSV form of image labels: `image,label;label`, one row per image, header optional."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from pplfast.errors import UserError
from pplfast.reading import open_regular, quoted

HEADER_IMAGE = ("image", "id", "file", "filename")
HEADER_LABELS = ("label", "labels", "class", "classes")


@dataclass(frozen=True)
class Row:
    line: int
    image: str  # as written, with or without its suffix
    labels: tuple[str, ...]


def read_csv(path: Path) -> list[Row]:
    """All rows. UserError for a file that is missing or not text, and for a row without exactly two cells."""
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give --labels a CSV of image,label;label") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a readable CSV of image,label;label ({error})") from None
    lines = [(number, cells) for number, cells in lines if any(cells)]
    for number, cells in lines:
        if len(cells) != 2 or not cells[0]:
            raise UserError(
                f"{path}, line {number}: {quoted(','.join(cells))}: expected image,label;label (labels are separated "
                "by ';')"
            )
    if lines and lines[0][1][0].lower() in HEADER_IMAGE and lines[0][1][1].lower() in HEADER_LABELS:
        lines = lines[1:]
    return [
        Row(number, image, tuple(label.strip() for label in labels.split(";") if label.strip()))
        for number, (image, labels) in lines
    ]
