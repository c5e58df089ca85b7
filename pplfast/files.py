"""Writing files so that a reader never sees half of one."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pplfast.errors import UserError

StrPath = str | os.PathLike[str]

TEMPORARY_SUFFIX = ".partial"


@contextmanager
def atomic_path(path: StrPath, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success it becomes `path`, on any error it is removed.

    sync: put the content on the disk before the name. Without, a loss of power (not a kill) may leave a file of the
    wrong size: for callers that write many files, record their sizes and synchronise them together. The name carries
    the process id, so that two processes writing the same file do not share a temporary.
    A full disk becomes a UserError that names the file.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if sync:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        _discard(temporary)
        raise explain_os_error(error, path) from error
    except BaseException:
        _discard(temporary)
        raise


def _discard(path: Path) -> None:
    with suppress(OSError):  # the folder itself may be what could not be made
        path.unlink(missing_ok=True)


def explain_os_error(error: OSError, path: StrPath) -> Exception:
    """The UserError for the conditions that the user can mend; the error itself otherwise."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"{path}: the disk is full; make space, then run the same command again: it continues")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST):
        return UserError(f"{path}: cannot be written ({error.strerror}); choose another output folder")
    return error


def write_text(path: StrPath, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: StrPath, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: StrPath) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); delete it and run the step again") from None
