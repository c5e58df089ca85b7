"""May this image be used? Decided by its header, before anything is decoded."""

from pathlib import Path

from PIL import Image, ImageFile

from pplfast.data.images import BadImage, ImageInfo, inspect_image
from pplfast.files import StrPath
from pplfast.jobs.job import SMALLEST
from pplfast.jobs.memory import too_large

DEPTH = {"I;16": "16-bit", "I;16B": "16-bit", "I": "32-bit", "F": "floating-point"}
UPRIGHT = 1


def screen(path: StrPath, rotated: bool, most_pixels: int, smallest: int = SMALLEST) -> ImageInfo:
    """The header of an image that can be used; BadImage with `kind` and a reason for all others.

    rotated: accept images that EXIF turns. They are used as stored; whether that is what a reader of a label sees
    depends on the reader.
    most_pixels: what the memory budget allows. smallest: pixels on the short side.
    """
    try:
        info = inspect_image(path)
    except BadImage as error:
        if error.kind == "not-jpeg":
            raise _name(Path(path), error) from None
        raise
    if info.width * info.height > most_pixels:
        raise too_large(info.width, info.height, most_pixels)
    if min(info.width, info.height) < smallest:
        raise BadImage(
            "too-small",
            f"{info.width} x {info.height} pixels: too small for a map (at least {smallest} "
            "on each side); take it off the list",
        )
    if info.orientation != UPRIGHT and not rotated:
        raise BadImage(
            "rotated",
            f"turned by EXIF (orientation {info.orientation}): readers disagree about which way "
            "is up; store it upright, or label it as stored with --rotated",
        )
    return info


def _name(path: Path, error: BadImage) -> BadImage:
    """What the file is instead of a JPEG, as far as Pillow knows it."""
    try:
        with Image.open(path) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                return BadImage(
                    "animated",
                    f"an animated {image.format} of {frames} frames; save the one that is meant as a JPEG",
                )
            if _depth(image):
                return BadImage("depth", f"a {_depth(image)} {image.format}; save it as a JPEG of 8 bits")
    except Exception:  # whatever Pillow makes of it, the first bytes have already named it
        return error
    return error


def _depth(image: ImageFile.ImageFile) -> str:
    if image.mode in DEPTH:
        return DEPTH[image.mode]
    raw = str(image.tile[0][3] if image.tile else "")  # the mode in the file: Pillow reads 16-bit RGB as 8-bit
    return "16-bit" if "16" in raw else ""
