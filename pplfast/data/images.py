"""What an image file says about itself, read without decoding it, and whether it is whole."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pplfast.data.bad_image import BadImage
from pplfast.data.formats import HEAD_BYTES, format_of, name_format
from pplfast.data.headers import read_header
from pplfast.data.image_info import ImageInfo, Values, value_range
from pplfast.data.names import instead
from pplfast.data.pillow import ImageError
from pplfast.data.stored import Fetched, ImageFile, Stored
from pplfast.data.tiff import read_tiff_header
from pplfast.errors import os_error_words
from pplfast.files import StrPath
from pplfast.reading import open_regular
from pplfast.storage import StorageError

__all__ = ["BadImage", "ImageFile", "ImageInfo", "inspect_file", "inspect_image", "open_image_file", "usable_image"]

_BY_SUFFIX = {".png": "PNG", ".webp": "WebP", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP", ".gif": "GIF",
              ".jp2": "JPEG 2000", ".pgm": "PGM", ".ppm": "PPM"}  # fmt: skip


@contextmanager
def open_image_file(path: StrPath | ImageFile) -> Iterator[BinaryIO]:
    """An image file, for reading. BadImage for whatever the operating system or the store refuses: that
    there is none, a folder or a pipe of its name, a disk or a network that fails meanwhile."""
    if isinstance(path, Stored | Fetched):
        yield io.BytesIO(read_stored(path))
        return
    try:
        with open_regular(path) as file:
            yield file
    except FileNotFoundError:
        raise BadImage("missing", f"no such file; {instead(Path(path))}") from None
    except OSError as error:
        raise BadImage("unreadable", f"cannot be read: {os_error_words(error, reading=True)}") from None


def read_stored(image: Stored | Fetched) -> bytes:
    """The bytes of a part of a shard. BadImage("unreadable"), which a later run tries again, where the shard is gone or
    cannot be reached."""
    try:
        return image.read()
    except StorageError as error:
        raise BadImage("unreadable", str(error)) from None


def inspect_image(path: StrPath | ImageFile) -> ImageInfo:
    """Size, mode, depth, orientation and decoder of an image from its header, and whether its end is there.

    BadImage says what is wrong and what to do. Nothing is decoded: damage behind the header shows only in
    `decoding.decode`.
    """
    with open_image_file(path) as file:
        return inspect_file(file, path)


def usable_image(path: StrPath | ImageFile, values: Values | None) -> ImageInfo:
    """The same, and BadImage("range") where the data set has no range for so deep an image."""
    info = inspect_image(path)
    if info.deep:
        value_range(info, values)
    return info


def inspect_file(file: BinaryIO, path: StrPath | ImageFile) -> ImageInfo:
    """`inspect_image` of an open file. path: for its suffix, which says what it should be."""
    head = file.read(HEAD_BYTES)
    file.seek(0)
    if not head:
        raise BadImage("empty", "empty file; restore it")
    format = format_of(head)
    if not format:
        found, remedy = name_format(head)
        meant = _BY_SUFFIX.get(os.path.splitext(str(path))[1].lower(), "JPEG")
        raise BadImage("not-image", f"not a {meant} but {found}; {remedy}")
    try:
        return read_tiff_header(file) if format == "TIFF" else read_header(file, format)
    except ImageError as error:
        if error.too_large:
            raise BadImage("too-large", f"{error}: too large to decode; make it smaller") from None
        name = {"JPEG2000": "JPEG 2000", "PPM": "PNM"}.get(format, format)
        raise BadImage("truncated", f"cannot be read as a {name} ({error}); restore it") from None
