"""What pplfast makes of the same pixels in many forms of file: pixels, class activation maps, and how fast."""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pplfast.arrays import UInt8Array
from pplfast.benchmarks.format_files import PICTURES, Form, read_photo
from pplfast.benchmarks.harness import Effort, Spread, alternate
from pplfast.benchmarks.layout_files import bare_name, option, write_table
from pplfast.data.dataset import DataConfig, Dataset, open_dataset
from pplfast.data.decoding_processes import Encoded
from pplfast.data.encoded import ImageDecoder, read_encoded
from pplfast.data.image_info import FULL
from pplfast.data.images import BadImage, inspect_image
from pplfast.errors import UserError
from pplfast.jobs.manifest import read_manifest
from pplfast.jobs.options import JobOptions
from pplfast.labels.cam import generate_cams
from pplfast.labels.camfile import SUFFIX, load_cam
from pplfast.patch.classifier import PatchClassifier
from pplfast.recipe import CamConfig

BATCH, THREADS = 8, 2  # of decoding
ROUNDS = 3
MEMORY = 4.0  # GiB: the same for all, since tiles and groups of images change the last bits of a map
WHITE, FULL_CAM = 255, 1.0  # the largest differences that there can be


@dataclass(frozen=True)
class FormResult:
    """Differences are the largest over all images, to the first form of the same picture; of pixels in 8-bit values,
    of maps, which lie in 0..1. images_per_second: read and decoded."""

    form: str
    picture: str
    lossless: bool
    decoder: str  # of the manifest
    mean_bytes: float
    images_per_second: float
    pixel_difference: int
    cam_difference: float

    @property
    def equal(self) -> bool:
        return self.pixel_difference == 0 and self.cam_difference == 0

    @property
    def failed(self) -> bool:
        return self.lossless and not self.equal

    @property
    def differences(self) -> str:
        return f"pixels differ by up to {self.pixel_difference}, CAMs by up to {self.cam_difference:g}"


def measure(
    model: PatchClassifier, photos: Dataset, config: CamConfig, folder: Path, forms: Sequence[Form]
) -> list[FormResult]:
    """In the order of `forms`, of which the first of each picture is what the others are compared with.

    folder: for the files, which are left there. UserError for photos that cannot be used.
    """
    _say(f"writing {len(photos)} photos in {len(forms)} forms")
    sets = {form: _written(form, photos, folder / form.folder) for form in forms}
    firsts = {form: next(other for other in forms if other.picture == form.picture) for form in forms}
    _say("comparing pixels")
    decoder = ImageDecoder(BATCH, THREADS, torch.device("cpu"), None)
    pixels = {form: _pixel_difference(decoder, sets[form], sets[firsts[form]]) for form in forms}
    _say("decoding, in turns")
    passes = {form.folder: partial(_decode_all, decoder, sets[form]) for form in forms}
    seconds = alternate(passes, "cpu", Effort(ROUNDS, 0.0), warm=True)
    cams = {form: folder / "cams" / form.folder for form in forms}
    for form in forms:
        _say(f"maps of {form.picture}, {form.name}")
        _write_cams(model, sets[form], config, cams[form])
    return [
        FormResult(
            form.name,
            form.picture,
            form.lossless,
            "+".join(sorted({str(record["decoder"]) for record in read_manifest(cams[form]).values()})),
            sum(os.path.getsize(path) for path in sets[form].image_files) / len(photos),
            len(photos) / Spread.of(seconds[form.folder]).median,
            pixels[form],
            _cam_difference(cams[form], cams[firsts[form]], photos),
        )
        for form in forms
    ]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _written(form: Form, photos: Dataset, folder: Path) -> Dataset:
    """The photos in that form, in a plain folder with a CSV of their labels."""
    folder.mkdir(parents=True)
    names = []
    for id, path in zip(photos.ids, photos.image_files, strict=True):
        names.append(f"{bare_name(id)}{form.suffix or path.suffix}")
        if form.encode is None:
            shutil.copyfile(path, folder / names[-1])
        else:
            (folder / names[-1]).write_bytes(form.encode(PICTURES[form.picture](read_photo(path))))
    write_table(folder, names, photos)
    return open_dataset(DataConfig(str(folder), classes=option(photos.classes), range=FULL))


def _decode(decoder: ImageDecoder, dataset: Dataset) -> Iterator[UInt8Array | BadImage]:
    for at in range(0, len(dataset), BATCH):
        paths = dataset.images[at : at + BATCH]
        yield from decoder([Encoded(read_encoded(path), inspect_image(path)) for path in paths])


def _decode_all(decoder: ImageDecoder, dataset: Dataset) -> None:
    for _ in _decode(decoder, dataset):
        pass


def _pixel_difference(decoder: ImageDecoder, dataset: Dataset, first: Dataset) -> int:
    """To the pixels of the first form's files as Pillow reads them."""
    largest = 0
    for pixels, path in zip(_decode(decoder, dataset), first.image_files, strict=True):
        expected = read_photo(path)
        if isinstance(pixels, BadImage) or pixels.shape != expected.shape:
            return WHITE
        largest = max(largest, int(np.abs(pixels.astype(np.int16) - expected).max()))
    return largest


def _write_cams(model: PatchClassifier, dataset: Dataset, config: CamConfig, out: Path) -> None:
    """`pplfast cam` without its progress lines."""
    with open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
        outcome = generate_cams(model, dataset, config, out, options=JobOptions(memory=MEMORY, threads=THREADS))
    for id, reason in outcome.bad:
        raise UserError(f"{dataset.name}: {id}: {reason}")


def _cam_difference(cams: Path, first: Path, photos: Dataset) -> float:
    largest = 0.0
    for id in photos.ids:
        found, expected = (load_cam(folder / f"{bare_name(id)}{SUFFIX}") for folder in (cams, first))
        if found.size != expected.size or not np.array_equal(found.classes, expected.classes):
            return FULL_CAM
        difference = np.abs(found.maps.astype(np.float32) - expected.maps.astype(np.float32))
        largest = max(largest, float(difference.max(initial=0)))
    return largest
