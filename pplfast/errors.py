"""Errors that the user can act on."""

import difflib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

MOST = 2000  # characters of a message, some of which a file may have written


class UserError(Exception):
    """Bad input or a condition of the machine that the user can mend.

    The message is one line and names the file, the value and the remedy. The command line prints it without a
    traceback and exits with code 2; library callers catch it like any exception.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class Terminated(KeyboardInterrupt):
    """Ended by SIGTERM: all that cleans up after Ctrl-C does so here too."""


def one_line(message: str) -> str:
    """For a terminal: what does not print (a file's NUL, line break or terminal sequence) is written as its escape, and
    the middle of a message beyond MOST characters is left out."""
    if not message.isprintable():
        message = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in message)
    return message if len(message) <= MOST else f"{message[: MOST // 2]} ... {message[-MOST // 2 :]}"


# Words of errors without a class of their own: the CPU's allocator, oneDNN's scratch, C++'s new, the CUDA driver;
# cuBLAS's and cuDNN's handles and workspaces (CUBLAS_STATUS_ALLOC_FAILED, CUDNN_STATUS_ALLOC_FAILED, and since cuDNN 9
# CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED and ..._HOST_ALLOCATION_FAILED); mmap and fork; a thread's stack.
NO_MEMORY: Final = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "_STATUS_ALLOC_FAILED",
    "_ALLOCATION_FAILED",
    "Cannot allocate memory",
    "can't start new thread",
)


def out_of_memory(error: BaseException) -> bool:
    """Of Python's or torch's allocators, or of anybody else's; see NO_MEMORY."""
    of_torch = type(error).__name__ == "OutOfMemoryError"  # its allocator for the GPU; without importing it
    return of_torch or isinstance(error, MemoryError) or any(text in str(error) for text in NO_MEMORY)


@contextmanager
def naming(file: str | os.PathLike[str]) -> Iterator[None]:
    """What is wrong inside names the file: its values are checked by code that does not know where they are from."""
    try:
        yield
    except UserError as error:
        if os.fspath(file) in str(error):
            raise
        raise type(error)(f"{os.fspath(file)}: {error}") from None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ "; did you mean 'train'?" for what is near, else nothing."""
    plain = {name.lstrip("-"): name for name in known}  # the dashes would make all options alike
    word = word.lstrip("-")
    near = difflib.get_close_matches(word, list(plain), n=3)
    likeness = [difflib.SequenceMatcher(None, name, word).ratio() for name in near]
    close = [plain[name] for name, ratio in zip(near, likeness, strict=True) if ratio > likeness[0] - 0.1]
    return f"; did you mean {' or '.join(close)}?" if close else ""


AGAIN = "then run the same command again"  # a command that continues adds that it does
# What the user can do about an error of the operating system, whether a file was read or written.
_REMEDIES = {
    errno.ENOSPC: f"the disk is full; make space, {AGAIN}",
    errno.EDQUOT: f"your quota of the disk is used up; make space, {AGAIN}",
    errno.EFBIG: "a file may not become so large here; raise the limit (ulimit -f), or use another file system",
    errno.EIO: f"the disk reports an error; check it, {AGAIN}",
    errno.ESTALE: f"the network file system has lost it; mount it anew, {AGAIN}",
    errno.EMFILE: f"too many open files in this process; raise the limit (ulimit -n), {AGAIN}",
    errno.ENFILE: f"too many open files on this machine; close other programs, {AGAIN}",
    errno.ENAMETOOLONG: "the name is too long for the file system; shorten it",
    errno.ELOOP: "a symbolic link that leads in a circle, or lies where a file is expected; remove it",
    errno.ETXTBSY: f"another process runs it; end that process, {AGAIN}",
    errno.EBUSY: f"in use by another process; end that process, {AGAIN}",
    errno.ENOMEM: f"not enough memory; close other programs, {AGAIN}",
    errno.EISDIR: "is a folder, where a file is expected; move it, or choose another name",
}
_NOT_WRITTEN = {
    errno.ENOTEMPTY: "is a folder that is not empty; move it, or choose another output folder",
    errno.EXDEV: "lies on another file system than its folder; choose another output folder",
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST),
        "cannot be written ({reason}); choose another output folder",
    ),
}
_NOT_READ = {
    errno.ENOENT: "no such file",
    errno.ENOTDIR: "no such file: what is to be its folder is a file",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "may not be read ({reason}); ask its owner, or use a copy"),
}
_OTHERS = f"the operating system says: {{reason}}; check the path and the disk, {AGAIN}"


def explain_os_error(error: OSError, path: str | os.PathLike[str], reading: bool = False) -> UserError:
    """The UserError for what the operating system refused at `path`, writing it or reading it."""
    return UserError(f"{os.fspath(path)}: {os_error_words(error, reading)}")


def os_error_words(error: OSError, reading: bool = False) -> str:
    """The same without the path."""
    code = error.errno or 0
    reason = error.strerror or str(error) or type(error).__name__
    sentence = (_NOT_READ if reading else _NOT_WRITTEN).get(code) or _REMEDIES.get(code, _OTHERS)
    return sentence.format(reason=reason)


def explain_library_error(error: Exception, path: str | os.PathLike[str]) -> UserError | None:
    """The same for a library that gives the operating system's errors as its own, with their numbers in the text, as
    those in Rust do: "(os error 28)". None where it is no such error."""
    found = re.search(r"\(os error (\d{1,4})\)", str(error))
    if found is None:
        return None
    code = int(found[1])
    return explain_os_error(OSError(code, os.strerror(code)), path)
