"""Opening files that come from others: never a pipe that waits for ever, never a device without an end."""

import errno
import io
import os
import stat
from typing import BinaryIO

LARGEST_IMAGE = 178_956_970  # pixels; above, Pillow takes an image for an attack on the memory
QUOTED = 80  # characters of an untrusted text that a message repeats


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a file for reading. OSError, with its `strerror`, for all that is not a regular file or a link to one."""
    return _Regular(io.FileIO(open_descriptor(path)))


def open_descriptor(path: str | os.PathLike[str]) -> int:
    """The same as the operating system's number of it, for whoever reads a part: Python's objects cost more."""
    try:
        # Without O_NONBLOCK, opening a named pipe waits for somebody to write into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError:  # a NUL in the name
        raise OSError(errno.EINVAL, "no name of a file", os.fspath(path)) from None
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))


class _Regular(io.BufferedReader):
    """Asks for no more memory than the file can fill: `read(n)` of Python's own takes n bytes before it looks, and the
    n of an image decoder is what a damaged file says."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > io.DEFAULT_BUFFER_SIZE:
            size = min(size, max(0, os.fstat(self.fileno()).st_size - self.tell()))
        return super().read(size)


def file_size(file: BinaryIO) -> int:
    """Bytes of an open file, which is at its begin afterwards."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def quoted(text: str) -> str:
    """An untrusted text in quotes for a message: one line, of bounded length."""
    return repr(text if len(text) <= QUOTED else f"{text[:QUOTED]}...")


def shortened(text: str) -> str:
    """The same without quotes, as for the words of another program about an untrusted file."""
    return quoted(text)[1:-1]
