"""Whether a JPEG is whole and of a kind that is decoded: its segments, read without decoding them."""

import struct
from typing import BinaryIO

from pplfast.data.bad_image import BadImage
from pplfast.reading import file_size

TAIL_BYTES = 65536  # the end-of-image marker is looked for in this much of the file's end
MOST_SEGMENTS = 10_000  # before the image data; real files have a few dozen
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # start-of-frame codes: how the pixels are coded
_LOSSLESS = (0xC3, 0xCB)
_HIERARCHICAL = (0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF)


def check_jpeg(file: BinaryIO) -> None:
    """Raises BadImage for a file that is cut off, and for a kind of JPEG that the decoders do not read.

    The end-of-image marker is looked for behind the start of the scan: before that, an EXIF thumbnail may hold an end
    marker of its own; behind it the two bytes cannot occur in data.
    """
    size = file_size(file)
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
    """Raises BadImage for a JPEG that is whole, but that the decoders do not read."""
    if depth not in (b"", b"\x08"):
        raise BadImage("rare-jpeg", f"a JPEG of {depth[0]} bits a channel; save it with 8 bits")
    if code in (*_LOSSLESS, *_HIERARCHICAL):
        name = "lossless" if code in _LOSSLESS else "hierarchical"
        raise BadImage("rare-jpeg", f"a {name} JPEG; save it as an ordinary one (baseline or progressive)")
