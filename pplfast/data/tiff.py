"""TIFF through tifffile: of scanners, microscopes and satellites, in depths and layouts that Pillow does not read.

The first page is the image. Its pixels are as stored: no orientation is applied.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pplfast.data.bad_image import BadImage
from pplfast.data.image_info import DALI, TIFFFILE, ImageInfo
from pplfast.data.pillow import ImageError, check_pixels
from pplfast.reading import file_size

_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _SEPARATED, _YCBCR = 0, 1, 2, 3, 5, 6
_JPEG = 7
_LOSSLESS = (1, 5, 8, 32946)  # none, LZW, deflate under its two numbers
_ASSOCIATED, _UNASSOCIATED = _ALPHA = (1, 2)  # of ExtraSamples
_SAMPLES = {1: "uint", 2: "int", 3: "float"}


def read_tiff_header(file: BinaryIO) -> ImageInfo:
    """ImageError for a header that is damaged, BadImage for a file that is cut off, and for channels that are no
    colours."""
    size = file_size(file)
    with _first_page(file) as page, _explained():
        several = _has_second(page)
        bits, sample = _depth(page)
        mode, alpha = _mode(page)
        check_pixels(page.imagewidth, page.imagelength, size)
        if page.imagewidth < 1 or page.imagelength < 1:
            raise ImageError("it has no pixels")
        if page.is_tiled:
            check_pixels(page.tilewidth, page.tilelength, size)
        _check_end(page, size)
        tag = page.tags.get("Orientation")
        turn = tag.value if tag is not None and tag.value in range(1, 9) else 1
        contiguous = page.samplesperpixel == 1 or page.planarconfig == 1
        plain = (
            page.photometric in (_MIN_IS_BLACK, _RGB)
            and (page.samplesperpixel, mode) in ((1, "L"), (3, "RGB"))
            and page.bitspersample == 8
            and sample == "uint"
            and contiguous
            and page.compression in _LOSSLESS
        )
        return ImageInfo(
            int(page.imagewidth),
            int(page.imagelength),
            mode,
            int(turn),
            "TIFF",
            bits,
            sample,
            1 + several,
            alpha,
            page.photometric == _MIN_IS_WHITE,
            DALI if plain else TIFFFILE,
        )


def read_tiff(file: BinaryIO, info: ImageInfo) -> NDArray[Any]:
    """(H, W) or (H, W, channels) in the file's own values, of fewer than 8 bits brought to 8; palettes are applied.

    info: of `read_tiff_header`, which has refused all that is larger than the file can hold.
    """
    with _first_page(file) as page, _explained():
        found = np.asarray(page.asarray())
        if page.planarconfig == 2 and page.samplesperpixel > 1:
            found = np.moveaxis(found.reshape(page.samplesperpixel, info.height, info.width), 0, -1)
        pixels: NDArray[Any] = found.reshape(info.height, info.width, page.samplesperpixel)
        if page.photometric == _PALETTE:
            return _coloured(pixels[:, :, 0], page)
        if info.mode in ("1", "L"):
            pixels = pixels[:, :, 0]
        if info.alpha and int(page.extrasamples[-1]) == _ASSOCIATED:
            pixels = _unassociated(pixels, info)
        if page.bitspersample < 8:
            pixels = (pixels.astype(np.uint16) * 255 // (2**page.bitspersample - 1)).astype(np.uint8)
        return pixels


def _unassociated(pixels: NDArray[Any], info: ImageInfo) -> NDArray[Any]:
    """The colours without the alpha that they are multiplied with, and the alpha."""
    opaque = 2.0**info.bits - 1 if info.sample == "uint" else 1.0
    colours, alpha = pixels[:, :, :-1].astype(np.float64), pixels[:, :, -1:]
    seen = np.divide(colours * opaque, alpha, out=np.zeros_like(colours), where=alpha > 0)
    whole = np.minimum(seen, opaque) if info.sample == "float" else np.rint(np.minimum(seen, opaque))
    return np.concatenate([whole.astype(pixels.dtype), alpha], axis=2)


def _coloured(indices: NDArray[Any], page: Any) -> NDArray[Any]:
    """The palette's colours, uint8; it holds 16 bits, of which some writers fill the lower 8 alone."""
    colours = np.asarray(page.colormap, np.uint16)
    colours = (colours >> 8 if colours.max(initial=0) > 255 else colours).astype(np.uint8)
    coloured: NDArray[Any] = colours.T[np.minimum(indices, colours.shape[1] - 1)]
    return coloured


def _mode(page: Any) -> tuple[str, bool]:
    """The mode, and whether parts are transparent. Raises BadImage for channels that are no colours."""
    channels, extra = page.samplesperpixel, tuple(page.extrasamples or ())
    alpha = bool(extra) and int(extra[-1]) in _ALPHA
    if getattr(page, "imagedepth", 1) != 1:
        raise BadImage("channels", "a volume of several layers; save each layer as an image")
    if page.photometric == _PALETTE and channels == 1:
        return "P", False
    if page.photometric == _SEPARATED and channels == 4 and page.bitspersample == 8:
        return "CMYK", False
    colours = (_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB)
    if page.photometric in colours or (page.photometric == _YCBCR and page.compression == _JPEG):
        known = {1: "L", 2: "LA" if alpha else "", 3: "RGB", 4: "RGBA" if alpha else "RGBX"}  # X: infrared, ...
        if mode := known.get(channels, ""):
            return "1" if page.bitspersample == 1 and mode == "L" else mode, alpha
    what = f"{channels} channels that are no colours (photometric {int(page.photometric)})"
    raise BadImage("channels", f"{what}; save it as RGB or grey")


def _depth(page: Any) -> tuple[int, str]:
    sample = _SAMPLES.get(int(page.sampleformat), "")
    if not sample or not isinstance(page.bitspersample, int) or page.dtype is None:
        raise BadImage("channels", "holds complex numbers or bits of different channels; save it as RGB or grey")
    bits = 8 if page.photometric == _PALETTE else page.bitspersample  # of the colours, not of their numbers
    return max(8, bits), sample


def _check_end(page: Any, size: int) -> None:
    ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False)]
    if not ends or max(ends) > size:
        raise BadImage("truncated", "truncated: parts of its pixels are missing; restore it")


def _has_second(page: Any) -> bool:
    try:
        page.parent.pages[1]
    except IndexError:
        return False
    return True


@cache
def _tifffile() -> ModuleType:
    """Its import takes a while. It logs what is odd in a file, which is no matter or an error of ours."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    return tifffile


@contextmanager
def _first_page(file: BinaryIO) -> Iterator[Any]:
    with _explained():
        tiff = _tifffile().TiffFile(file, name="image")
        page = tiff.pages[0]
    yield page


@contextmanager
def _explained() -> Iterator[None]:
    """Whatever tifffile raises for a damaged file is an ImageError; the disk's faults stay what they are."""
    try:
        yield
    except (BadImage, ImageError):
        raise
    except MemoryError:
        raise ImageError("its pixels do not fit the memory", too_large=True) from None
    except Exception as error:  # it promises no exceptions for damaged files
        if isinstance(error, OSError) and error.errno:
            raise
        raise ImageError(str(error).partition("\n")[0][:200] or type(error).__name__) from None
