"""Opening files that come from others: never a pipe that waits for ever, never a device without an end."""

import errno
import os
import stat
from typing import BinaryIO

from pplfast.files import StrPath

LARGEST_IMAGE = 178_956_970  # pixels; above, Pillow takes an image for an attack on the memory
QUOTED = 80  # characters of an untrusted text that a message repeats


def open_regular(path: StrPath) -> BinaryIO:
    """Open a file for reading. OSError, with its `strerror`, for all that is not a regular file or a link to one."""
    try:
        # Without O_NONBLOCK, opening a named pipe waits for somebody to write into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError:  # a NUL in the name
        raise OSError(errno.EINVAL, "no name of a file", os.fspath(path)) from None
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))


def quoted(text: str) -> str:
    """An untrusted text in quotes for a message: one line, of bounded length."""
    return repr(text if len(text) <= QUOTED else f"{text[:QUOTED]}...")


def shortened(text: str) -> str:
    """The same without quotes, as for the words of another program about an untrusted file."""
    return quoted(text)[1:-1]
