"""Errors that the user can act on."""

import difflib
import os
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
