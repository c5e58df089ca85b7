"""One photo in many forms of file, written by Pillow, tifffile and imagecodecs: pplfast, which reads them, writes none.

A form is of a picture: the photo, the photo in 256 colours, or the photo in grey. A lossless form holds its picture's
pixels and nothing else, so that all that is made of it must equal what is made of any other.
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pplfast.arrays import UInt8Array

PHOTO, COLOURS, GREY = "the photo", "256 colours", "grey"
OWN_FILE = "its own file"
ROWS, TILE = 16, 128  # of a TIFF's strips, and on a side of its tiles


@dataclass(frozen=True)
class Form:
    """encode: uint8 (H, W, 3), the pixels of its picture, to the bytes of a file; None: the photo's own file."""

    name: str
    picture: str
    suffix: str
    encode: Callable[[UInt8Array], bytes] | None
    lossless: bool = True

    @property
    def folder(self) -> str:
        """For its files: no other form has the same."""
        return "-".join(re.findall(r"\w+", f"{self.picture} {self.name}"))


def read_photo(path: Path) -> UInt8Array:
    """uint8 (H, W, 3), as stored, by Pillow."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _in_colours(pixels: UInt8Array) -> UInt8Array:
    return np.asarray(Image.fromarray(pixels).quantize(256).convert("RGB"))


def _in_grey(pixels: UInt8Array) -> UInt8Array:
    return np.repeat(np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None], 3, axis=2)


# From the photo's pixels, uint8 (H, W, 3), to the picture's, of the same kind.
PICTURES: dict[str, Callable[[UInt8Array], UInt8Array]] = {
    PHOTO: lambda pixels: pixels,
    COLOURS: _in_colours,
    GREY: _in_grey,
}


def _pillow(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _by_pillow(format: str, mode: str = "RGB", **options: Any) -> Callable[[UInt8Array], bytes]:
    return lambda pixels: _pillow(Image.fromarray(pixels).convert(mode), format, **options)


def _in_palette(format: str) -> Callable[[UInt8Array], bytes]:
    return lambda pixels: _pillow(_indexed(pixels), format)


def _indexed(pixels: UInt8Array) -> Image.Image:
    """The same pixels, of at most 256 colours, as a palette and indices into it."""
    colours, indices = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    image = Image.fromarray(indices.reshape(pixels.shape[:2]).astype(np.uint8), "P")
    image.putpalette(colours.tobytes())
    return image


def _tiff(pixels: NDArray[Any], **options: Any) -> bytes:
    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def _png_16(pixels: UInt8Array) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.png_encode(_deep(pixels)))


def _deep(pixels: UInt8Array) -> NDArray[np.uint16]:
    """The same over the full range of 16 bits."""
    return pixels.astype(np.uint16) * 257


def _planes(pixels: UInt8Array) -> UInt8Array:
    """(3, H, W)"""
    return np.ascontiguousarray(np.moveaxis(pixels, 2, 0))


# The first of each picture is what the others are compared with.
FORMS = (
    Form("PNG", PHOTO, ".png", _by_pillow("PNG")),
    Form("PNG 16 bit", PHOTO, ".png", _png_16),
    Form("PNG RGBA, opaque", PHOTO, ".png", _by_pillow("PNG", "RGBA")),
    Form("WebP lossless", PHOTO, ".webp", _by_pillow("WEBP", lossless=True)),
    Form("BMP", PHOTO, ".bmp", _by_pillow("BMP")),
    Form("PPM", PHOTO, ".ppm", _by_pillow("PPM")),
    Form("JPEG 2000 reversible", PHOTO, ".jp2", _by_pillow("JPEG2000", irreversible=False)),
    Form(
        "TIFF LZW, strips", PHOTO, ".tif",
        lambda pixels: _tiff(pixels, photometric="rgb", compression="lzw", rowsperstrip=ROWS),
    ),
    Form(
        "TIFF deflate, tiles", PHOTO, ".tif",
        lambda pixels: _tiff(pixels, photometric="rgb", compression="zlib", predictor=True, tile=(TILE, TILE)),
    ),
    Form("TIFF 16 bit", PHOTO, ".tif", lambda pixels: _tiff(_deep(pixels), photometric="rgb", compression="lzw")),
    Form(
        "TIFF planes", PHOTO, ".tif",
        lambda pixels: _tiff(_planes(pixels), photometric="rgb", planarconfig="separate"),
    ),
    Form(OWN_FILE, PHOTO, "", None, lossless=False),
    Form("JPEG quality 95", PHOTO, ".jpg", _by_pillow("JPEG", quality=95), lossless=False),
    Form("JPEG CMYK", PHOTO, ".jpg", _by_pillow("JPEG", "CMYK", quality=95), lossless=False),
    Form("WebP quality 90", PHOTO, ".webp", _by_pillow("WEBP", quality=90), lossless=False),
    Form("PNG RGB", COLOURS, ".png", _by_pillow("PNG")),
    Form("PNG palette", COLOURS, ".png", _in_palette("PNG")),
    Form("GIF", COLOURS, ".gif", _in_palette("GIF")),
    Form("PNG RGB", GREY, ".png", _by_pillow("PNG")),
    Form("PNG grey", GREY, ".png", _by_pillow("PNG", "L")),
    Form("TIFF grey 16 bit", GREY, ".tif", lambda pixels: _tiff(_deep(pixels[:, :, 0]))),
)  # fmt: skip
