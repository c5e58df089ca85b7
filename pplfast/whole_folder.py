"""A folder that has its name only once all that belongs into it is there."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pplfast.errors import UserError, explain_os_error
from pplfast.files import TEMPORARY_SUFFIX, StrPath


def check_free(out: StrPath) -> None:
    """Raises UserError where something is at `out` but an empty folder."""
    if not os.path.lexists(out):
        return
    if not os.path.isdir(out):
        raise UserError(f"{out}: is a file; give a new folder for the export")
    try:
        with os.scandir(out) as entries:
            first = next(entries, None)
    except OSError as error:
        raise explain_os_error(error, out, reading=True) from error
    if first is not None:
        raise UserError(f"{out}: is not empty (it holds {first.name}); give a new folder for the export, or empty it")


@contextmanager
def whole_folder(out: StrPath) -> Iterator[Path]:
    """Yield an empty folder beside `out`, which then becomes `out`; on any error it is removed, with what it holds.

    UserError as of `check_free`, and for what the operating system refuses.
    """
    check_free(out)
    final = Path(os.path.realpath(out))
    temporary = final.with_name(f".{os.getpid()}-{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")
    new = [folder for folder in final.parents if not folder.exists()]
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, final)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            for folder in new:
                folder.rmdir()
        if isinstance(error, OSError):
            raise explain_os_error(error, error.filename or out) from error
        raise
