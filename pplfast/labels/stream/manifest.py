"""The record of a labelling job: one JSON object per line and image, readable by duckdb and pandas as it is.

While a job runs, each rank appends to `manifest/rank00000.jsonl`, which it holds locked. A line is written only after
its label has its final name, and a kill can tear no more than a rank's last line. At the start and at the end of a job
the ranks' files are merged into `manifest.jsonl`, one line per image.
"""

import ctypes
import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from pplfast.errors import UserError
from pplfast.files import atomic_path, explain_os_error

MERGED = "manifest.jsonl"
FOLDER = "manifest"
SYNC_SECONDS = 5.0
DONE, BAD = "done", "bad"

Record = dict[str, Any]  # id, state (done | bad), and what refine.py or the pipeline know of the image


class ManifestWriter:
    """Appends the records of one rank; every few seconds a thread puts them, and the labels, on the disk."""

    def __init__(self, out: Path, rank: int) -> None:
        self.path = rank_file(out, rank)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab", buffering=0)
        except OSError as error:
            raise explain_os_error(error, self.path) from error
        _lock(self._file, self.path)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._sync_often, name="sync", daemon=True)
        self._thread.start()

    def append(self, record: Record) -> None:
        """One write of a whole line: with the page cache behind it, it survives a kill of this process at once."""
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        try:
            if self._file.write(line) != len(line):
                raise UserError(
                    f"{self.path}: the disk is full; make space, then run the same command again: it continues"
                )
        except OSError as error:
            raise explain_os_error(error, self.path) from error

    def _sync_often(self) -> None:
        """Against a loss of power. The labels are not synchronised one by one, which costs milliseconds each; and on a
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
    """The whole lines of a file. What a kill or a full disk left behind, half a line, is passed over."""
    with suppress(FileNotFoundError), open(path, "rb") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and isinstance(record.get("id"), str) and line.endswith(b"\n"):
                yield record


def read_manifest(out: Path) -> dict[str, Record]:
    """id -> its last record, over the merged file and all ranks' files."""
    records = {record["id"]: record for record in read_records(out / MERGED)}
    for path in sorted((out / FOLDER).glob("rank*.jsonl")):
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
    folder = out / FOLDER
    for path in folder.glob("rank*.jsonl"):
        path.unlink()
    with suppress(OSError):
        folder.rmdir()


def checksum(data: bytes) -> str:
    """SHA-256, as `sha256sum` prints it."""
    return hashlib.sha256(data).hexdigest()


def at_work(path: Path) -> bool:
    """Whether the process that writes this manifest is alive, here or on another machine."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file, or a file system without locks
        return False
    return False


def _lock(file: FileIO, path: Path) -> None:
    """Two writers of one manifest are two jobs in one folder."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{path}: another `pplfast label` is writing to this folder; wait for it, or stop it") from None
    except OSError:
        pass  # a file system without locks: the operator has to see to it


def _sync_filesystem(descriptor: int) -> None:
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) == 0:
            return
    except AttributeError:
        pass  # not Linux
    with suppress(OSError):
        os.fsync(descriptor)
