"""The archive that the PASCAL VOC evaluation server takes: label PNGs in its folders, checked before and after."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from pplfast.arrays import UInt8Array
from pplfast.data.classes import IGNORE, VOC
from pplfast.data.dataset import Dataset
from pplfast.data.images import BadImage, inspect_image
from pplfast.data.masks import mask_image, read_mask
from pplfast.data.stored import Stored
from pplfast.errors import UserError
from pplfast.files import StrPath, atomic_path

# comp6: trained with data beyond VOC's own (ImageNet weights, SBD's images); comp5 without.
FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"


def write_submission(labels: StrPath, dataset: Dataset, out: StrPath) -> int:
    """Write the tar.gz `out` with one palette PNG per image of the list; returns how many.

    The server takes VOC's class values, no 255, and exactly the images of its list in their sizes. Raises UserError
    naming the first file that is missing, unreadable, of another size, or holds a value that is none of VOC's classes.
    """
    if not str(out).endswith((".tar.gz", ".tgz")):
        raise UserError(f"{out}: must end in .tar.gz")
    with atomic_path(out) as temporary:
        with tarfile.open(temporary, "w:gz", compresslevel=6) as archive:
            for name, image in zip(dataset.ids, dataset.images, strict=True):
                _add(archive, f"{FOLDER}/{name}.png", _checked(Path(labels) / f"{name}.png", image))
        check_submission(temporary, dataset)
    return len(dataset)


def check_submission(path: StrPath, dataset: Dataset) -> None:
    """Read an archive back as the server does: names, count, palette, sizes, values. UserError names what is wrong."""
    wanted = {f"{FOLDER}/{name}.png": image for name, image in zip(dataset.ids, dataset.images, strict=True)}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                if member.name not in wanted:
                    raise UserError(f"{path}: holds {member.name}, which is not of {dataset.name}; write it again")
                content = archive.extractfile(member)
                if content is None:
                    raise UserError(f"{path}: {member.name} is not a file there; write it again")
                _check_png(f"{path}: {member.name}", content.read(), wanted.pop(member.name))
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{path}: not a readable tar.gz ({error}); write it again") from None
    if wanted:
        raise UserError(
            f"{path}: {len(wanted)} images of {dataset.name} are missing (first: {next(iter(wanted))}); write it again"
        )


def _checked(path: Path, image: Path | Stored) -> UInt8Array:
    if not path.is_file():
        raise UserError(f"{path}: no such file; make the labels of the whole list first")
    mask = read_mask(path)
    _check_size(str(path), mask.shape, image)
    _check_values(str(path), mask)
    return mask


def _check_size(what: str, shape: tuple[int, int], image: Path | Stored) -> None:
    try:
        info = inspect_image(image)
    except BadImage as error:
        raise UserError(f"{image}: {error}") from None
    if shape != (info.height, info.width):
        raise UserError(
            f"{what}: is {shape[1]} x {shape[0]} pixels, its image {info.width} x {info.height}; make the label again"
        )


def _check_values(what: str, mask: UInt8Array) -> None:
    others = sorted(set(np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()) - {0, *VOC.ids})
    if others:
        hint = "unsure pixels are not accepted" if others == [IGNORE] else "the server knows VOC's classes, 0 to 20"
        raise UserError(f"{what}: holds the value {others[-1]}; {hint}")


def _check_png(what: str, data: bytes, image: Path | Stored) -> None:
    with Image.open(io.BytesIO(data), formats=("PNG",)) as png:
        if png.mode != "P":
            raise UserError(f"{what}: is not a palette PNG")
        mask = np.array(png)
    _check_size(what, mask.shape, image)
    _check_values(what, mask)


def _add(archive: tarfile.TarFile, name: str, mask: UInt8Array) -> None:
    buffer = io.BytesIO()
    mask_image(mask).save(buffer, format="PNG")
    entry = tarfile.TarInfo(name)
    entry.size = buffer.tell()
    buffer.seek(0)
    archive.addfile(entry, buffer)
