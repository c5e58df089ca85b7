"""What a Parquet file says of itself, read here before pyarrow reads it: the footer, and the headers of pages.

pyarrow takes the memory that a damaged file names, and ends the process where columns and footer do not fit; so it gets
a file in which nothing lies but what was looked at here.
"""

import io
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

TAIL = 2**16  # bytes of the end that are read at once: most footers are shorter
MOST_UNPACKED, MOST_TIMES = 64 * 2**20, 64  # bytes of a column in a row group, or times what it takes in the file
_MAGIC = b"PAR1"
_DEEPEST = 16  # structs in each other; the format has six

_PAGES = {5: 2, 7: 2, 8: 4}  # of a page's header: the struct of each kind of page, and where its encoding is
# For these, pyarrow takes the memory that the first numbers of a page's own bytes say.
_NOT_READ = {6: "DELTA_LENGTH_BYTE_ARRAY", 7: "DELTA_BYTE_ARRAY"}

Read = Callable[[int, int], bytes]  # so many bytes from an offset on
Struct = dict[int, Any]  # by the numbers of fields in the format's parquet.thrift


@dataclass(frozen=True)
class Chunk:
    """A column in a row group: bytes from `start` on. nulls: as the file says, None where it does not."""

    start: int
    size: int
    nulls: int | None


@dataclass(frozen=True)
class Footer:
    """tail: the end of the file, with the footer. rows: of each row group. chunks: of each row group by their columns'
    paths, as image.bytes."""

    size: int
    tail: bytes
    rows: tuple[int, ...]
    chunks: tuple[Mapping[str, Sequence[Chunk]], ...]

    def nulls(self, group: int, paths: Sequence[str]) -> int | None:
        """Of the first of these columns that is there, where the file says it."""
        found = [chunk for path in paths for chunk in self.chunks[group].get(path, ())]
        return found[0].nulls if found else None


def read_footer(read: Read, size: int) -> Footer:
    """Raises ValueError for what is damaged, or no Parquet file; and what `read` raises."""
    tail = read(max(0, size - TAIL), min(size, TAIL))
    length = int.from_bytes(tail[-8:-4], "little")
    if size < 12 or tail[-4:] != _MAGIC or length > size - 8:
        raise ValueError("it does not end as a Parquet file does")
    if length + 8 > len(tail):
        tail = read(size - length - 8, length + 8)
    said = _Compact(tail, len(tail) - 8 - length).whole()
    try:
        leaves = list(_leaves(said[2]))
        groups = said.get(4, [])
        rows = tuple(group[3] for group in groups)
        chunks = tuple(_chunks(leaves, group[1], size) for group in groups)
        wrong = min(rows, default=0) < 0 or sum(rows) != said[3] or sum(rows) > size
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError):  # also a schema that ends early, or is deep
        raise ValueError("its footer is none of a Parquet file") from None
    if wrong:
        raise ValueError("its footer says another number of rows than it can have")
    return Footer(size, tail, rows, chunks)


def _leaves(schema: Sequence[Struct]) -> Iterator[str]:
    """Paths of the columns that have values, in their order."""
    left = iter(schema)

    def below(path: str, children: int) -> Iterator[str]:
        for _ in range(children):
            element = next(left, {})
            name = f"{path}{element[4].decode()}"
            if inner := element.get(5, 0):
                yield from below(f"{name}.", inner)
            else:
                yield name

    yield from below("", next(left)[5])


def _chunks(leaves: Sequence[str], columns: Sequence[Struct], size: int) -> dict[str, list[Chunk]]:
    if len(columns) != len(leaves):
        raise ValueError("a row group has other columns than the file")
    found: dict[str, list[Chunk]] = {}
    for path, column in zip(leaves, columns, strict=True):
        said = column[3]
        first, own = min(said[9], said.get(11) or said[9]), said[7]
        if not 0 <= said[5] <= size or not 0 <= own <= size or not 0 <= first <= size - own:
            raise ValueError(f"its column {path} lies outside of it")
        found.setdefault(path, []).append(Chunk(first, own, said.get(12, {}).get(3)))
    return found


