"""Reading, writing, listing and removing files, local or remote."""

import contextlib
import fnmatch
import glob
import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pplfast.errors import UserError
from pplfast.files import atomic_path, remove_file
from pplfast.reading import open_descriptor, open_regular
from pplfast.storage.places import GLOB, expanded, is_pattern, is_remote, join, last_part, local_path
from pplfast.storage.remote import file_system
from pplfast.storage.retry import StorageError, attempt, store_code

BLOCK = 2**20  # bytes, of a file that is read from its begin to its end


@dataclass(frozen=True)
class Found:
    """A file. stamp: changes with its content: nanoseconds of its change, or a hash of its ETag."""

    path: str
    size: int  # bytes
    stamp: int


def read_file(path: str) -> bytes:
    """The whole. StorageError where it cannot be read."""
    if not is_remote(path):
        return attempt(lambda: _read_local(path, 0, None))
    return bytes(attempt(lambda: file_system(path).cat_file(path)))


def read_range(path: str, offset: int, size: int) -> bytes:
    """`size` bytes from `offset` on. StorageError where they cannot be read, or the file ends before."""

    def read() -> bytes:
        if not is_remote(path):
            data = _read_local(path, offset, size)
        else:
            data = _read_remote(path, offset, size)
        if len(data) != size:
            raise StorageError(
                f"ends before byte {offset + size}, where its index says more; make it whole, and the index again"
            )
        return data

    return attempt(read, file=path)


def _read_remote(path: str, offset: int, size: int) -> bytes:
    if not size:
        return b""
    try:
        return bytes(file_system(path).cat_file(path, start=offset, end=offset + size))
    except Exception as error:  # each store has exceptions of its own
        if store_code(error) in ("InvalidRange", "416"):  # the file ends before `offset`
            return b""
        raise


def _read_local(path: str, offset: int, size: int | None) -> bytes:
    if size is None:
        with open_regular(local_path(path)) as file:
            return file.read()
    descriptor = open_descriptor(local_path(path))
    try:
        if offset + size > os.fstat(descriptor).st_size:  # before memory is taken for it
            return b""
        parts, at, left = [], offset, size
        while left and (data := os.pread(descriptor, left, at)):
            parts.append(data)
            at, left = at + len(data), left - len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        os.close(descriptor)


class RangeReader(io.RawIOBase):
    """A file as Python reads it, by `read_range`: what is skipped is not fetched. Wrap it in io.BufferedReader."""

    def __init__(self, path: str, size: int) -> None:
        self._path, self._size, self._at = path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self._size - self._at))
        buffer[:size] = read_range(self._path, self._at, size)
        self._at += size
        return size


def write_file(path: str, data: bytes) -> None:
    """A reader sees the whole or nothing, also of a writer that is killed. StorageError where it cannot be written;
    locally UserError, as of all outputs."""
    if not is_remote(path):
        with atomic_path(local_path(path)) as temporary:
            temporary.write_bytes(data)
        return
    try:
        attempt(lambda: file_system(path).pipe_file(path, data))
    except StorageError as error:
        if error.gone:
            raise StorageError("its bucket is not there; make it, or check the name", gone=True) from None
        raise


def remove(path: str) -> None:
    """If it is there."""
    if not is_remote(path):
        return remove_file(local_path(path))
    with contextlib.suppress(FileNotFoundError):
        attempt(lambda: _ignoring_absence(path))


def _ignoring_absence(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        file_system(path).rm_file(path)


def list_folder(folder: str, deep: bool = False) -> list[Found]:
    """The files in a folder, by name; deep: also those in folders below. empty where there is no such folder.
    StorageError where it cannot be listed."""
    waiting, files = [folder if is_remote(folder) else local_path(folder)], []
    while waiting:
        found, below = _entries(waiting.pop())
        files += found
        waiting += below if deep else ()
    return sorted(files, key=lambda file: file.path)


def _entries(folder: str) -> tuple[list[Found], list[str]]:
    """The files and the folders in it; neither where there is no such folder."""
    try:
        return attempt(lambda: _remote_entries(folder) if is_remote(folder) else _local_entries(folder))
    except StorageError as error:
        if error.gone:
            return [], []
        raise


def _remote_entries(folder: str) -> tuple[list[Found], list[str]]:
    system = file_system(folder)
    # Not by its find() or glob(): these take a listing that fails for an empty one.
    details = [detail for detail in system.ls(folder, detail=True) if not _is_itself(system, folder, detail)]
    files = [_found(system, detail) for detail in details if detail["type"] == "file"]
    return files, [str(system.unstrip_protocol(detail["name"])) for detail in details if detail["type"] == "directory"]


def _is_itself(system: Any, folder: str, detail: dict[str, Any]) -> bool:
    """Listed in itself: a file that is no folder, or the empty object that stands for a folder."""
    return str(system._strip_protocol(detail["name"])).rstrip("/") == str(system._strip_protocol(folder)).rstrip("/")


def _local_entries(folder: str) -> tuple[list[Found], list[str]]:
    files, below = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry.path)
                elif entry.is_file():
                    with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                        state = entry.stat()
                        files.append(Found(entry.path, state.st_size, state.st_mtime_ns))
    except NotADirectoryError:
        return [], []
    return files, below


