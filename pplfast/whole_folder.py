"""A folder that has its name only once all that belongs into it is there."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pplfast.errors import UserError, explain_os_error
from pplfast.files import TEMPORARY_SUFFIX, StrPath


def check_free(out: StrPath, but: str = "") -> None:
    """Raises UserError for a URL, and where something is at `out` but an empty folder. but: what may be in it."""
    if "://" in os.fspath(out):
        raise UserError(f"{out}: is a URL; give a folder on a disk, and copy it there")
    if not os.path.lexists(out):
        return
    if not os.path.isdir(out):
        raise UserError(f"{out}: is a file; give a new folder for the export")
    try:
        with os.scandir(out) as entries:
            first = next((entry.name for entry in entries if entry.name != but), None)
    except OSError as error:
        raise explain_os_error(error, out, reading=True) from error
    if first is not None:
        raise UserError(f"{out}: is not empty (it holds {first}); give a new folder for the export, or empty it")


@contextmanager
def whole_folder(out: StrPath) -> Iterator[Path]:
    """Yield an empty folder, which then becomes `out`; on any error it is removed, with what it holds.

    An `out` that is there already stays the same folder, and what was made moves into it at the end: it may be a mount
    point, a shell may stand in it, or its parent may be another's. UserError as of `check_free`, and for what the
    operating system refuses.
    """
    check_free(out)
    final = Path(os.path.realpath(out))
    there = final.is_dir()
    temporary = (final if there else final.parent) / f".{os.getpid()}-{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
    new = [folder for folder in final.parents if not folder.exists()]
    moved: list[Path] = []
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if there:
            check_free(final, but=temporary.name)
            for path in sorted(temporary.iterdir()):
                moved.append(path.rename(final / path.name))
            temporary.rmdir()
        else:
            os.replace(temporary, final)
    except BaseException as error:
        for path in (temporary, *moved):
            _remove(path)
        with suppress(OSError):
            for folder in new:
                folder.rmdir()
        if isinstance(error, OSError):
            raise explain_os_error(error, error.filename or out) from error
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
