"""Image labels from a CSV."""

from collections.abc import Collection
from pathlib import Path

from pplfast.arrays import UInt8Array
from pplfast.data.classes import ClassList, means_no_class, named_classes
from pplfast.data.csv_rows import Table, read_csv
from pplfast.data.labels import Fault
from pplfast.data.listing import ListEntry, Listing, Scan
from pplfast.data.names import image_id
from pplfast.data.other_names import OtherNames
from pplfast.data.problems import Problem
from pplfast.data.voc import listing_of_rows
from pplfast.errors import UserError
from pplfast.reading import quoted, shortened


class CsvLabels:
    """A row without labels, or with a label that means no class, is an image with none of the classes.

    classes: None for those that the table names. Of a table with a column for each class, `classes` may be a part.
    """

    def __init__(self, scan: Scan, path: Path, classes: ClassList | None):
        self.path, self.folder = path, scan.images
        table = read_csv(path, self.folder, classes.names if classes else ())
        self.rows = table.rows
        self.layout = path.name if not table.columns else f"{path.name}, a column for each class"
        self.classes = classes or _found_classes(table, path)
        self.others = OtherNames(path, self.classes.names, "columns")
        columns = {name: column for column, name in enumerate(self.classes.names)}
        if table.columns:
            self._check_columns(table.columns)
        self.table: dict[str, tuple[list[int], frozenset[str]]] = {}  # the classes of an image, and its other labels
        first: dict[str, tuple[int, str]] = {}  # row of each id
        for item in table.rows:
            others = [name for name in item.labels if name not in columns and not means_no_class(name)]
            if others and not table.columns:
                raise UserError(f"{path}, line {item.line}: {_unknown(others[0], columns, first=not first)}")
            key = image_id(item.image)
            line, image = first.setdefault(key, (item.line, item.image))
            if line != item.line:
                raise UserError(
                    f"{path}, lines {line} and {item.line}: {quoted(image)} and {quoted(item.image)} have the same id "
                    f"{quoted(key)}, and outputs are named by it; rename one of them"
                )
            self.table[key] = [columns[name] for name in item.labels if name in columns], frozenset(others)

    def _check_columns(self, names: Collection[str]) -> None:
        """Raises UserError where the table has no column for a class."""
        if missing := [name for name in self.classes.names if name not in names]:
            there = ", ".join(shortened(name) for name in names)
            raise UserError(
                f"{self.path}: has no column for {', '.join(missing)}; give --classes names of its columns: {there}"
            )

    def listing(self) -> Listing:
        return listing_of_rows(self.rows, self.path, self.folder)

    def fill(self, row: UInt8Array, entry: ListEntry) -> None:
        if entry.id not in self.table:
            raise Fault("no-labels", self.path, f"has no row for {entry.id}; add it, or take the image off the list")
        own, others = self.table[entry.id]
        row[own] = 1
        self.others.add(others)

    def remarks(self, labels: UInt8Array) -> list[Problem]:
        return self.others.remarks(labels)


def _found_classes(table: Table, path: Path) -> ClassList:
    """The columns of a table, or the labels in it, sorted. UserError for what cannot be a class."""
    if table.columns:
        return named_classes([name for name in table.columns if not means_no_class(name)], str(path))
    for row in table.rows:
        if (several := next((name for name in row.labels if "," in name), None)) is not None:
            raise UserError(
                f"{path}, line {row.line}: {quoted(several)}: several labels are separated by ';' or '|', and a class "
                "name holds no ','"
            )
    names = {name for row in table.rows for name in row.labels if not means_no_class(name)}
    return named_classes(sorted(names), str(path))


def _unknown(name: str, known: Collection[str], first: bool) -> str:
    """What to say of a label that is no class. first: whether it is in the first row, which may be meant as a
    header."""
    if _are_several(name, known):
        return f"unknown class {quoted(name)}; several labels are separated by ';'"
    header = ", or write image,label if it is a header" if first else ""
    return (
        f"unknown class {quoted(name)}; known: {', '.join(known)}; correct it, or give --classes the names of this "
        f"file{header}"
    )


def _are_several(cell: str, known: Collection[str]) -> bool:
    """Whether a cell holds known classes with another separator than ';' and '|'."""
    return any(
        mark in cell and all(part.strip(" []()'\"") in known for part in cell.split(mark)) for mark in (*",/+&\t", " ")
    )
