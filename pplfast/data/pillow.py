"""Image files from strangers through Pillow: only the formats that are asked for, and no more memory than they hold.

Pillow guesses the format from the content, and some of its formats hand the file to other programs; and it makes room
for the pixels that a header claims before it looks for them.
"""

import threading
import warnings
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from pplfast.reading import LARGEST_IMAGE, file_size

# A file of a few bytes may have this many pixels. Beyond, each needs its share of the file: deflate makes at most
# 1032 bytes of one, and 512 pixels in one byte are the best that a JPEG without a single detail does.
FREE_PIXELS = 2**23
PIXELS_PER_BYTE = 1032

# What is odd in an EXIF block, which convert() and draft() read too, is no matter; in whichever thread.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

_warnings = threading.Lock()  # the list of filters is the process's, and threads read images


class ImageError(Exception):
    """The file cannot be read as an image. too_large: because it has too many pixels."""

    def __init__(self, message: str, too_large: bool = False) -> None:
        super().__init__(message)
        self.too_large = too_large


def open_image(file: BinaryIO, *formats: str) -> Image.Image:
    """The image of an open file, its header read and nothing decoded; formats in Pillow's words, as "JPEG".

    ImageError for other formats, for a damaged header, and for more pixels than can be decoded or the file can hold.
    """
    size = file_size(file)
    try:
        check_pixels(*_webp_size(file), size)  # whose decoder makes room for them when it opens the file
        with _warnings, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of it is an error below
            image = Image.open(file, formats=formats)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("its header is damaged, or it is of another format") from None
    except Image.DecompressionBombError as error:
        raise ImageError(str(error).rstrip("."), too_large=True) from None
    except Exception as error:  # Pillow promises no exceptions for damaged files, and raises many
        raise _explained(error) from None
    check_pixels(image.width, image.height, size)
    return image


def check_pixels(width: int, height: int, size: int) -> None:
    """ImageError for more pixels than are decoded, or than a file of `size` bytes can hold."""
    pixels = width * height
    if pixels > LARGEST_IMAGE or pixels > FREE_PIXELS + PIXELS_PER_BYTE * size:
        where = "" if pixels > LARGEST_IMAGE else f", which {size} bytes cannot hold"
        raise ImageError(f"{width} x {height} pixels{where}", too_large=True)


def _webp_size(file: BinaryIO) -> tuple[int, int]:
    """(width, height) by the header (RFC 9649, sections 2.5 to 2.7); (0, 0) for another format."""
    head = file.read(30)
    file.seek(0)
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < 30:
        return 0, 0
    if head[12:16] == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF


def orientation(image: Image.Image, tag: int) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) where there is none or the value has no meaning."""
    try:
        with _warnings, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = image.getexif().get(tag, 1)
    except Exception as error:  # as above
        raise _explained(error) from None
    return int(value) if isinstance(value, int | float) and value in range(1, 9) else 1


def load(image: Image.Image) -> None:
    """Decode the pixels. ImageError where the decoder gives up."""
    try:
        image.load()
    except MemoryError:
        raise ImageError(f"{image.width} x {image.height} pixels do not fit the memory", too_large=True) from None
    except Exception as error:  # as above
        raise _explained(error) from None


def _explained(error: Exception) -> ImageError:
    """OSErrors of the system's own are raised as they are: the disk's fault is not the file's. Pillow's have no
    number."""
    if isinstance(error, OSError) and error.errno:
        raise error
    return ImageError(str(error) or type(error).__name__)
