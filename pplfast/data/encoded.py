"""Reading the bytes of an image file for the decoder."""

import os

import numpy as np

from pplfast.arrays import UInt8Array
from pplfast.data.images import inspect_image, open_image_file
from pplfast.files import StrPath

DAMAGED = "damaged or truncated; restore it"  # what a failed decode means, once the header was found good


def read_encoded(path: StrPath, inspect: bool) -> UInt8Array:
    """uint8 (bytes,). With `inspect`, BadImage also names what `pplfast data check` would: wrong type, colours, end."""
    if inspect:
        inspect_image(path)
    with open_image_file(path) as file:
        data = np.empty(os.fstat(file.fileno()).st_size, np.uint8)
        return data[: file.readinto(data.data)]
