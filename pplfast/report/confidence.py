"""How sure the labels of each image are, as confidence.csv beside them says."""

import csv
import io
import os
from pathlib import Path

from pplfast.errors import UserError
from pplfast.files import read_bounded
from pplfast.labels.confidence import TABLE
from pplfast.reading import quoted

COLUMN = "confidence"
MAX_BYTES = 256 * 2**20  # a million images have about 60 MB
AGAIN = "delete it and make the labels again"


def read_confidence(folder: Path) -> dict[str, float]:
    """Confidence, 0 to 1, by image id, from the least sure: in the order of the file, the first line of an image
    counts. Empty where the folder has no such file.

    The first column is the image's id, another one is called "confidence". UserError for a file that is no such table.
    """
    path = folder / TABLE
    if not os.path.lexists(path):
        return {}
    try:
        rows = csv.reader(
            io.StringIO(read_bounded(path, MAX_BYTES).decode("utf-8-sig", "surrogateescape"), newline=""), strict=True
        )
        head = next(rows, [])
        if COLUMN not in head[1:]:
            raise UserError(f"{path}: has no column {COLUMN!r} after the image's; {AGAIN}")
        column = head.index(COLUMN, 1)
        found: dict[str, float] = {}
        for row in filter(None, rows):
            found.setdefault(row[0], _figure(row, column, path, rows.line_num))
        return found
    except csv.Error as error:
        raise UserError(f"{path}: is no CSV ({error}); {AGAIN}") from None


def _figure(row: list[str], column: int, path: Path, line: int) -> float:
    text = row[column] if column < len(row) else ""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:  # nor NaN
        raise UserError(f"{path}, line {line}: {COLUMN} is {quoted(text)}, not a number from 0 to 1; {AGAIN}")
    return value
