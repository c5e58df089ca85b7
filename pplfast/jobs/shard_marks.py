"""Outputs in shards, as they lie in their folder: names, and the mark that says that a shard is whole.

For the shard NAME of a data set, which may hold slashes:

    NAME.tar              a sample of each image: outputs, and what is known of it
    manifest/NAME.jsonl   the records of its images, in its order
    manifest/NAME.json    the mark, written last and removed first

A mark may come from a stranger, as all of a folder may: its values are checked.
"""

import hashlib
import json
import posixpath
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from pplfast.errors import UserError
from pplfast.files import MAX_JSON, decode_json, parse_json
from pplfast.jobs.manifest import FOLDER, checksum
from pplfast.jobs.record import LARGEST, SHA256, Record, check_record
from pplfast.storage import RangeReader, StorageError, join, last_part, list_folder, read_file, write_file

T = TypeVar("T")

LAYOUT = {"layout": "shards"}  # in the settings of a folder of such outputs
# The suffix of each output in its sample, by that of its file: beside those of the images, and different for each kind.
MEMBERS = {".png": ".seg.png", ".npz": ".cam.npz", ".npy": ".cam.npy"}
THREADS = 16  # that wait for a store
BLOCK = 2**23  # bytes, of what is read to its end


@dataclass(frozen=True)
class File:
    """Of a mark: what its file must be."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Mark:
    """source: [size, stamp] of the shard of images. inputs: digest of what else decides the results, see
    `shard_plan.inputs_digest`. images, done, bad: counts. rows: of the images within their shard, where they are not
    all of it. bad_rows, again_rows: those of bad images, and of these the ones that a later run tries again. first_bad:
    up to 20 times [id, reason]."""

    shard: str
    source: list[int]
    inputs: str
    images: int
    done: int
    bad: int
    tar: File
    records: File
    rank: int
    time: float
    rows: list[int] | None = None
    bad_rows: list[int] = field(default_factory=list)
    again_rows: list[int] = field(default_factory=list)
    first_bad: list[tuple[str, str]] = field(default_factory=list)

    def encode(self) -> bytes:
        return json.dumps(asdict(self), separators=(",", ":")).encode() + b"\n"


def tar_name(shard: str) -> str:
    return f"{shard}.tar"


def records_name(shard: str) -> str:
    return f"{FOLDER}/{shard}.jsonl"


def mark_name(shard: str) -> str:
    return f"{FOLDER}/{shard}.json"


def say_suffix(suffixes: Iterable[str]) -> str:
    """Of the member that says what is known of an image, for a job with outputs of these suffixes."""
    return ".seg.json" if ".png" in suffixes else ".cam.json"


def parse_mark(data: bytes, shard: str, rows: int) -> Mark:
    """rows: of the whole shard. Raises ValueError for what is no mark of it."""
    if len(data) > MAX_JSON:
        raise ValueError(f"{len(data)} bytes")
    table = parse_json(data)
    try:
        files = File(**table.pop("tar")), File(**table.pop("records"))
        first = [(str(image), str(why)) for image, why in table.pop("first_bad")]
        mark = Mark(**table, tar=files[0], records=files[1], first_bad=first)
    except (TypeError, ValueError, AttributeError, KeyError):
        raise ValueError("no mark of a shard") from None
    chosen = range(rows) if mark.rows is None else mark.rows
    lists = [chosen, mark.bad_rows, mark.again_rows]
    plausible = (
        mark.shard == shard
        and all(map(_is_count, (mark.images, mark.done, mark.bad, mark.rank)))
        and isinstance(mark.source, list)
        and all(type(number) is int for number in mark.source)
        and isinstance(mark.inputs, str)
        and type(mark.time) in (int, float)
        and all(_is_count(file.bytes) and isinstance(file.sha256, str) for file in files)
        and all(SHA256.fullmatch(file.sha256) for file in files)
        and all(isinstance(each, list | range) and _ascend(each, rows) for each in lists)
        and len(chosen) == mark.images == mark.done + mark.bad
        and len(mark.bad_rows) == mark.bad
        and set(mark.again_rows) <= set(mark.bad_rows) <= set(chosen)
    )
    if not plausible:
        raise ValueError(f"no mark of the shard {shard}")
    return mark


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def _ascend(rows: list[int] | range, end: int) -> bool:
    """Whether they are different rows of a shard, in its order."""
    if not isinstance(rows, range) and not all(type(row) is int for row in rows):
        return False
    return all(first < second for first, second in zip((-1, *rows), (*rows, end), strict=True))


def listing(out: str, shards: Iterable[str]) -> dict[str, int]:
    """Name -> bytes of all files in the folders that the outputs of these shards are in. UserError where they cannot be
    listed."""
    found: dict[str, int] = {}
    for folder in sorted({posixpath.dirname(name) for shard in shards for name in (tar_name(shard), mark_name(shard))}):
        path = join(out, folder) if folder else out
        try:
            files = list_folder(path)
        except StorageError as error:
            raise UserError(f"{path}: {error}") from None
        found |= {posixpath.join(folder, last_part(file.path)): file.size for file in files}
    return found


def put(out: str, name: str, data: bytes) -> None:
    """UserError, which stops a job, where it cannot be written."""
    path = join(out, name)
    try:
        write_file(path, data)
    except StorageError as error:
        raise UserError(f"{path}: {error}") from None


def get(out: str, name: str) -> bytes:
    """StorageError where it cannot be read."""
    return read_file(join(out, name))


def get_checked(out: str, name: str, file: File) -> bytes:
    """UserError where it is not as its mark says."""
    try:
        data = get(out, name)
    except StorageError as error:
        raise UserError(f"{join(out, name)}: {error}") from None
    if (len(data), checksum(data)) != (file.bytes, file.sha256):
        raise UserError(f"{join(out, name)}: is not as it was written; run the command that made it with --verify")
    return data


def read_records(out: str, mark: Mark) -> list[Record]:
    """Of a shard's images, in its order. UserError where they are not as they were written."""
    name, tar = records_name(mark.shard), tar_name(mark.shard)
    data = get_checked(out, name, mark.records)
    try:
        records = [check_record(decode_json(line), tar) for line in data.splitlines()]
        ends = (file["offset"] + file["bytes"] for record in records for file in record.get("files", ()))
        if len(records) != mark.images or any(end > mark.tar.bytes for end in ends):
            raise ValueError("others than those of its tar")
    except ValueError as error:
        raise no_records(out, mark.shard, str(error)) from None
    return records


def no_records(out: str, shard: str, why: str) -> UserError:
    records, mark = join(out, records_name(shard)), join(out, mark_name(shard))
    return UserError(f"{records}: holds no records of a job ({why}); delete {mark}, and the shard is made again")


def checksum_of(path: str, size: int) -> str:
    """SHA-256 of that many bytes of a file. StorageError where it cannot be read, or is shorter."""
    digest, reader = hashlib.sha256(), RangeReader(path, size)
    while data := reader.read(BLOCK):
        digest.update(data)
    return digest.hexdigest()


def at_once(action: Callable[[int], T], shards: Iterable[int]) -> Iterator[T]:
    """The results in order, of several at a time: a store answers each late."""
    with ThreadPoolExecutor(THREADS, "marks") as pool:
        yield from pool.map(action, shards)