def _found(system: Any, detail: dict[str, Any]) -> Found:
    path = str(system.unstrip_protocol(detail["name"]))
    # A time only where there is nothing else: listings give it more exactly than questions for one file do.
    marks = ("ETag", "etag", "md5Hash", "blob_id", "LastModified", "mtime", "updated")
    mark = next((str(detail[key]) for key in marks if detail.get(key)), "")
    stamp = int.from_bytes(hashlib.sha256(mark.encode()).digest()[:6])  # what JSON's readers hold exactly
    return Found(path, int(detail.get("size") or 0), stamp)


def find(place: str, suffixes: Sequence[str], gone: list[str] | None = None) -> list[Found]:
    """The files that a place stands for: a file, a folder (those in it, by name), or a pattern with * or braces (in the
    order of the braces).

    suffixes: of those that count in a folder. gone: where names of files that are not there go; without it StorageError
    names the first. UserError for a pattern that cannot be.
    """
    if not is_pattern(place) or (not is_remote(place) and os.path.exists(local_path(place))):
        if place.lower().endswith(tuple(suffixes)) and not os.path.isdir(local_path(place)):
            return _named([place], _one_or_none(place), gone)
        return [file for file in list_folder(place) if file.path.lower().endswith(tuple(suffixes))]
    try:
        names = expanded(place if is_remote(place) else local_path(place))
    except ValueError as error:
        raise UserError(f"{place}: {error}; write a range like {{000..999}}") from None
    if any(sign in name for name in names for sign in GLOB):
        return [file for name in names for file in _matching(name)]
    there: dict[str, Found] = {}
    for folder in dict.fromkeys(_folder(name) for name in names):
        there |= {f"{folder}{last_part(file.path)}": file for file in list_folder(folder or ".")}
    return _named(names, there, gone)


def _named(names: Sequence[str], there: dict[str, Found], gone: list[str] | None) -> list[Found]:
    lost = [name for name in names if name not in there]
    if lost and gone is None:
        raise StorageError(f"{last_part(lost[0])} is not there; restore it, or leave its name out", gone=True)
    if gone is not None:
        gone += lost
    return [there[name] for name in names if name in there]


def _one_or_none(path: str) -> dict[str, Found]:
    try:
        return {path: _one(path)}
    except StorageError as error:
        if error.gone:
            return {}
        raise


def _folder(name: str) -> str:
    """With its slash; "" for a bare name."""
    return name.removesuffix(last_part(name))


def _one(path: str) -> Found:
    if not is_remote(path):
        state = attempt(lambda: os.stat(local_path(path)))
        return Found(local_path(path), state.st_size, state.st_mtime_ns)
    return attempt(lambda: _found(file_system(path), file_system(path).info(path)))


def _matching(pattern: str) -> list[Found]:
    if not is_remote(pattern):
        return [_one(path) for path in sorted(glob.glob(pattern)) if os.path.isfile(path)]
    scheme, _, rest = pattern.partition("://")
    bucket, *parts = rest.split("/")
    folders = [f"{scheme}://{bucket}"]
    for part in parts[:-1]:
        if any(sign in part for sign in GLOB):
            below = (name for folder in folders for name in _entries(folder)[1])
            folders = [name for name in below if fnmatch.fnmatchcase(last_part(name), part)]
        else:
            folders = [join(folder, part) for folder in folders]
    files = (file for folder in folders for file in list_folder(folder))
    return sorted(
        (file for file in files if fnmatch.fnmatchcase(last_part(file.path), parts[-1])), key=lambda file: file.path
    )


def local_copy(file: Found, cache: Path) -> Path:
    """A file on this machine: itself, or a copy in the folder `cache`, fetched once for each of its states."""
    if not is_remote(file.path):
        return Path(file.path)
    name = hashlib.sha256(repr((file.path, file.size, file.stamp)).encode()).hexdigest()[:24]
    path = cache / f"{name}-{last_part(file.path)}"
    if not path.is_file():
        with atomic_path(path) as temporary, open(temporary, "wb") as out:
            for at in range(0, file.size, 8 * BLOCK):
                out.write(read_range(file.path, at, min(8 * BLOCK, file.size - at)))
    return path
