"""One writer of a file or a folder: a lock that goes with the process that holds it, however that ends."""

import errno
import fcntl
import functools
import os
import re
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pplfast.errors import UserError, explain_os_error
from pplfast.files import StrPath

LOCK = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)  # the last from network file systems
POLL = 0.1  # seconds
HOLDER = re.compile(r"([A-Za-z0-9._-]{1,255}) (\d{1,10})\n")
UNTIL_NAMED = 1.0  # seconds that a holder may take to write who it is


@contextmanager
def hold_folder(folder: StrPath, wait: float = 0.0) -> Iterator[None]:
    """Hold the folder, which is made if need be, for this process alone.

    wait: seconds to wait for the process that holds it. Raises UserError that names this one. Of the lock nothing
    stays behind, nor does a folder that was made for it and stayed empty.
    """
    folder = Path(folder)
    made = _make(folder)
    path = folder / LOCK
    try:
        file = _acquire(folder, path, wait)
        try:
            yield
        finally:
            with suppress(OSError):  # another folder of that name may have taken its place
                if _names(path, file):
                    path.unlink()
            file.close()
    finally:
        with suppress(OSError):  # not empty: it is in use
            for new in made:
                new.rmdir()


def try_lock(file: IO[bytes], path: Path) -> bool:
    """Lock an open file; False where another process holds it. On a file system without locks it is said, once, and
    goes on: see `require_locks`."""
    return _flock(file, path) is not False


def require_locks(folder: StrPath) -> None:
    """For several processes that write to one folder, which is there: UserError where its file system has no locks."""
    with tempfile.TemporaryFile(dir=folder) as file:
        if _flock(file, Path(folder, LOCK)) is None:
            raise UserError(
                f"{folder}: its file system has no locks, which several ranks need; take one rank, or a folder on "
                f"another file system (Lustre: mount it with -o flock)"
            )


def _flock(file: IO[bytes], path: Path) -> bool | None:
    """Whether it was free, and is held from now on; None on a file system without locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            return False
        if error.errno not in NO_LOCKS:
            raise explain_os_error(error, path) from error
        _say_no_locks(str(path.parent))
        return None
    return True


def is_locked(path: Path) -> bool:
    """Whether the process that locked this file is alive, here or on another machine."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file, or a file system without locks
        return False
    return False


def _make(folder: Path) -> list[Path]:
    """Make the folder; those that are new, the innermost first."""
    new = []
    for path in (folder, *folder.parents):
        if os.path.exists(path):  # unlike Path's, False for a name that the file system cannot have
            break
        new.append(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"{folder}: is a file; give a folder for the outputs") from None
    except OSError as error:
        raise explain_os_error(error, folder) from error
    return new


def _acquire(folder: Path, path: Path, wait: float) -> IO[bytes]:
    deadline = time.monotonic() + wait
    try:
        while True:
            try:
                file = _open(path)
            except FileNotFoundError:  # the process before removed the folder, which it had made
                _make(folder)
                continue
            free = _flock(file, path)
            if free is False or (free is None and _may_live(path)):
                holder = _holder(path)
                file.close()
                if time.monotonic() >= deadline:
                    gone = "" if free is False else f"; if it has ended, remove {path} (the file system has no locks)"
                    raise UserError(
                        f"{folder}: {holder} writes to it; wait for it, stop it, or choose another --out{gone}"
                    )
                time.sleep(POLL)
            elif _names(path, file):
                os.ftruncate(file.fileno(), 0)
                name = f"{_host()} {os.getpid()}\n".encode()
                os.write(file.fileno(), name)
                if not free:
                    time.sleep(POLL)  # of two that came at once the later one is named
                if free or path.read_bytes() == name:
                    return file
                file.close()
            else:  # the process before removed it, between our opening and our locking it
                file.close()
    except OSError as error:
        raise explain_os_error(error, path) from error


def _open(path: Path) -> IO[bytes]:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    file = os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0)
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:  # a second name: of a file that is not ours to write to
        file.close()
        raise UserError(f"{path}: is not the lock that pplfast makes; remove it")
    return file


def _names(path: Path, file: IO[bytes]) -> bool:
    """Whether `path` is still the name of the open file."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _may_live(path: Path) -> bool:
    """Without locks: whether the process that the file names may still run, as all those of other machines may."""
    found = _named(path)
    if found is None or found[1] != _host():
        return found is not None
    try:
        os.kill(int(found[2]), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True


def _named(path: Path) -> re.Match[str] | None:
    try:
        with open(path, "rb") as file:
            return HOLDER.fullmatch(file.read(300).decode("ascii", "replace"))
    except OSError:
        return None


def _holder(path: Path) -> str:
    deadline = time.monotonic() + UNTIL_NAMED
    while True:
        found = _named(path)
        if found:
            return f"process {found[2]} on {found[1]}"
        if time.monotonic() >= deadline or not path.exists():
            return "another process"
        time.sleep(POLL)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:255] or "-"


@functools.cache
def _say_no_locks(folder: str) -> None:
    print(
        f"{folder}: its file system has no locks; a command that is killed leaves its {LOCK} behind",
        file=sys.stderr,
        flush=True,
    )
