"""Pictures of the report: photographs, CAMs over them, label maps; and as data URIs."""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image

from pplfast.arrays import Float32Array, UInt8Array
from pplfast.data.decoding import decode
from pplfast.data.image_info import Values
from pplfast.data.images import BadImage, ImageFile, inspect_file, open_image_file
from pplfast.data.pillow import open_image
from pplfast.data.stored import Stored
from pplfast.errors import UserError, explain_os_error
from pplfast.reading import open_regular

MAX_PIXELS = 80_000_000  # of a stored image or label: what is decoded of a small file is bounded
MAX_DECODED = 128 * 2**20  # bytes
PROGRESSIVE_BYTES = 6  # a pixel: libjpeg holds all coefficients of such a file, as int16
THUMBNAIL = 288  # pixels of the long side: sharp at the size shown, also on dense screens
QUALITY = 78  # of the JPEG
_HEAT = colormaps["turbo"](np.arange(256))[:, :3].astype(np.float32) * 255


@dataclass(frozen=True)
class Photo:
    """A photograph, reduced. pixels: uint8 (H, W, 3); width, height: as stored, which is what labels and CAMs have."""

    pixels: UInt8Array
    width: int
    height: int


def read_photo(path: Path | Stored, values: Values | None, side: int = THUMBNAIL) -> Photo:
    """values: the data set's range of deep images. side: pixels of the long side, at most.

    UserError for a file that is no whole image, or would need more memory than MAX_DECODED.
    """
    try:
        with open_image_file(path) as file:
            info = inspect_file(file, path)
            _check_pixels(path, info.width, info.height)
            if info.format != "JPEG":
                if 3 * info.width * info.height > MAX_DECODED:
                    raise UserError(f"{path}: too large for a picture; make it smaller")
                whole = Image.fromarray(decode(file, info, values))
                whole.thumbnail((side, side), Image.Resampling.LANCZOS)
                return Photo(np.asarray(whole), info.width, info.height)
    except BadImage as problem:
        raise UserError(f"{path}: {problem}") from None
    with _opened(path, "JPEG") as image:
        if image.info.get("progressive") and PROGRESSIVE_BYTES * info.width * info.height > MAX_DECODED:
            raise UserError(f"{path}: too large for a picture, as it is progressive; save it as a baseline JPEG")
        image.draft("RGB", (2 * side, 2 * side))  # lets the JPEG decoder skip detail
        photo = image.convert("RGB")  # as stored, like the loader: CAMs and labels belong to these pixels
        photo.thumbnail((side, side), Image.Resampling.LANCZOS)
    return Photo(np.asarray(photo), info.width, info.height)


def label_map(path: Path | Stored, photo: Photo) -> UInt8Array:
    """Class values of the label PNG of `photo`, reduced without mixing them; uint8 (H, W) of its `pixels`.

    UserError for a file that is no PNG of class ids, or not of the photograph's size: nothing is decoded then.
    """
    height, width = photo.pixels.shape[:2]
    with _opened(path, "PNG") as image:
        if image.mode not in ("P", "L"):
            raise UserError(f"{path}: a PNG of mode {image.mode}, not of class ids; make it again")
        if image.size != (photo.width, photo.height):
            raise UserError(
                f"{path}: {image.width} x {image.height}, while its image is {photo.width} x {photo.height}; "
                "make it again"
            )
        return np.asarray(image.resize((width, height), Image.Resampling.NEAREST))


def _check_pixels(path: ImageFile, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UserError(f"{path}: {width} x {height} is too large for a picture; make it smaller")


@contextmanager
def _opened(path: Path | Stored, kind: str) -> Iterator[Image.Image]:
    """The picture, its header read. What goes wrong in here, as Pillow raises it for a damaged file, is a UserError."""
    try:
        opened = open_image_file(path) if isinstance(path, Stored) else open_regular(path)
        with opened as file, open_image(file, kind) as image:
            yield image
    except UserError:
        raise
    except Exception as error:  # Pillow promises no exceptions for damaged files, and raises many
        if isinstance(error, OSError) and error.errno:  # the system's; Pillow's own have no number
            raise explain_os_error(error, str(path), reading=True) from None
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: not a readable picture ({reason}); restore it or make it again") from None


def heat_over(photo: UInt8Array, cam: Float32Array) -> UInt8Array:
    """`cam` (values 0 to 1, any size) in colours over the grey photograph; uint8 (H, W, 3)."""
    height, width = photo.shape[:2]
    resized = Image.fromarray(cam.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    heat: Float32Array = np.clip(np.asarray(resized), 0, 1)
    grey = photo.astype(np.float32).mean(axis=2, keepdims=True)
    strength = (0.15 + 0.55 * heat)[..., None]
    blend: Float32Array = (1 - strength) * grey + strength * _HEAT[(heat * 255).astype(np.uint8)]
    return blend.astype(np.uint8)


def data_uri(pixels: UInt8Array) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
