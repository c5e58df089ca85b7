"""Masks: PNG files whose pixel values are class ids, 0 background and 255 ignore."""

import io
from functools import cache
from typing import BinaryIO

import numpy as np
from PIL import Image

from pplfast.arrays import UInt8Array
from pplfast.data.pillow import ImageError, load, open_image
from pplfast.data.stored import Stored
from pplfast.errors import UserError
from pplfast.files import StrPath, atomic_path
from pplfast.reading import open_regular
from pplfast.storage import StorageError

SUFFIX = ".png"


@cache
def voc_palette() -> bytes:
    """The 256 RGB colours of VOC's masks, 768 bytes: the bits of an id, spread over the high bits of r, g, b."""
    palette = np.zeros((256, 3), np.uint8)
    ids = np.arange(256)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return palette.tobytes()


def read_mask(path: StrPath | Stored) -> UInt8Array:
    """Class ids as uint8 (H, W). The stored values are taken as they are: palette colours do not matter.

    UserError for a file that is missing, damaged, no PNG, or holds colours instead of ids, and for one of more pixels
    than it can hold.
    """
    try:
        with _open(path) as file, open_image(file, "PNG") as image:
            if image.mode not in ("P", "L"):
                raise UserError(f"{path}: a mask of mode {image.mode}; save class ids as a palette or 8-bit grey PNG")
            load(image)
            return np.array(image)
    except FileNotFoundError:
        raise UserError(f"{path}: no such mask; restore it, or check --masks") from None
    except ImageError as error:
        remedy = "too large to decode; make it smaller" if error.too_large else "restore it"
        raise UserError(f"{path}: not a readable PNG mask ({error}); {remedy}") from None
    except StorageError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); restore it") from None


def _open(path: StrPath | Stored) -> BinaryIO:
    return io.BytesIO(path.read()) if isinstance(path, Stored) else open_regular(path)


def mask_image(mask: UInt8Array) -> Image.Image:
    """Class ids, uint8 (H, W), as a palette image in VOC's colours."""
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise ValueError(f"a mask must be uint8 (H, W), not {mask.dtype} {mask.shape}")
    image = Image.fromarray(mask)
    image.putpalette(voc_palette())
    return image


def write_mask(path: StrPath, mask: UInt8Array) -> None:
    """Save class ids, uint8 (H, W), as a PNG with VOC's palette; readers never see half a file."""
    image = mask_image(mask)
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")