def opened(footer: Footer, read: Read, groups: Sequence[int], columns: Sequence[str]) -> pq.ParquetFile:
    """The file with these row groups of these columns alone, and of columns below them. Raises ValueError where a page
    of theirs cannot be, and what `read` and pyarrow raise."""
    parts = {footer.size - len(footer.tail): footer.tail}
    for group in groups:
        for path, chunks in footer.chunks[group].items():
            if path in columns or path.startswith(tuple(f"{column}." for column in columns)):
                for chunk in chunks:
                    data = read(chunk.start, chunk.size)
                    _check_pages(data, footer.size)
                    parts[chunk.start] = max(parts.get(chunk.start, b""), data, key=len)
    return pq.ParquetFile(_Parts(parts, footer.size))


def _check_pages(data: bytes, size: int) -> None:
    """data: of a chunk. size: of the file, which has more bytes than values."""
    at = unpacked = 0
    while at < len(data):
        reader = _Compact(data, at)
        header = reader.whole()
        try:
            own, kinds = header[3], [kind for kind in _PAGES if kind in header]
            values = [header[kind][1] for kind in kinds]
            names = [_NOT_READ[code] for kind in kinds if (code := header[kind][_PAGES[kind]]) in _NOT_READ]
            unpacked += header[2]
            wrong = min(header[2], own, *values) < 0 or max(0, *values) > size
        except (KeyError, TypeError):
            raise ValueError("the header of a page is none") from None
        at = reader.at + own
        if wrong or at > len(data):
            raise ValueError("a page lies outside of its column, or has more values than the file bytes")
        if names:
            raise ValueError(f"the encoding {names[0]} is not read; write it with pyarrow's own")
    if unpacked > max(MOST_UNPACKED, MOST_TIMES * len(data)):
        raise ValueError(f"a column of {len(data)} bytes unpacks to {unpacked}; write it without compression")


class _Parts(io.RawIOBase):
    """A file of some parts, by their offsets; zeros are between them."""

    def __init__(self, parts: Mapping[int, bytes], size: int) -> None:
        self._parts, self._starts, self._size, self._at = parts, sorted(parts), size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        end = self._size if size < 0 else min(self._at + size, self._size)
        begin, self._at = self._at, max(self._at, end)
        start = self._starts[max(0, bisect_right(self._starts, begin) - 1)]
        if start <= begin and end <= start + len(self._parts[start]):
            return self._parts[start][begin - start : end - start]
        data = bytearray(max(0, end - begin))
        for start in self._starts:
            part = self._parts[start]
            first, last = max(begin, start), min(end, start + len(part))
            if first < last:
                data[first - begin : last - begin] = part[first - start : last - start]
        return bytes(data)


class _Compact:
    """Thrift's compact protocol, of which every length is checked against the data."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self.at = data, at

    def whole(self) -> Struct:
        """Raises ValueError."""
        try:
            return self._struct(0)
        except IndexError:
            raise ValueError("it ends within its own description") from None

    def _byte(self) -> int:
        self.at += 1
        return self._data[self.at - 1]

    def _number(self) -> int:
        """Unsigned, of up to 64 bits."""
        value = shift = 0
        while (byte := self._byte()) > 127:
            value |= (byte & 127) << shift
            shift += 7
            if shift > 63:
                raise ValueError("a number in its description is too long")
        return value | byte << shift

    def _signed(self) -> int:
        value = self._number()
        return value >> 1 ^ -(value & 1)

    def _bytes(self, size: int) -> bytes:
        if size > len(self._data) - self.at:
            raise IndexError
        self.at += size
        return self._data[self.at - size : self.at]

    def _struct(self, depth: int) -> Struct:
        found: Struct = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._signed()
            kind = head & 15
            found[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if depth > _DEEPEST:
            raise ValueError("its description is nested too deep")
        if kind in (1, 2, 3):  # in a list, a truth value takes a byte
            return self._byte()
        if kind in (4, 5, 6):
            return self._signed()
        if kind == 7:
            return self._bytes(8)
        if kind == 8:
            return self._bytes(self._number())
        if kind in (9, 10):
            head = self._byte()
            size = self._number() if head >> 4 == 15 else head >> 4
            return [self._value(head & 15, depth + 1) for _ in range(size)]
        if kind == 12:
            return self._struct(depth + 1)
        raise ValueError("its description has a field that no Parquet file has")
