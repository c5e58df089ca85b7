"""The memory budget of every job that works through a list of images: what it may be, what an image costs, and what
an image that is too large for it is told. No torch here: worker processes import this module."""

import math

from pplfast.data.images import BadImage
from pplfast.errors import UserError

DEFAULT_MEMORY = 8.0  # GiB
LEAST_MEMORY, MOST_MEMORY = 0.25, float(2**20)  # GiB
# Measured with pydensecrf: 286 bytes a pixel for 3 labels, 368 for 6. The rest: decoded image, scores, marginals and
# their copies on the way to a worker.
CRF_PIXEL, CRF_LABEL = 230, 60
SCALED_PIXEL = 3 * 4 * 2  # one scale in float32, and the next one being made


def budget_bytes(memory: float) -> int:
    """Of a budget in GiB, as --memory gives it. Raises UserError for what is none."""
    if not LEAST_MEMORY <= memory <= MOST_MEMORY:  # of a NaN both are false
        bound = f"{LEAST_MEMORY:g} GiB or more" if not memory > MOST_MEMORY else f"at most {MOST_MEMORY:g} GiB"
        raise UserError(f"--memory {memory:g}: must be {bound}")
    return int(memory * 2**30)


def label_bytes(pixels: int, classes: int, largest_scale: float) -> int:
    """What one image holds from its decoding to its label on the disk."""
    return int(pixels * (CRF_PIXEL + CRF_LABEL * (classes + 1) + SCALED_PIXEL * largest_scale**2))


def most_pixels(room: int, classes: int, largest_scale: float) -> int:
    """The largest image that there is room for."""
    return room // label_bytes(1, classes, largest_scale)


def too_large(width: int, height: int, most: float) -> BadImage:
    """most: pixels."""
    return BadImage(
        "too-large",
        f"{width} x {height} pixels, and the memory budget allows {math.floor(most / 1e5) / 10:.1f} megapixels; "
        "raise --memory, or make it smaller",
    )


def check_label_fits(size: tuple[int, int], classes: int, room: int) -> None:
    """For an image (H, W) on its way from its maps to its label. Raises UserError where `room` bytes do not suffice."""
    most = most_pixels(room, classes, 0.0)
    if size[0] * size[1] > most:
        raise UserError(str(too_large(size[1], size[0], most)))
