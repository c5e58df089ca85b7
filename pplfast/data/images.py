"""What a JPEG file says about itself, read without decoding it, and whether it is whole."""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from pplfast.data.formats import HEAD_BYTES, name_format
from pplfast.data.names import instead
from pplfast.data.pillow import ImageError, load, open_image, orientation
from pplfast.errors import os_error_words
from pplfast.files import StrPath
from pplfast.reading import open_regular

TAIL_BYTES = 65536  # the end-of-image marker is looked for in this much of the file's end
ORIENTATION_TAG = 0x0112
MOST_SEGMENTS = 10_000  # before the image data; real files have a few dozen
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # start-of-frame codes: how the pixels are coded
_LOSSLESS = (0xC3, 0xCB)
_HIERARCHICAL = (0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF)


@dataclass(frozen=True)
class ImageInfo:
    width: int  # as stored: an EXIF orientation is not applied
    height: int
    mode: str  # "RGB", or "L" for grey
    orientation: int  # EXIF; 1 is upright


class BadImage(Exception):
    """A file that cannot be used as an image. `kind` is one of missing, unreadable, empty, not-jpeg,
    rare-jpeg, cmyk, truncated, too-large."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


@contextmanager
def open_image_file(path: StrPath) -> Iterator[BufferedReader]:
    """An image file, for reading. BadImage for whatever the operating system refuses: that
    there is none, a folder or a pipe of its name, a disk or a network that fails meanwhile."""
    try:
        with open_regular(path) as file:
            yield file
    except FileNotFoundError:
        raise BadImage("missing", f"no such file; {instead(Path(path))}") from None
    except OSError as error:
        raise BadImage("unreadable", f"cannot be read: {os_error_words(error, reading=True)}") from None


def inspect_image(path: StrPath) -> ImageInfo:
    """Size, mode and orientation of a JPEG from its header, and whether its end is there. Nothing is decoded.

    BadImage says what is wrong and what to do. Damage behind the header shows only in `decode_fully`.
    """
    with open_image_file(path) as file:
        head = file.read(HEAD_BYTES)
        if not head:
            raise BadImage("empty", "empty file; restore it")
        if head[:2] != b"\xff\xd8":
            found, remedy = name_format(head)
            raise BadImage("not-jpeg", f"not a JPEG but {found}; {remedy}")
        _check_end(file)
        file.seek(0)
        return _read_header(file)


def decode_fully(path: StrPath) -> None:
    """Decode the whole file. BadImage("truncated") where the decoder gives up.

    Flipped bits that still decode, to blocks of wrong colour, are not found: libjpeg passes over them, and so do the
    loaders.
    """
    try:
        with open_image_file(path) as file, open_image(file, "JPEG") as image:
            load(image)
    except ImageError as error:
        raise _too_large(error) or BadImage("truncated", f"damaged or truncated ({error}); restore it") from None


def _read_header(file: BinaryIO) -> ImageInfo:
    try:
        image = open_image(file, "JPEG")
        turn = orientation(image, ORIENTATION_TAG)
    except ImageError as error:
        raise _too_large(error) or BadImage("truncated", f"cannot be read as a JPEG ({error}); restore it") from None
    if image.mode not in ("RGB", "L"):
        raise BadImage("cmyk", f"colours are {image.mode}; convert it to RGB")
    return ImageInfo(*image.size, image.mode, turn)


def _too_large(error: ImageError) -> BadImage | None:
    return BadImage("too-large", f"{error}: too large to decode; make it smaller") if error.too_large else None


def _check_end(file: BinaryIO) -> None:
    """Look for the end-of-image marker behind the start of the scan.

    Before that, an EXIF thumbnail may hold an end marker of its own; behind it the two bytes cannot occur in data.
    """
    size = os.fstat(file.fileno()).st_size
    scan = _scan_start(file)
    file.seek(max(scan, size - TAIL_BYTES))
    if b"\xff\xd9" not in file.read():
        raise BadImage("truncated", "truncated: its end-of-image marker is missing; restore it")


def _scan_start(file: BinaryIO) -> int:
    """Offset just behind the first start-of-scan marker, walking over the segments before it."""
    offset = 2
    for _ in range(MOST_SEGMENTS):
        file.seek(offset)
        segment = file.read(4)
        if len(segment) < 4:
            raise BadImage("truncated", "truncated before its image data; restore it")
        mark, code, length = struct.unpack(">BBH", segment)
        if mark != 0xFF:
            raise BadImage("truncated", "its header is damaged; restore it")
        if code == 0xFF:  # fill byte
            offset += 1
        elif code == 0xDA:
            return offset + 4
        else:
            if code in _FRAMES:
                _check_frame(code, file.read(1))
            offset += 2 + length
    raise BadImage("truncated", "its header is damaged; restore it")


def _check_frame(code: int, depth: bytes) -> None:
    """Raises BadImage for a JPEG that is whole, but that the loaders' decoder does not read."""
    if depth not in (b"", b"\x08"):
        raise BadImage("rare-jpeg", f"a JPEG of {depth[0]} bits a channel; save it with 8 bits")
    if code in (*_LOSSLESS, *_HIERARCHICAL):
        name = "lossless" if code in _LOSSLESS else "hierarchical"
        raise BadImage("rare-jpeg", f"a {name} JPEG; save it as an ordinary one (baseline or progressive)")
