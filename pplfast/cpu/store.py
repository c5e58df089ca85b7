"""Where compiled code is kept: folders that nobody else can write to, and files that are whole.

Code from here is loaded into the process, so a folder or a file that another user could have changed is not used, and
what a crash or a full disk has damaged is not loaded.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
LINKS = 40  # that a path may lead through, as for the kernel
WAIT = 600.0  # seconds for another process that compiles: longer than its compiler may take
ROOM = 4 << 20  # bytes that a compiler needs, its own temporary files included
ABANDONED = 3600.0  # seconds after which a temporary folder is that of a process that was killed
_MARK = b"pplfast sha256 "  # before the checksum, at the end of a file


class Unsafe(OSError):
    """Another user could have written there."""


def places() -> list[Path]:
    """The folders to keep code in, best first: the user's cache, then folders of this machine alone."""
    user = os.geteuid()
    found = []
    with contextlib.suppress(RuntimeError):  # neither HOME nor a home in the system's list of users
        found.append(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pplfast")
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        found.append(Path(runtime) / "pplfast")
    found.append(Path(tempfile.gettempdir()) / f"pplfast-{user}")
    return [path for path in found if path.is_absolute()]


def make_folder(path: Path) -> None:
    """The folder, of this user alone. Raises Unsafe where others could write to it, and OSError."""
    missing = [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]
    _check_way((missing or [path])[-1].parent)  # before anything is made in somebody else's home
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
    check_folder(path)


def check_folder(path: Path) -> None:
    """Raises Unsafe for a link, a folder of somebody else, or one that others may write to or replace; OSError where
    there is none."""
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise Unsafe(f"{path} is no folder")
    if found.st_uid != os.geteuid():
        raise Unsafe(f"{path} belongs to another user")
    if found.st_mode & OTHERS_WRITE:
        raise Unsafe(f"others can write to {path}; remove it")
    _check_way(path)


def _check_way(path: Path) -> None:
    """Every folder and link that leads to `path` must be the user's or the system's, and not be replaced by others: in
    a folder with the sticky bit, as /tmp is, they cannot do that."""
    way, here, links = list(path.parts[1:]), Path(path.anchor), 0
    _check_step(here)
    while way:
        part = way.pop(0)
        if part == "..":
            here = here.parent
            continue
        step = here / part
        if _check_step(step):
            target = Path(os.readlink(step))
            links += 1
            if links > LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            here = Path(target.anchor) if target.is_absolute() else here
            way = [*(target.parts[1:] if target.is_absolute() else target.parts), *way]
        else:
            here = step


def _check_step(step: Path) -> bool:
    """Whether it is a link."""
    found = step.lstat()
    if found.st_uid not in (0, os.geteuid()):
        raise Unsafe(f"{step} belongs to another user")
    link = stat.S_ISLNK(found.st_mode)  # whose own mode means nothing
    if not link and found.st_mode & OTHERS_WRITE and not found.st_mode & stat.S_ISVTX:
        raise Unsafe(f"others can write to {step}")
    return link


def is_whole(path: Path) -> bool:
    """Whether `path` is a file that write_whole() made, as it made it, of this user, in a folder of this user alone."""
    try:
        check_folder(path.parent)
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    with open(handle, "rb") as file:
        found = os.fstat(handle)
        own = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & OTHERS_WRITE
        content = file.read() if own else b""
    image, mark, checksum = content.rpartition(_MARK)
    return bool(mark) and checksum == hashlib.sha256(image).hexdigest().encode()


def write_whole(path: Path, image: bytes, folder: Path) -> None:
    """The image and its checksum, which a loader of shared objects passes over. On the disk before it has its name.

    `folder`: a temporary one in the file system of `path`. Raises OSError.
    """
    partial = folder / "whole"
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(handle, "wb") as file:
        file.write(image + _MARK + hashlib.sha256(image).hexdigest().encode())
        file.flush()
        os.fsync(handle)
    if path.is_dir() and not path.is_symlink():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    os.replace(partial, path)
    handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """Of this user alone, and gone at the end; those that killed processes have left in `parent` go too."""
    for old in parent.glob(".compiling-*") if parent else ():
        with contextlib.suppress(OSError):
            if time.time() - old.lstat().st_mtime > ABANDONED:
                shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=".compiling-" if parent else "pplfast-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_room(folder: Path) -> None:
    """Raises OSError where the disk or a quota leaves none: a compiler would only say that it failed."""
    room = folder / "room"
    try:
        room.write_bytes(bytes(ROOM))
    finally:
        room.unlink(missing_ok=True)


@contextlib.contextmanager
def turn(folder: Path, wait: float = WAIT) -> Iterator[None]:
    """One process after the other. The kernel frees the lock of one that is killed; one that stands still is waited for
    `wait` seconds, after which two do the same work, which does no harm. So it is where there are no locks."""
    try:
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        yield
        return
    try:
        end = time.monotonic() + wait
        while not _lock(handle) and time.monotonic() < end:
            time.sleep(0.1)
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    """Whether there is nothing to wait for."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EINTR)
    return True
