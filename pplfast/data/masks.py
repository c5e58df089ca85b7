"""Masks: PNG files whose pixel values are class ids, 0 background and 255 ignore."""

from functools import cache

import numpy as np
from PIL import Image

from pplfast.arrays import UInt8Array
from pplfast.errors import UserError
from pplfast.files import StrPath, atomic_path


@cache
def voc_palette() -> bytes:
    """The 256 RGB colours of VOC's masks, 768 bytes: the bits of an id, spread over the high bits of r, g, b."""
    palette = np.zeros((256, 3), np.uint8)
    ids = np.arange(256)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return palette.tobytes()


def read_mask(path: StrPath) -> UInt8Array:
    """Class ids as uint8 (H, W). The stored values are taken as they are: palette colours do not matter.

    UserError for a file that is missing, damaged, or holds colours instead of ids.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L"):
                raise UserError(f"{path}: a mask of mode {image.mode}; save class ids as a palette or 8-bit grey PNG")
            return np.array(image)
    except FileNotFoundError:
        raise UserError(f"{path}: no such mask; restore it, or check --masks") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not a readable PNG mask ({error}); restore it") from None


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
