"""Any image to 8-bit RGB without DALI, by rules that are the same everywhere (docs/how-to/images.md).

Grey becomes three equal channels, a palette its colours, CMYK is converted, transparent parts show white behind them,
and of several frames or pages the first is used. Values deeper than 8 bits are mapped linearly, from the data set's
range, or the full range of their whole numbers.
"""

from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pplfast.arrays import UInt8Array
from pplfast.data.bad_image import BadImage
from pplfast.data.image_info import IMAGECODECS, ImageInfo, Values, value_range
from pplfast.data.images import ImageFile, inspect_file, open_image_file
from pplfast.data.pillow import ImageError, load, open_image
from pplfast.data.tiff import read_tiff
from pplfast.errors import UserError
from pplfast.files import StrPath

BEHIND = 255  # of transparent parts
ROWS = 256  # that are mapped at a time: the arithmetic takes eight bytes a value


def read_pixels(path: ImageFile, values: Values | None = None) -> UInt8Array:
    """uint8 (H, W, 3) RGB as stored. values: the range of images deeper than 8 bits.

    UserError for a file that is no image, damaged or too large, and where there is no range for it.
    """
    try:
        return decode_image(path, values)
    except BadImage as error:
        raise UserError(f"{path}: {error}") from None


def decode_image(path: StrPath | ImageFile, values: Values | None = None) -> UInt8Array:
    """The same; BadImage says what is wrong and what to do."""
    with open_image_file(path) as file:
        return decode(file, inspect_file(file, path), values)


def decode(file: BinaryIO, info: ImageInfo, values: Values | None = None) -> UInt8Array:
    """uint8 (H, W, 3) of an open file. info: of its header.

    BadImage("range") where a deep image has no range, BadImage("truncated") where the decoder gives up.
    """
    low, high = value_range(info, values) if info.deep else (0.0, 255.0)
    return _rgb(_whole(file, info), info, low, high)


def stored_values(file: BinaryIO, info: ImageInfo) -> NDArray[Any]:
    """The colours of an open file in its own values, (H, W) or (H, W, 1 or 3). BadImage as `decode`."""
    pixels = _whole(file, info)
    return pixels if pixels.ndim == 2 else pixels[:, :, : _colours(pixels)]


def _whole(file: BinaryIO, info: ImageInfo) -> NDArray[Any]:
    file.seek(0)
    try:
        pixels = _stored(file, info)
    except ImageError as error:
        if error.too_large:
            raise BadImage("too-large", f"{error}: too large to decode; make it smaller") from None
        raise BadImage("truncated", f"damaged or truncated ({error}); restore it") from None
    if pixels.shape[:2] != (info.height, info.width):
        raise BadImage("truncated", "damaged: it has another size than its header says; restore it")
    return pixels


def _colours(pixels: NDArray[Any]) -> int:
    """Channels that are colours: the others are transparency, or infrared."""
    return 3 if pixels.shape[2] >= 3 else 1


def _stored(file: BinaryIO, info: ImageInfo) -> NDArray[Any]:
    if info.decoder == IMAGECODECS:
        return _deep(file, info)
    if info.format == "TIFF":
        pixels = read_tiff(file, info)
        if info.mode != "CMYK":
            return pixels
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels), "CMYK").convert("RGB"))
    with open_image(file, info.format) as image:
        load(image)
        if info.deep:
            return np.asarray(image)
        return np.asarray(image.convert("RGBA" if info.alpha else "RGB"))


def _deep(file: BinaryIO, info: ImageInfo) -> NDArray[Any]:
    """Of PNG and JPEG 2000, whose 16 bits Pillow cuts."""
    import imagecodecs

    read = imagecodecs.png_decode if info.format == "PNG" else imagecodecs.jpeg2k_decode
    try:
        return np.asarray(read(file.read()))
    except MemoryError:
        raise ImageError("its pixels do not fit the memory", too_large=True) from None
    except Exception as error:  # each codec has exceptions of its own
        raise ImageError(str(error).partition("\n")[0][:200] or type(error).__name__) from None


def _rgb(pixels: NDArray[Any], info: ImageInfo, low: float, high: float) -> UInt8Array:
    """Channels as stored -> RGB: deep values to 8 bits, transparent parts laid over white."""
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    alpha = pixels[:, :, -1] if info.alpha and pixels.shape[2] in (2, 4) else None
    colours = pixels[:, :, : _colours(pixels)]
    if info.deep:
        colours = to_8_bit(colours, low, high)
        if alpha is not None:
            alpha = to_8_bit(alpha, 0.0, 2.0**info.bits - 1 if info.sample == "uint" else 1.0)
    if colours.dtype == bool:
        colours = colours.astype(np.uint8) * 255
    if alpha is not None:
        share = alpha[:, :, None].astype(np.uint16)
        colours = ((colours * share + BEHIND * (255 - share) + 127) // 255).astype(np.uint8)
    if info.inverted:
        colours = 255 - colours
    return np.ascontiguousarray(np.broadcast_to(colours, (*colours.shape[:2], 3)), np.uint8)


def to_8_bit(pixels: NDArray[Any], low: float, high: float) -> UInt8Array:
    """Linear from low -> 0 to high -> 255, rounded; what lies outside is cut off, and no number is low."""
    scale = 255.0 / (high - low)
    if pixels.dtype == np.uint16:  # a table is faster than arithmetic on each pixel
        steps = np.arange(65536, dtype=np.float64)
        table = np.clip(np.rint((steps - low) * scale), 0, 255).astype(np.uint8)
        return np.asarray(table[pixels])
    mapped = np.empty(pixels.shape, np.uint8)
    for top in range(0, len(pixels), ROWS):
        part = np.nan_to_num(pixels[top : top + ROWS].astype(np.float64), nan=low, posinf=high, neginf=low)
        mapped[top : top + ROWS] = np.clip(np.rint((part - low) * scale), 0, 255)
    return mapped
