"""WebDataset shards: tars of `<key>.jpg`, `<key>.png` and `<key>.json`, written so that a kill loses no sample.

A tar can only grow, so an unfinished one is whole up to its last recorded sample. A rank writes to a temporary name
and records each sample once its bytes are handed to the system; the start of the next job cuts the torn end off,
closes the tar and gives it its name.
"""

import io
import os
import re
import stat
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pplfast.errors import explain_os_error
from pplfast.files import open_new, remove_file
from pplfast.jobs.record import Record

FOLDER = "shards"
OPEN_SUFFIX = ".open"
OPEN_NAME = re.compile(r"\.labels-[0-9]{5,9}-[0-9]{6,9}\.tar\.open")
BLOCK = 512
END = bytes(2 * BLOCK)  # closes a tar


@dataclass(frozen=True)
class Member:
    name: str
    data: bytes


def members_of(image_id: str, contents: Mapping[str, bytes]) -> list[Member]:
    """contents: by suffix. The key is the image's id, with dots written as %2E, and % as %25: readers cut a name at its
    first dot, and take two samples of one key for one."""
    folder, slash, stem = image_id.rpartition("/")
    key = folder + slash + stem.replace("%", "%25").replace(".", "%2E")
    return [Member(f"{key}{suffix}", data) for suffix, data in contents.items()]


def append_member(file: IO[bytes], member: Member) -> int:
    """Write a member of a tar, always as the same bytes; the offset of its data."""
    info = tarfile.TarInfo(member.name)
    info.size = len(member.data)
    file.write(info.tobuf(tarfile.PAX_FORMAT))
    offset = file.tell()
    file.write(member.data)
    file.write(bytes(-len(member.data) % BLOCK))
    return offset


class ShardWriter:
    """One rank's shards, `shards/labels-<rank>-<number>.tar`, each of `size` samples (the last of a run: fewer)."""

    def __init__(self, out: Path, rank: int, size: int) -> None:
        self._folder, self._rank, self._size = out / FOLDER, rank, size
        self._file: IO[bytes] | None = None
        self._samples = 0
        pattern = re.compile(rf"labels-{rank:05d}-([0-9]{{6,9}})\.tar")
        there = [int(match[1]) for path in self._folder.glob("labels-*.tar") if (match := pattern.fullmatch(path.name))]
        self._number = max(there, default=-1) + 1

    @property
    def _path(self) -> Path:
        return self._folder / f"labels-{self._rank:05d}-{self._number:06d}.tar"

    def add(self, image_id: str, contents: Mapping[str, bytes]) -> tuple[list[Member], list[tuple[str, int]]]:
        """Append a sample; its members, and of each (file relative to the job's folder, offset of its bytes)."""
        path, members = self._path, members_of(image_id, contents)
        try:
            if self._file is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._file = open_new(_open_name(path))
            places, chunk, start = [], io.BytesIO(), self._file.tell()
            for member in members:
                places.append((f"{FOLDER}/{path.name}", start + append_member(chunk, member)))
            self._file.write(chunk.getbuffer())
            self._file.flush()
        except OSError as error:
            raise explain_os_error(error, path) from error
        self._samples += 1
        return members, places

    def full(self) -> bool:
        return self._samples >= self._size

    def close_shard(self) -> None:
        """Give the shard its name; the records of its samples must have been written before."""
        if self._file is None:
            return
        path = self._path
        try:
            self._file.write(END)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(_open_name(path), path)
        except OSError as error:
            raise explain_os_error(error, path) from error
        finally:
            self._file = None
        self._number, self._samples = self._number + 1, 0


def finish_torn_shards(out: Path, records: dict[str, Record]) -> None:
    """Close the shards that a kill left open behind their last recorded sample. No rank may be at work."""
    torn = sorted(path for path in (out / FOLDER).glob(f".*{OPEN_SUFFIX}") if OPEN_NAME.fullmatch(path.name))
    if not torn:
        return
    ends: dict[str, int] = {}
    for record in records.values():
        for entry in record.get("files", ()):
            if "offset" in entry:
                end = entry["offset"] + entry["bytes"]
                ends[entry["file"]] = max(ends.get(entry["file"], 0), end + -end % BLOCK)
    for path in torn:
        final = path.with_name(path.name[1:].removesuffix(OPEN_SUFFIX))
        end = ends.get(f"{FOLDER}/{final.name}", 0)
        found = path.lstat()
        # Nothing recorded, or a loss of power took its bytes: its images are redone. A link is none of ours.
        if end == 0 or found.st_size < end or not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            remove_file(path)
            continue
        try:
            with open(path, "r+b") as file:
                file.truncate(end)
                file.seek(end)
                file.write(END)
                os.fsync(file.fileno())
            os.replace(path, final)
        except OSError as error:
            raise explain_os_error(error, final) from error


def _open_name(path: Path) -> Path:
    return path.with_name(f".{path.name}{OPEN_SUFFIX}")
