"""Writing files so that a reader never sees half of one."""

import errno
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from pplfast.errors import UserError, explain_os_error
from pplfast.reading import open_regular

StrPath = str | os.PathLike[str]

TEMPORARY_SUFFIX = ".partial"
# `.<process>-<random>.partial`, and `.<name>.<process>.partial` of pplfast 0.1.0.
TEMPORARY = re.compile(r"\.(?:[0-9]+-[0-9a-f]{16}|.+\.[0-9]+)\.partial", re.DOTALL)
MAX_JSON = 32 * 2**20  # bytes: many times what a run writes, and what memory there is for on any machine
MAX_LINE = 2**20  # bytes, of a file of lines
MAX_DEPTH = 64  # of lists and objects in each other


@contextmanager
def atomic_path(path: StrPath, sync: bool = True) -> Iterator[Path]:
    """Yield the name of an empty file beside `path`; on success it becomes `path`, on any error it is removed.

    sync: put the content on the disk before the name. Without, a loss of power (not a kill) may leave a file of the
    wrong size: for callers that write many files, record their sizes and synchronise them together. The name cannot
    be guessed, and is made for this call: neither another process nor a link that lies there can be in its way.
    What the operating system refuses becomes a UserError that names the file.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        name = path.with_name(f".{os.getpid()}-{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")
        open_new(name).close()
        temporary = name
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


def _discard(path: Path | None) -> None:
    if path is not None:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def open_new(path: StrPath) -> IO[bytes]:
    """A file that is not there yet, for writing; never through a link. Raises OSError."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "wb")


def open_append(path: StrPath) -> IO[bytes]:
    """A file to write to the end of, unbuffered, made if it is not there; never through a link. UserError where the
    operating system refuses, and for what is no file."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        file = os.fdopen(os.open(path, flags, 0o666), "ab", buffering=0)
    except OSError as error:
        raise explain_os_error(error, path) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UserError(f"{path}: is not a file; remove it, then run the same command again")
    return file


def append_line(file: IO[bytes], line: str, path: StrPath) -> None:
    """One write of a whole line to an unbuffered file: it survives a kill at once. UserError where it does not fit."""
    data = line.encode("utf-8") + b"\n"
    try:
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise explain_os_error(error, path) from error


def remove_file(path: StrPath) -> None:
    """Delete a file or a link, not what the link leads to, if it is there. Raises UserError."""
    try:
        Path(path).unlink(missing_ok=True)
    except OSError as error:
        raise explain_os_error(error, path) from error


def check_inside(root: StrPath, paths: Iterable[StrPath]) -> None:
    """Raises UserError where a symbolic link leads the folder of one of `paths`, which lie in `root`, out of it: what
    is written or deleted there is not this folder's."""
    home = Path(os.path.realpath(root))
    for folder in sorted({os.path.dirname(path) for path in paths}):  # those that lie in others after them
        real = os.path.realpath(folder)
        if not Path(real).is_relative_to(home):
            raise UserError(f"{folder}: a symbolic link leads out of {root}, to {real}; remove the link")


def is_output(path: StrPath) -> bool:
    """Whether the file is there. UserError for a folder, or another thing that is no file, of that name."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise explain_os_error(error, path, reading=True) from error
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise UserError(f"{path}: is {what}, where a file is expected; move it, or choose another folder")
    return True


def write_text(path: StrPath, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: StrPath, value: Any) -> None:
    """Raises ValueError for a NaN or an infinity, which JSON does not have."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: StrPath, remedy: str = "delete it and run the step again") -> dict[str, Any]:
    """The object in a JSON file; all that pplfast writes are objects. Raises UserError for what is none, is not valid,
    or larger or deeper than anything it writes; remedy: what to do about it, in words."""
    return parse_object(read_bounded(path, MAX_JSON), path, remedy)


def parse_object(data: bytes, path: StrPath, remedy: str = "delete it and run the step again") -> dict[str, Any]:
    """The same of the bytes of the file."""
    if len(data) > MAX_JSON:
        raise UserError(f"{path}: larger than {MAX_JSON} bytes, which no file of pplfast's is; {remedy}")
    try:
        value = parse_json(data)
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); {remedy}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds a {type(value).__name__}, not an object; {remedy}")
    return value


def read_lines(path: StrPath) -> Iterator[tuple[int, bytes]]:
    """Number, from 1, and bytes of each line; nothing where there is no file. UserError where it cannot be read, is no
    file, or has a longer line than any that pplfast writes."""
    if not is_output(path):
        return
    try:
        with open(path, "rb") as file:
            number = 0
            while line := file.readline(MAX_LINE):
                number += 1
                if len(line) == MAX_LINE:
                    raise UserError(f"{path}, line {number}: too long; it is not one of pplfast's: move the file")
                yield number, line
    except OSError as error:
        raise explain_os_error(error, path, reading=True) from error


def parse_json(data: bytes) -> Any:
    """Any JSON value of at most MAX_DEPTH. Raises ValueError, for numbers too long as well."""
    value = decode_json(data)
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _children(outer)]
        if not level:
            return value
    raise ValueError("nested too deep")


def decode_json(data: bytes, each: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The same without a bound that a recursive function could rely on: for values whose every part is then checked.
    each: what becomes of an object, called for inner ones first."""
    try:
        return json.loads(data.decode("utf-8-sig"), object_hook=each)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _children(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def read_bounded(path: StrPath, limit: int) -> bytes:
    """A file's bytes. UserError where there is none, it cannot be read, it is no file, or larger than `limit`."""
    try:
        with open_regular(path) as file:
            data = file.read(limit + 1)
    except OSError as error:
        is_output(path)  # says it where there is a folder or a pipe
        raise explain_os_error(error, path, reading=True) from error
    if len(data) > limit:
        raise UserError(f"{path}: larger than the {limit} bytes that such a file may have; it is not one of pplfast's")
    return data
