"""The range of images deeper than 8 bits: what of their values becomes black, and what white, for a whole data set."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pplfast.data.bad_image import BadImage
from pplfast.data.decoding import stored_values
from pplfast.data.image_info import FULL, Values
from pplfast.data.images import ImageFile, inspect_file, open_image_file
from pplfast.errors import UserError
from pplfast.reading import quoted

MOST_IMAGES = 200  # that are looked at, evenly over the list
MOST_PIXELS = 20_000  # of each, about
THREADS = 4  # each holds a whole image
DARKEST, BRIGHTEST = 0.1, 99.9  # percentiles: of a camera's dead and hot pixels none decides


def parse_range(text: str) -> Values | None:
    """ "LOW,HIGH"; None for "full". UserError for all else."""
    if text == FULL:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"--range {quoted(text)}: must be LOW,HIGH with LOW below HIGH, like 0,4095; or full, or auto")
    return low, high


def range_text(values: Values | None) -> str:
    """As `parse_range` takes it."""
    return FULL if values is None else f"{values[0]:.10g},{values[1]:.10g}"


def recorded_range(value: Any) -> Values | None:
    """Of a JSON file: two numbers, or null. ValueError for all else."""
    if value is None:
        return None
    low, high = (float(part) for part in value)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"range {value!r}")
    return low, high


def measured_range(images: Sequence[ImageFile]) -> Values | None:
    """The percentiles DARKEST and BRIGHTEST of the deep images of a list; None where none of those looked at is one.

    The same for the same files: nothing is drawn by chance. Images that cannot be read do not count. images: those to
    look at, at most MOST_IMAGES.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        found = [values for values in pool.map(_sample, images) if values is not None]
    if not found:
        return None
    low, high = np.percentile(np.concatenate(found), [DARKEST, BRIGHTEST])
    return float(low), float(high if high > low else low + 1)


def _sample(path: ImageFile) -> NDArray[Any] | None:
    """Some values of a deep image, float64; None for another, and for one that cannot be read."""
    try:
        with open_image_file(path) as file:
            info = inspect_file(file, path)
            if not info.deep:
                return None
            pixels = stored_values(file, info).reshape(info.height * info.width, -1)
    except BadImage:
        return None
    step = max(1, len(pixels) // MOST_PIXELS)
    while math.gcd(step, info.width) > 1:  # else it would fall on the same columns in every row
        step += 1
    some = pixels[::step].reshape(-1).astype(np.float64)
    finite = some[np.isfinite(some)]
    return finite if len(finite) else None
