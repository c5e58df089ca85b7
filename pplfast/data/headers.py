"""Headers of images of other formats than TIFF, by Pillow and a few bytes of our own reading. Nothing is decoded."""

import struct
from typing import BinaryIO

from PIL import Image

from pplfast.data.bad_image import BadImage
from pplfast.data.image_info import DALI, IMAGECODECS, PILLOW, ImageInfo
from pplfast.data.jpeg import TAIL_BYTES, check_jpeg
from pplfast.data.pillow import open_image, orientation
from pplfast.reading import file_size

ORIENTATION_TAG = 0x0112
_PNG_MODES = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}  # by colour type
_WITH_ALPHA = ("LA", "RGBA", "PA", "La", "RGBa")
_COLOURS = ("1", "L", "P", "RGB", "CMYK", *_WITH_ALPHA)
# What DALI decodes to the same pixels as Pillow. It also decodes JPEG 2000, but a damaged one ends its process (2.4.0).
_PLAIN = {"JPEG": ("L", "RGB"), "PNG": ("1", "L", "P", "RGB"), "WEBP": ("RGB",), "BMP": ("RGB",)}


def read_header(file: BinaryIO, format: str) -> ImageInfo:
    """format: in Pillow's words, by the file's first bytes. ImageError for a header that is damaged, BadImage for a
    file that is cut off or of channels that are no colours."""
    head = file.read(64)
    file.seek(0)
    if format == "JPEG":
        check_jpeg(file)
        file.seek(0)
    image = open_image(file, format)
    turn = orientation(image, ORIENTATION_TAG)
    bits, mode = _depth(head, image, file)
    if mode not in _COLOURS:
        raise BadImage("channels", f"its channels are {mode}, which are no colours; save it as RGB or grey")
    _check_end(file, head, format)
    frames = 2 if getattr(image, "is_animated", False) and format not in ("JPEG", "MPO") else 1
    alpha = mode in _WITH_ALPHA or "transparency" in image.info
    plain = mode in _PLAIN.get(format, ()) and not alpha and frames == 1
    if bits > 8:
        decoder = PILLOW if format == "PPM" else IMAGECODECS
    else:
        decoder = DALI if plain and (format != "BMP" or _is_plain_bmp(head)) else PILLOW
    return ImageInfo(*image.size, mode, turn, format, bits, "uint", frames, alpha, decoder=decoder)


def _depth(head: bytes, image: Image.Image, file: BinaryIO) -> tuple[int, str]:
    """Bits of a channel, 8 at least, and the mode: Pillow shows 16-bit colours as 8-bit ones."""
    mode = image.mode
    if image.format == "PNG" and head[24] == 16:
        return 16, _PNG_MODES.get(head[25], mode)
    if image.format == "JPEG2000":
        bits = _jpeg2000_bits(file)
        return bits, "L" if mode.startswith("I") else mode
    if image.format == "PPM" and mode == "RGB" and _largest(image) > 255:
        raise BadImage("channels", "a PPM of 16 bits, of which no library here reads all; save it as PNG or TIFF")
    if mode in ("I", "I;16", "I;16B"):  # of a PGM
        return 16, "L"
    return 8, mode


def _largest(image: Image.Image) -> int:
    """The value that a PNM has for white."""
    tiles = getattr(image, "tile", ())
    arguments = tiles[0][3] if tiles else None
    return int(arguments[1]) if isinstance(arguments, tuple) else 255


def _jpeg2000_bits(file: BinaryIO) -> int:
    """Of the deepest channel, 8 at least: from the SIZ segment of the codestream (ISO/IEC 15444-1, A.5.1)."""
    file.seek(0)
    head = file.read(TAIL_BYTES)
    file.seek(0)
    at = head.find(b"\xff\x4f\xff\x51")
    if at < 0 or len(head) < at + 43:
        return 8
    count = int.from_bytes(head[at + 40 : at + 42])
    depths = [1 + (value & 0x7F) for value in head[at + 42 : at + 42 + 3 * min(count, 4) : 3]]
    return max([8, *depths])


def _is_plain_bmp(head: bytes) -> bool:
    """24 bits a pixel without compression."""
    return len(head) >= 34 and struct.unpack_from("<HI", head, 28) == (24, 0)


def _check_end(file: BinaryIO, head: bytes, format: str) -> None:
    """Raises BadImage where the file is visibly shorter than it says, or its end is not there."""
    size = file_size(file)
    cut = False
    if format == "PNG":
        file.seek(max(0, size - TAIL_BYTES))
        cut = b"IEND" not in file.read()
    elif format == "WEBP":
        cut = int.from_bytes(head[4:8], "little") + 8 > size + 1  # the padding byte may be left out
    elif format == "BMP" and _is_plain_bmp(head):
        offset, width, height = struct.unpack_from("<I4xii", head, 10)
        cut = offset + (3 * width + 3) // 4 * 4 * abs(height) > size
    if cut:
        raise BadImage("truncated", "truncated: its end is missing; restore it")
