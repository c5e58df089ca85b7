"""Images, masks and labels that are parts of larger files: members of tar shards, cells of Parquet files."""

from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from pplfast.reading import shortened
from pplfast.storage import StorageError, join, read_file, read_range

if TYPE_CHECKING:
    from pyarrow import Array

    from pplfast.data.parquet_pages import Footer

ROW_GROUPS_BYTES = 512 * 2**20  # of row groups that are kept: one row is not read without all of its group
FOOTERS = 64  # that are kept


@dataclass(frozen=True, slots=True)
class Stored(ABC):
    """file: the shard, a path or a URL. stamp: of its state when it was indexed (`storage.Found.stamp`). name: of the
    part, with its suffix."""

    file: str
    stamp: int
    name: str

    def __str__(self) -> str:
        return f"{self.file}/{self.name}"

    @property
    @abstractmethod
    def state(self) -> list[int]:
        """As `jobs.plan.source_state` of a file: changes with the content."""

    @abstractmethod
    def read(self) -> bytes:
        """StorageError where it cannot be read."""


@dataclass(frozen=True, slots=True)
class Member(Stored):
    """Bytes of a tar."""

    offset: int
    size: int

    @property
    def state(self) -> list[int]:
        return [self.size, self.stamp]

    def read(self) -> bytes:
        return read_range(self.file, self.offset, self.size)


@dataclass(frozen=True, slots=True)
class Whole(Stored):
    """A file of its own, `name` below the folder `file`: of a list, so that nobody has looked at it yet. Its state is
    that of the list: another image of the same name is not noticed."""

    @property
    def state(self) -> list[int]:
        return [0, self.stamp]

    def read(self) -> bytes:
        return read_file(join(self.file, self.name))


@dataclass(frozen=True, slots=True)
class Cell(Stored):
    """The bytes in one row of a Parquet file. column: a binary column, or a struct with a field "bytes".
    file_size: of the whole file."""

    column: str
    row_group: int
    row: int  # within its row group
    file_size: int

    @property
    def state(self) -> list[int]:
        return [self.file_size, self.stamp]

    def read(self) -> bytes:
        column = ROW_GROUPS.column(self)
        if self.row >= len(column):
            raise StorageError("has fewer rows than its index says; make it whole, and the index again")
        data = column[self.row].as_py()
        if not isinstance(data, bytes):
            raise StorageError("holds no bytes: the data set has its paths alone; write the images into it")
        return data


class _RowGroups:
    """Row groups of Parquet files, the latest that fit into `limit` bytes; of this process, for all its threads."""

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes, self._lock = limit, 0, Lock()
        self._kept: OrderedDict[tuple[str, int, int, str], Array] = OrderedDict()
        self._reading: dict[tuple[str, int, int, str], Lock] = {}

    def column(self, cell: Cell) -> "Array":
        key = (cell.file, cell.stamp, cell.row_group, cell.column)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            reading = self._reading.setdefault(key, Lock())
        with reading:  # the threads that want other rows of it wait, and find it
            with self._lock:
                if key in self._kept:
                    return self._kept[key]
            try:
                column = _read_column(cell)
            finally:
                with self._lock:
                    self._reading.pop(key, None)
            with self._lock:
                before = self._kept.pop(key, None)  # of a thread that came between
                self._bytes += column.nbytes - (0 if before is None else before.nbytes)
                self._kept[key] = column
                while self._bytes > self._limit and len(self._kept) > 1:
                    self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return column


ROW_GROUPS = _RowGroups(ROW_GROUPS_BYTES)


@lru_cache(maxsize=FOOTERS)
def _footer(file: str, size: int, stamp: int) -> "Footer":
    """stamp: of its state."""
    from pplfast.data.parquet_pages import read_footer

    return read_footer(partial(read_range, file), size)


def _read_column(cell: Cell) -> "Array":
    from pyarrow import ArrowException, StructArray

    from pplfast.data.parquet_pages import opened

    read = partial(read_range, cell.file)
    try:
        footer = _footer(cell.file, cell.file_size, cell.stamp)
        if cell.row_group >= len(footer.rows):
            raise StorageError("has fewer row groups than its index says; make it whole, and the index again")
        groups = [cell.row_group]
        inner = f"{cell.column}.bytes"
        column = inner if inner in footer.chunks[cell.row_group] else cell.column
        table = opened(footer, read, groups, [column]).read_row_groups(groups, [column])
        found = table.column(0).combine_chunks()
        return found.field("bytes") if isinstance(found, StructArray) else found
    except (ArrowException, OSError, ValueError, IndexError) as error:  # IndexError: without that column
        raise StorageError(f"cannot be read as Parquet ({shortened(str(error))}); restore it") from None


@dataclass(frozen=True, slots=True)
class Fetched:
    """A part that has been read, in place of it: its bytes are needed for the header and again for the pixels."""

    of: Stored
    data: bytes

    def __str__(self) -> str:
        return str(self.of)

    def read(self) -> bytes:
        return self.data


ImageFile = Path | Stored | Fetched
