"""One image's class activation maps on disk: compact `.npz`, and the `.npy` dict of this field's other code.

Only numpy is imported here: the workers of the label and evaluation pools start without torch.
"""

import zipfile
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from pplfast.arrays import Float32Array, FloatArray, Int64Array, IntArray
from pplfast.errors import UserError
from pplfast.files import StrPath, atomic_path

STRIDE = 4  # pixels between stored values; IRN and its successors store their `cam` at the same stride
SUFFIX = ".npz"


@dataclass(frozen=True)
class Cam:
    """The maps of one image's own classes.

    classes: int16 (k,), 0-based positions in the data set's class list (background is not among them).
    maps: float16 (k, ceil(H/4), ceil(W/4)), sampled bilinearly from the maps at the image's size, where each class
    has the maximum 1. Normalising on the coarse grid instead would raise all scores by about 1 %: measured on 60 VOC
    images, that moves the mIoU by up to 0.3 at a given threshold; sampled like this, by less than 0.05.
    size: (H, W) of the image in pixels.
    """

    classes: IntArray
    maps: FloatArray
    size: tuple[int, int]

    def full(self) -> Float32Array:
        """float32 (k, H, W): the stored maps, bilinearly enlarged. This is what is scored and what the CRF sees."""
        return resize_bilinear(self.maps.astype(np.float32), *self.size)


def stored_size(height: int, width: int) -> tuple[int, int]:
    return -(-height // STRIDE), -(-width // STRIDE)


def save_cam(path: StrPath, cam: Cam) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            classes=cam.classes.astype(np.int16),
            cam=cam.maps.astype(np.float16),
            size=np.asarray(cam.size, np.int32),
        )


def load_cam(path: StrPath) -> Cam:
    """The maps of one image, as `generate_cams` and `walk_cams` write them; no code in the file is run.

    Raises UserError naming the file when it is missing, damaged, or not a CAM file.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            classes, maps = archive["classes"], archive["cam"]
            height, width = (int(value) for value in archive["size"])
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `pplfast cam` for this list first") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, AttributeError):
        # numpy's own words would advise to unpickle it.
        raise UserError(f"{path}: not a readable CAM file; delete it and run `pplfast cam` again") from None
    if maps.shape != (len(classes), *stored_size(height, width)):
        raise UserError(
            f"{path}: maps of shape {maps.shape} do not belong to an image of {width} x {height}; "
            "delete it and run `pplfast cam` again"
        )
    return Cam(classes, maps, (height, width))


def save_npy(path: StrPath, cam: Cam, high_res: Float32Array) -> None:
    """The dict that follow-up code reads: keys (0-based classes), cam (stride 4), high_res (k, H, W); float32."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        write_npy_dict(file, cam.classes, cam.maps, high_res)


def write_npy_dict(file: BinaryIO, classes: IntArray, maps: FloatArray, high_res: Float32Array) -> None:
    value = {"keys": classes.astype(np.int64), "cam": maps.astype(np.float32), "high_res": high_res.astype(np.float32)}
    np.save(file, np.array(value, dtype=object), allow_pickle=True)


def resize_bilinear(maps: Float32Array, height: int, width: int) -> Float32Array:
    """(k, h, w) -> (k, height, width) float32, as torch's `interpolate(mode="bilinear", align_corners=False)`."""
    left, right, fraction = _taps(maps.shape[2], width)
    maps = maps[:, :, left] * (1 - fraction) + maps[:, :, right] * fraction
    top, bottom, fraction = _taps(maps.shape[1], height)
    fraction = fraction[:, None]
    resized: Float32Array = maps[:, top] * (1 - fraction) + maps[:, bottom] * fraction
    return resized


def _taps(source: int, target: int) -> tuple[Int64Array, Int64Array, Float32Array]:
    """The two source positions of each target pixel, and the weight of the second."""
    position = np.maximum((np.arange(target) + 0.5) * (source / target) - 0.5, 0)
    first = np.minimum(position.astype(np.int64), source - 1)
    return first, np.minimum(first + 1, source - 1), (position - first).astype(np.float32)
