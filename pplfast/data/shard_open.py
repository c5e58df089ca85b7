"""Opening the index of a data set in shards, which may be from a stranger: each value is one that an index can hold."""

import hashlib
import json
import os
import posixpath
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from pplfast.data.names import check_name
from pplfast.data.shard_images import Batch, ShardIndex
from pplfast.data.shard_names import Shard, below_one_folder, check_shard_names
from pplfast.data.shard_rows import FIELDS, KINDS, METADATA, TAR, VERSION
from pplfast.errors import UserError, naming
from pplfast.files import parse_json
from pplfast.reading import open_regular, shortened
from pplfast.storage import Found, join

AGAIN = "make the index again: pplfast data index"

_MAGIC = b"ARROW1"
_UNSAFE = r"\x00|^/|//|/$|(^|/)\.\.(/|$)|/\.(/|$)|^\.$"  # in a key; as `check_key`


def open_index(file: Path, shards: Sequence[Found] | None) -> ShardIndex:
    """An index in a local file, of which nothing else is taken than what an index may hold.

    shards: as they are now, in any order; UserError where one is new, or has changed since the index was made. Those
    that are not among them keep their place in it, where the others lie now. None: paths, sizes and stamps are those in
    the index. UserError where it is damaged, or of another version.
    """
    with naming(file):
        try:
            with open_regular(file) as stream:  # no pipe, which a mapping would wait for
                messages = _messages(pa.memory_map(str(file)).read_buffer())
                schema = _schema(next(messages))
                said = _said(schema)
                own = _shards(said)
                own = own if shards is None else _as_they_are(own, said, shards)
                batches = list(_checked(messages, schema, own, said["kind"]))
                digest = _digest(stream, own, said)
        except FileNotFoundError:
            raise UserError(f"no such file; {AGAIN}") from None
        except (pa.ArrowException, OSError, ValueError, StopIteration, struct.error) as error:
            raise UserError(f"is no index of shards ({shortened(str(error))}); {AGAIN}") from None
    return ShardIndex(file, own, said, batches, digest)


def _messages(data: pa.Buffer) -> Iterator[pa.Message]:
    """Of a mapped file: its schema, then its batches. Raises ValueError for one whose begin or end is not there."""
    if bytes(data[: len(_MAGIC)]) != _MAGIC or bytes(data[-len(_MAGIC) :]) != _MAGIC:
        raise ValueError("it does not begin and end as an Arrow file does")
    return iter(pa.ipc.MessageReader.open_stream(data[len(_MAGIC) + 2 :]))


def _schema(message: pa.Message) -> pa.Schema:
    if message.type != "schema":  # Arrow takes whatever it is for one
        raise ValueError("it does not begin with its columns")
    return pa.ipc.read_schema(message)


def _is_compressed(batch: pa.Message) -> bool:
    """By the tables in its FlatBuffer (Arrow's Message.fbs): the third field of a message is its header, the fourth of
    a batch the compression. Raises struct.error."""
    metadata = batch.metadata

    def field(table: int, number: int) -> int:
        """Where it is; 0 where the table does not have it."""
        vtable = table - struct.unpack_from("<i", metadata, table)[0]
        there = 4 + 2 * number < struct.unpack_from("<H", metadata, vtable)[0]
        offset: int = struct.unpack_from("<H", metadata, vtable + 4 + 2 * number)[0] if there else 0
        return table + offset if offset else 0

    def follow(place: int) -> int:
        return place + int(struct.unpack_from("<I", metadata, place)[0])

    return field(follow(field(follow(0), 2)), 3) != 0


def _said(schema: pa.Schema) -> dict[str, Any]:
    """Its metadata, of the types that `build_index` writes. Raises ValueError."""
    said = parse_json((schema.metadata or {}).get(METADATA, b"{}"))
    if not isinstance(said, dict) or "version" not in said:
        raise ValueError("another program's Arrow file")
    if said["version"] != VERSION:
        raise UserError(f"is of version {shortened(str(said['version']))}, and this pplfast reads {VERSION}; {AGAIN}")
    texts = [said.get(key) for key in ("kind", "folder", "image", "mask")]
    classes = said.get("classes")
    if (
        not all(isinstance(text, str) for text in texts)
        or said["kind"] not in KINDS
        or not isinstance(classes, list)
        or not all(isinstance(name, str) for name in classes)
        or not schema.remove_metadata().equals(pa.schema(FIELDS))
    ):
        raise ValueError("its columns or what it says of them are no index's")
    return said


def _shards(said: dict[str, Any]) -> list[Shard]:
    """Raises ValueError, and UserError for a name that leaves the folder."""
    found = []
    rows = said.get("shards")
    if not isinstance(rows, list) or not rows:
        raise ValueError("it names no shards")
    for row in rows:
        if not isinstance(row, list) or [type(part) for part in row] != [str, str, int, int]:
            raise ValueError("a shard is no path, name, size and stamp")
        path, name, size, stamp = row
        if said["folder"]:
            check_name(path, "its shards")
            path = join(said["folder"], path)
        found.append(Shard(path, name, size, stamp))
    check_shard_names([shard.name for shard in found])
    return found


