"""The range of images deeper than 8 bits: what of their values becomes black, and what white, for a whole data set."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pplfast.data.bad_image import BadImage
from pplfast.data.decoding import stored_values
from pplfast.data.image_info import Values
from pplfast.data.images import inspect_file, open_image_file
from pplfast.errors import UserError
from pplfast.reading import quoted

AUTO, FULL = "auto", "full"
MOST_IMAGES = 200  # that are looked at, evenly over the list
MOST_PIXELS = 20_000  # of each
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


def measured_range(images: Sequence[Path]) -> Values | None:
    """The percentiles DARKEST and BRIGHTEST of the deep images of a list; None where none of those looked at is one.

    The same for the same files: nothing is drawn by chance. Images that cannot be read do not count.
    """
    if not images:
        return None
    chosen = [images[i] for i in np.linspace(0, len(images) - 1, min(MOST_IMAGES, len(images))).astype(int)]
    with ThreadPoolExecutor() as pool:
        found = [values for values in pool.map(_sample, chosen) if values is not None]
    if not found:
        return None
    low, high = np.percentile(np.concatenate(found), [DARKEST, BRIGHTEST])
    return float(low), float(high if high > low else low + 1)


def _sample(path: Path) -> NDArray[Any] | None:
    """Some values of a deep image, float64; None for another, and for one that cannot be read."""
    try:
        with open_image_file(path) as file:
            info = inspect_file(file, path)
            if not info.deep:
                return None
            values = stored_values(file, info).reshape(-1)
    except BadImage:
        return None
    some = values[:: max(1, len(values) // MOST_PIXELS)].astype(np.float64)
    finite = some[np.isfinite(some)]
    return finite if len(finite) else None
