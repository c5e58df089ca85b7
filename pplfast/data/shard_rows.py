"""The table of an index of shards: its columns, and the rows of one shard until they are written."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from pplfast.data.list_files import LIST
from pplfast.data.names import check_name
from pplfast.data.shard_places import SUFFIXES
from pplfast.errors import UserError
from pplfast.reading import open_regular, quoted
from pplfast.storage import Found, RangeReader, is_remote
from pplfast.storage.places import local_path

TAR, PARQUET = SUFFIXES
KINDS = (*SUFFIXES, LIST)
VERSION = 1
METADATA = b"pplfast"  # the key of the schema's metadata
BATCH_ROWS = 2**16  # of one record batch at most
READ_AHEAD, READ_AHEAD_REMOTE = 2**14, 2**20  # bytes: what is between headers is passed over where that is cheap
NONE = -1  # offset and size where there is no mask

# Of a tar, offset and size are in bytes; of a Parquet file they are the row group and the row in it; of a list 0.
FIELDS = [
    ("shard", pa.int32()),
    ("key", pa.string()),
    ("suffix", pa.string()),
    ("offset", pa.int64()),
    ("size", pa.int64()),
    ("mask_offset", pa.int64()),
    ("mask_size", pa.int64()),
    ("labels", pa.list_(pa.string())),
]
Row = tuple[str, str, int, int, int, int, list[str] | None]  # as FIELDS, without the shard


@dataclass
class Rows:
    """Of one shard. without_image: samples that are left out."""

    rows: list[Row] = field(default_factory=list)
    without_image: int = 0

    def batches(self, shard: int) -> list[pa.RecordBatch]:
        """At least one, so that every shard has its place in the index."""
        return [
            _batch(self.rows[start : start + BATCH_ROWS], shard)
            for start in range(0, max(1, len(self.rows)), BATCH_ROWS)
        ]


def _batch(rows: Sequence[Row], shard: int) -> pa.RecordBatch:
    columns = list(zip(*rows, strict=True)) or [()] * (len(FIELDS) - 1)
    values = [[shard] * len(rows), *columns]
    arrays = [pa.array(column, kind) for column, (_, kind) in zip(values, FIELDS, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, names=[name for name, _ in FIELDS])


def id_of(name: str, key: str) -> str:
    """Of the image `key` in the shard `name`: where a tar was made of "./a.jpg", WebDataset's key is "./a"."""
    return f"{name}/{key.removeprefix('./')}"


def check_key(key: str, suffix: str, where: str) -> None:
    """Raises UserError for what cannot be the name of an output: keys may be from a stranger."""
    check_name(key + suffix, where)
    inner = key.removeprefix("./")
    if inner.startswith("/") or not {"", "."}.isdisjoint(inner.split("/")):
        raise UserError(
            f"{where}: {quoted(key + suffix)} is no plain relative path, and outputs are named by it; rename it"
        )
    if not key.isascii():
        try:
            key.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(f"{where}: {quoted(key + suffix)} is not in UTF-8; rename it") from None


def read_ahead(shard: Found) -> int:
    return READ_AHEAD_REMOTE if is_remote(shard.path) else READ_AHEAD


def raw_shard(shard: Found) -> io.RawIOBase:
    """Its bytes, unbuffered. Raises StorageError and OSError."""
    if is_remote(shard.path):
        return RangeReader(shard.path, shard.size)
    return open_regular(local_path(shard.path)).detach()
