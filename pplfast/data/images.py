"""What a JPEG file says about itself, read without decoding it, and whether it is whole."""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pplfast.data.pillow import ImageError, load, open_image, orientation
from pplfast.data.voc import OTHER_SUFFIXES
from pplfast.files import StrPath
from pplfast.reading import open_regular

TAIL_BYTES = 65536  # the end-of-image marker is looked for in this much of the file's end
ORIENTATION_TAG = 0x0112
MOST_SEGMENTS = 10_000  # before the image data; real files have a few dozen
_SIGNATURES = {
    b"\x89PNG": "a PNG", b"GIF8": "a GIF", b"RIFF": "a WebP", b"BM": "a BMP", b"II*\0": "a TIFF", b"MM\0*": "a TIFF",
    b"%PDF": "a PDF", b"<": "an HTML or XML page",
}  # fmt: skip


@dataclass(frozen=True)
class ImageInfo:
    width: int  # as stored: an EXIF orientation is not applied
    height: int
    mode: str  # "RGB", or "L" for grey
    orientation: int  # EXIF; 1 is upright


class BadImage(Exception):
    """A file that cannot be used as an image. `kind` is one of missing, empty, not-jpeg, cmyk, truncated,
    too-large."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


def inspect_image(path: StrPath) -> ImageInfo:
    """Size, mode and orientation of a JPEG from its header, and whether its end is there. Nothing is decoded.

    BadImage says what is wrong and what to do. Damage behind the header shows only in `decode_fully`.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            head = file.read(16)
            if not head:
                raise BadImage("empty", "empty file; restore it")
            if head[:2] != b"\xff\xd8":
                found = next((name for start, name in _SIGNATURES.items() if head.startswith(start)), "something else")
                raise BadImage("not-jpeg", f"not a JPEG but {found}; convert it to JPEG")
            _check_end(file)
            file.seek(0)
            return _read_header(file)
    except FileNotFoundError:
        raise BadImage("missing", f"no such file; {_instead(path)}") from None
    except OSError as error:
        raise BadImage("missing", f"cannot be read ({error.strerror}); restore it") from None


def decode_fully(path: StrPath) -> None:
    """Decode the whole file. BadImage("truncated") where the decoder gives up.

    Flipped bits that still decode, to blocks of wrong colour, are not found: libjpeg passes over them, and so do the
    loaders.
    """
    try:
        with open_regular(path) as file, open_image(file, "JPEG") as image:
            load(image)
    except ImageError as error:
        raise _too_large(error) or BadImage("truncated", f"damaged or truncated ({error}); restore it") from None
    except OSError as error:
        raise BadImage("missing", f"cannot be read ({error.strerror}); restore it") from None


def _instead(path: Path) -> str:
    """What to do about a file that is missing: often it is there in another format."""
    others = (path.with_name(f"{path.stem}{suffix}") for suffix in OTHER_SUFFIXES)
    other = next((other.name for other in others if os.path.isfile(other)), None)
    return f"convert {other} to JPEG" if other else "restore it, or take it off the list"


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
    scan = _scan_start(file, size)
    file.seek(max(scan, size - TAIL_BYTES))
    if b"\xff\xd9" not in file.read():
        raise BadImage("truncated", "truncated: its end-of-image marker is missing; restore it")


def _scan_start(file: BinaryIO, size: int) -> int:
    """Offset just behind the first start-of-scan marker, walking over the segments before it."""
    offset = 2
    for _ in range(MOST_SEGMENTS):
        if offset + 4 > size:
            raise BadImage("truncated", "truncated before its image data; restore it")
        file.seek(offset)
        mark, code, length = struct.unpack(">BBH", file.read(4))
        if mark != 0xFF:
            raise BadImage("truncated", "its header is damaged; restore it")
        if code == 0xFF:  # fill byte
            offset += 1
        elif code == 0xDA:
            return offset + 4
        else:
            offset += 2 + length
    raise BadImage("truncated", "its header is damaged; restore it")
