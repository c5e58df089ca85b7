"""Images of the data set within an export."""

import os
import shutil
from pathlib import Path

from pplfast.errors import UserError
from pplfast.export.format import LabelledImage
from pplfast.storage import StorageError


def suffix_of(item: LabelledImage) -> str:
    """Of the image's file, as it stands there: ".jpg", ".JPG"."""
    image = item.image
    return image.suffix if isinstance(image, Path) else os.path.splitext(str(image))[1]


def put_image(item: LabelledImage, place: Path, link: bool) -> None:
    """The image as a file of its own at `place`: its bytes, or a link to its file where it has one (`link`).

    UserError where the image cannot be read, OSError where it cannot be written.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    image = item.image
    if not isinstance(image, Path):
        try:
            place.write_bytes(image.read())
        except StorageError as error:
            raise UserError(f"{image}: {error}") from None
    elif link:
        place.symlink_to(os.path.abspath(image))
    else:
        shutil.copyfile(image, place)
