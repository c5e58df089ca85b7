"""The record of a job: one JSON object per line and image, readable by duckdb and pandas as it is.

While a job runs, each rank appends to `manifest/rank00000.jsonl`, which it holds locked. A line is written only
after its files have their final names, and a kill can tear no more than a rank's last line. At the start and at the end
of a job the ranks' files are merged into `manifest.jsonl`, one line per image.
"""

import ctypes
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from pplfast.errors import UserError, explain_os_error
from pplfast.files import append_line, atomic_path, decode_json, open_append, read_lines, remove_file
from pplfast.jobs.options import MERGED
from pplfast.jobs.record import Record, check_record
from pplfast.lock import try_lock

FOLDER = "manifest"
SYNC_SECONDS = 5.0
REMEDY = "delete this line, and its image is done again; or choose another --out"
RANK_FILE = re.compile(r"rank[0-9]{5,9}\.jsonl")


class ManifestWriter:
    """Appends the records of one rank; every few seconds a thread puts them, and the outputs, on the disk."""

    def __init__(self, out: Path, rank: int) -> None:
        self.out, self.path = out, rank_file(out, rank)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explain_os_error(error, self.path) from error
        self._file = open_append(self.path)
        if not try_lock(self._file, self.path):  # two writers of one manifest are two jobs in one folder
            self._file.close()
            raise UserError(f"{self.path}: another job is writing to this folder; wait for it, or stop it")
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._sync_often, name="sync", daemon=True)
        self._thread.start()

    def append(self, record: Record) -> None:
        """One write of a whole line: with the page cache behind it, it survives a kill of this process at once."""
        append_line(self._file, json.dumps(record, separators=(",", ":")), self.path)

    def _sync_often(self) -> None:
        """Against a loss of power. The outputs are not synchronised one by one, which costs milliseconds each; and on a
        busy file system this call takes seconds, for which nobody should wait."""
        while not self._closed.wait(SYNC_SECONDS):
            _sync_filesystem(self._file.fileno())

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        _sync_filesystem(self._file.fileno())
        self._file.close()


def rank_file(out: Path, rank: int) -> Path:
    return out / FOLDER / f"rank{rank:05d}.jsonl"


def read_records(path: Path) -> Iterator[Record]:
    """The whole lines of a file. What a kill, a full disk or a loss of power left behind, half a line, is passed over.

    Raises UserError naming the line for a record that no job writes.
    """
    for number, line in read_lines(path):
        try:
            value = decode_json(line)
        except ValueError:
            continue
        if not line.endswith(b"\n"):
            continue
        try:
            yield check_record(value)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not a record of a job ({error}); {REMEDY}") from None


def rank_files(out: Path) -> list[Path]:
    """What ranks have left in the folder, or are writing."""
    return sorted(path for path in (out / FOLDER).glob("rank*.jsonl") if RANK_FILE.fullmatch(path.name))


def read_manifest(out: Path) -> dict[str, Record]:
    """id -> its last record, over the merged file and all ranks' files."""
    records = {record["id"]: record for record in read_records(out / MERGED)}
    for path in rank_files(out):
        for record in read_records(path):
            known = records.get(record["id"])
            if known is None or known.get("time", 0) <= record.get("time", 0):
                records[record["id"]] = record
    return records


def merge(out: Path, records: Iterable[Record]) -> None:
    """Make `records` the manifest, and remove the ranks' files. No rank may be at work.

    Killed in between, the job finds the same records twice, which says the same once.
    """
    with atomic_path(out / MERGED) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, separators=(",", ":")) + "\n")
    for path in rank_files(out):
        remove_file(path)
    with suppress(OSError):
        (out / FOLDER).rmdir()


def checksum(data: bytes) -> str:
    """SHA-256, as `sha256sum` prints it."""
    return hashlib.sha256(data).hexdigest()


def _sync_filesystem(descriptor: int) -> None:
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) == 0:
            return
    except AttributeError:
        pass  # not Linux
    with suppress(OSError):
        os.fsync(descriptor)
