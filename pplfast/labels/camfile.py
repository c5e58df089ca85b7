"""One image's class activation maps on disk: compact `.npz`, and the `.npy` dict of this field's other code.

Only numpy is imported here: the workers of the label and evaluation pools start without torch.
"""

import io
import math
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import IO, BinaryIO

import numpy as np

from pplfast.arrays import Float32Array, FloatArray, Int64Array, IntArray
from pplfast.data.stored import Fetched, Stored
from pplfast.errors import UserError
from pplfast.files import StrPath, atomic_path
from pplfast.npy import parse_array, plain_dtype, read_header
from pplfast.reading import LARGEST_IMAGE, open_regular
from pplfast.storage import StorageError

STRIDE = 4  # pixels between stored values; IRN and its successors store their `cam` at the same stride
SUFFIX = ".npz"

MOST_CLASSES = 254  # masks have values for no more
MOST_MEMBERS = 16  # of the archive; there are three, and others may add their own
SMALL = 10_240  # bytes; the classes, the size, and the header of the maps have less
LARGEST_SIDE = 65_535  # pixels of a JPEG
HIGHEST = 1.002  # of a map, whose maximum is 1: what rounding to float16 may make of it


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


def encode_cam(cam: Cam) -> bytes:
    """The content of its file."""
    file = io.BytesIO()
    np.savez(
        file,
        classes=cam.classes.astype(np.int16),
        cam=cam.maps.astype(np.float16),
        size=np.asarray(cam.size, np.int32),
    )
    return file.getvalue()


def save_cam(path: StrPath, cam: Cam) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(encode_cam(cam))


def load_cam(path: StrPath | Stored | Fetched, classes: int | None = None) -> Cam:
    """The maps of one image, as `generate_cams` and `walk_cams` write them; no code in the file is run.

    classes: how many the data set has, where that is known. Raises UserError naming the file when it is missing or
    damaged, or no CAM file: classes that are no different positions below `classes`, values that are not in [0, 1],
    arrays of other types and shapes. Sizes are checked before anything is read by them.
    """
    try:
        with _opened(path) as file, zipfile.ZipFile(file) as archive:
            return _read(archive, MOST_CLASSES if classes is None else classes)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `pplfast cam` for this list first") from None
    except StorageError as error:
        raise UserError(f"{path}: {error}") from None
    except _NoCam as error:
        raise UserError(f"{path}: {error}; delete it and run `pplfast cam` again") from None
    except _DAMAGED:
        raise UserError(f"{path}: not a readable CAM file; delete it and run `pplfast cam` again") from None


def _opened(path: StrPath | Stored | Fetched) -> BinaryIO:
    return io.BytesIO(path.read()) if isinstance(path, Stored | Fetched) else open_regular(path)


class _NoCam(Exception):
    """A file that can be read, and is no CAM file; the message says why."""


# What `zipfile` raises for archives that are damaged, encrypted or of a later version, and a file that cannot be read.
_DAMAGED = (OSError, ValueError, EOFError, OverflowError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile)


def _read(archive: zipfile.ZipFile, most: int) -> Cam:
    members = {member.filename: member for member in archive.infolist()}
    if len(archive.infolist()) > MOST_MEMBERS or any(
        name not in members for name in ("classes.npy", "cam.npy", "size.npy")
    ):
        raise _NoCam("does not hold the arrays classes, cam and size of a CAM file")
    height, width = _size(_small_array(archive, members["size.npy"]))
    classes = _small_array(archive, members["classes.npy"])
    if classes.ndim != 1 or classes.dtype.kind not in "iu":
        raise _NoCam(f"classes are {classes.dtype} of shape {classes.shape}, not a row of whole numbers")
    wrong = [int(value) for value in classes if not 0 <= value < most]
    if wrong:
        raise _NoCam(f"holds a map of class {wrong[0]}, and the classes are 0 to {most - 1}")
    if len(np.unique(classes)) < len(classes):
        raise _NoCam("holds two maps of one class")
    maps = _maps(archive, members["cam.npy"], (len(classes), *stored_size(height, width)), (height, width))
    return Cam(classes, maps, (height, width))


def _size(size: IntArray) -> tuple[int, int]:
    if size.shape != (2,) or size.dtype.kind not in "iu":
        raise _NoCam(f"its size is {size.dtype} of shape {size.shape}, not two whole numbers")
    height, width = (int(value) for value in size)
    if min(height, width) < 1 or max(height, width) > LARGEST_SIDE or height * width > LARGEST_IMAGE:
        raise _NoCam(f"its size of {width} x {height} pixels is that of no image")
    return height, width


def _small_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> IntArray:
    if member.file_size > SMALL:
        raise _NoCam(f"its {member.filename} has {member.file_size} bytes, more than a CAM file's")
    with _open(archive, member) as stream:
        return parse_array(stream.read(member.file_size))


def _maps(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, shape: tuple[int, int, int], size: tuple[int, int]
) -> FloatArray:
    """The maps, which are read only once their header says that they are of the shape that size and classes ask for."""
    with _open(archive, member) as stream:
        begin = stream.read(min(SMALL, member.file_size))
        header = read_header(begin)
        dtype = plain_dtype(header)
        if header.shape != shape:
            raise _NoCam(
                f"maps of shape {header.shape} do not belong to {shape[0]} classes of an image of {size[1]} x {size[0]}"
            )
        if dtype.kind != "f":
            raise _NoCam(f"maps of {dtype}, not of floating-point numbers")
        if member.file_size != header.length + math.prod(shape) * dtype.itemsize:
            raise _NoCam("its maps are cut off, or something follows them")
        maps = parse_array(begin + stream.read(member.file_size - len(begin)))
    if maps.size and not (maps.min() >= 0 and maps.max() <= HIGHEST):  # so NaN does not pass
        raise _NoCam("maps hold values that are not between 0 and 1")
    return maps


def _open(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> IO[bytes]:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _NoCam("is compressed as no CAM file is")
    return archive.open(member)


def encode_npy(cam: Cam, high_res: Float32Array) -> bytes:
    """The dict that follow-up code reads: keys (0-based classes), cam (stride 4), high_res (k, H, W); float32."""
    maps = {"cam": cam.maps.astype(np.float32), "high_res": high_res.astype(np.float32)}
    file = io.BytesIO()
    np.save(file, np.array({"keys": cam.classes.astype(np.int64), **maps}, dtype=object), allow_pickle=True)
    return file.getvalue()


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