def _as_they_are(own: Sequence[Shard], said: dict[str, Any], shards: Sequence[Found]) -> list[Shard]:
    """The shards of the index, where they lie now: below another folder where all of them do."""
    folder, relative = below_one_folder([shard.path for shard in shards])
    now: dict[str, Found] = dict(zip(relative, shards, strict=True))
    if now.keys() != {row[0] for row in said["shards"]}:  # other shards, so that also their common folder may differ
        whole = [posixpath.join(folder, path) if folder else path for path in relative]
        below = f"{said['folder']}/" if said["folder"] else ""
        now = {path.removeprefix(below): shard for path, shard in zip(whole, shards, strict=True)}
    known = {row[0] for row in said["shards"]}
    for path, there in now.items():
        if path not in known:
            raise UserError(f"{there.path} is not in it; {AGAIN}")
    found = []
    moved = next(iter(now.items()))
    home = moved[1].path.removesuffix(moved[0]).rstrip("/")  # of all that are there
    for (path, *_), shard in zip(said["shards"], own, strict=True):
        if path not in now:
            there_now = join(home, path) if home and said["folder"] else shard.path
            found.append(replace(shard, path=there_now))
            continue
        if (now[path].size, now[path].stamp) != (shard.size, shard.stamp):
            raise UserError(f"{now[path].path} has changed since it was made; {AGAIN}")
        found.append(Shard(now[path].path, shard.name, shard.size, shard.stamp))
    return found


def _checked(messages: Iterator[pa.Message], schema: pa.Schema, shards: Sequence[Shard], kind: str) -> Iterator[Batch]:
    """Its rows, where they can be those of the shards. Raises ValueError and pyarrow's own errors."""
    first, number = 0, 0
    for message in messages:
        # Of a compressed one Arrow takes the memory that it says it unpacks to.
        if message.type != "record batch" or _is_compressed(message):
            raise ValueError("its rows are no plain batches")
        table = pa.ipc.read_record_batch(message, schema)
        table.validate(full=True)  # offsets of texts too, without which a read could leave the file
        if not table.num_rows:
            continue
        own = table.column("shard").to_numpy(zero_copy_only=False)
        if own[0] < number or own[0] >= len(shards) or (own != own[0]).any():
            raise ValueError("its rows are not those of its shards")
        number = int(own[0])
        batch = Batch(number, first, table)
        _check_rows(batch, shards[number].size if kind == TAR else None)
        first += table.num_rows
        yield batch
    if not first:
        raise ValueError("it has no rows")


def _check_rows(batch: Batch, bytes_there: int | None) -> None:
    """bytes_there: the size of a tar, None for a Parquet file, which knows its rows itself."""
    keys, labels = batch.table.column("key"), batch.table.column("labels")
    nulls = [batch.table.column(name).null_count for name, _ in FIELDS[:-1]]
    if any(nulls) or labels.flatten().null_count:
        raise ValueError("a value is missing in it")
    suffixes = pc.unique(batch.table.column("suffix")).to_pylist()
    unsafe = pc.any(pc.match_substring_regex(keys, _UNSAFE)).as_py() or any("/" in text for text in suffixes)
    if unsafe or pc.count_distinct(keys).as_py() != len(keys):
        raise ValueError("a key in it can be no image's name, or is there twice")
    masked = batch.mask_offset >= 0
    for offset, size in ((batch.offset, batch.size), (batch.mask_offset[masked], batch.mask_size[masked])):
        if not offset.size:
            continue
        if min(offset.min(), size.min()) < 0:
            raise ValueError("a place in it lies before its shard")
        if bytes_there is not None and (offset > bytes_there - size).any():
            raise ValueError("a place in it lies behind the end of its shard")


def _digest(stream: BinaryIO, shards: Sequence[Shard], said: dict[str, Any]) -> str:
    """SHA-256 of the record batches as they lie between the schema and the footer, and of what in the metadata does
    not change where the shards are copied."""
    content = [[shard.name, shard.size] for shard in shards], said["kind"], said["image"], said["mask"], said["classes"]
    digest = hashlib.sha256(json.dumps(content).encode())
    stream.seek(len(_MAGIC) + 2 + 4)  # magic and padding; a message's continuation mark
    schema = int.from_bytes(stream.read(4), "little")
    end = stream.seek(-len(_MAGIC) - 4, os.SEEK_END)
    end -= int.from_bytes(stream.read(4), "little")
    at = stream.seek(len(_MAGIC) + 2 + 8 + schema)
    while data := stream.read(min(2**20, max(0, end - at))):
        digest.update(data)
        at += len(data)
    return digest.hexdigest()
