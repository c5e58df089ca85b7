"""Pictures of labels over their image, one at a time or many in processes, whose workers import this and no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pplfast.arrays import UInt8Array
from pplfast.data.image_info import Values
from pplfast.data.stored import Stored
from pplfast.errors import UserError
from pplfast.files import atomic_path
from pplfast.labels.overlay import labels_over
from pplfast.report.images import QUALITY, label_map, read_photo

LARGE = 640  # pixels of the long side: fills half of a screen, beside the photograph


@dataclass(frozen=True)
class Pair:
    """photo, labels: uint8 (H, W, 3), of which `labels` has the label's colours over the photograph."""

    photo: UInt8Array
    labels: UInt8Array


def read_pair(image: Path | Stored, label: Path, values: Values | None) -> Pair:
    """values: as of `read_photo`. UserError for a file that cannot be shown."""
    photo = read_photo(image, values, LARGE)
    return Pair(photo.pixels, labels_over(photo.pixels, label_map(label, photo)))


@dataclass(frozen=True)
class Wanted:
    """photo_file, labels_file: the JPEG files to write."""

    index: int
    image: Path | Stored
    label: Path
    photo_file: Path
    labels_file: Path


@dataclass(frozen=True)
class Drawn:
    """width, height: of both pictures. error: why there are none."""

    index: int
    width: int = 0
    height: int = 0
    error: str = ""


def draw_chunk(chunk: Sequence[Wanted], values: Values | None) -> list[Drawn]:
    """Write the pictures of some images. An image or a label that cannot be read is told, and the rest is drawn;
    UserError where a picture cannot be written."""
    return [_draw(wanted, values) for wanted in chunk]


def _draw(wanted: Wanted, values: Values | None) -> Drawn:
    try:
        pair = read_pair(wanted.image, wanted.label, values)
    except (OSError, UserError) as error:
        return Drawn(wanted.index, error=str(error))
    for pixels, file in ((pair.photo, wanted.photo_file), (pair.labels, wanted.labels_file)):
        with atomic_path(file, sync=False) as temporary:
            Image.fromarray(pixels).save(temporary, "JPEG", quality=QUALITY)
    height, width = pair.labels.shape[:2]
    return Drawn(wanted.index, width, height)
