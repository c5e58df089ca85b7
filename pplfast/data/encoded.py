"""Reading the bytes of an image file for the decoder."""

import numpy as np

from pplfast.arrays import UInt8Array
from pplfast.data.images import BadImage, inspect_image
from pplfast.files import StrPath

DAMAGED = "damaged or truncated; restore it"  # what a failed decode means, once the header was found good


def read_encoded(path: StrPath, inspect: bool) -> UInt8Array:
    """uint8 (bytes,). With `inspect`, BadImage also names what `pplfast data check` would: wrong type, colours, end."""
    try:
        if inspect:
            inspect_image(path)
        return np.fromfile(path, np.uint8)
    except FileNotFoundError:
        raise BadImage("missing", "no such file; restore it, or take it off the list") from None
    except OSError as error:
        raise BadImage("missing", f"cannot be read ({error.strerror}); restore it") from None
