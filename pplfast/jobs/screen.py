"""May this image be used? Decided by its header, before anything is decoded."""

from pplfast.data.image_info import ImageInfo, Values
from pplfast.data.images import BadImage, ImageFile, usable_image
from pplfast.files import StrPath
from pplfast.jobs.job import SMALLEST
from pplfast.jobs.memory import too_large

UPRIGHT = 1


def screen(
    path: StrPath | ImageFile, rotated: bool, most_pixels: int, smallest: int = SMALLEST, values: Values | None = None
) -> ImageInfo:
    """The header of an image that can be used; BadImage with `kind` and a reason for all others.

    values: the data set's range for images deeper than 8 bits.
    rotated: accept images that EXIF turns. They are used as stored; whether that is what a reader of a label sees
    depends on the reader.
    most_pixels: what the memory budget allows. smallest: pixels on the short side.
    """
    info = usable_image(path, values)
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
