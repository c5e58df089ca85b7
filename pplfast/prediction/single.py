"""Images in Python, one or a list, to their labels by a segmentation network."""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pplfast.data.classes import ClassList
from pplfast.errors import UserError
from pplfast.labeller import AnyImage, Labeller, SegmentationLabeller, image_pixels, load_labeller
from pplfast.labels.overlay import draw
from pplfast.networks import SEGMENTATION
from pplfast.precision import default_device
from pplfast.prediction.network import find_segmentation

LOADED = 4  # networks that are kept


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a segmentation network makes of one image.

    labels: uint8 (H, W), 0 background, else the value of a class, `classes.ids`; after the dense CRF of the network's
    recipe. probabilities: float32 (C + 1, H, W), the background's first, then those of the classes in their order; mean
    over the recipe's scales, before the CRF. pixels: the image, uint8 (H, W, 3) RGB, as stored.
    """

    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    classes: ClassList
    pixels: NDArray[np.uint8]

    def overlay(self) -> Image.Image:
        """The labels over the image, as `pplfast predict --overlay` draws them; its long side is at most 2000."""
        return draw(self.pixels, self.labels)


@overload
def predict(  # type: ignore[overload-overlap]  # a str is a sequence of str, and means a file
    image: AnyImage, model: str | os.PathLike[str] | Labeller, device: str | torch.device | None = None
) -> Prediction: ...
@overload
def predict(
    image: Sequence[AnyImage], model: str | os.PathLike[str] | Labeller, device: str | torch.device | None = None
) -> list[Prediction]: ...
def predict(
    image: AnyImage | Sequence[AnyImage],
    model: str | os.PathLike[str] | Labeller,
    device: str | torch.device | None = None,
) -> Prediction | list[Prediction]:
    """New images to their labels, by the settings that the network was trained with: what `pplfast predict` writes.

    image: a file, a PIL image, or uint8 (H, W, 3) RGB, or a list of them; an EXIF orientation is not applied. On a GPU
    the images of one size in a list share calls. A list and its results are all in memory: for many files there is the
    command. model: a run, one of its variants, or the folder of its segmentation network, which is loaded once and kept
    by path and device until its file changes (`pplfast.prediction.single.loaded.cache_clear()` lets go of it); or what
    `load_labeller` made of that folder, which is yours alone. device: None for the GPU where there is one; of a
    labeller it is its own. Raises UserError where there is no such network or image.
    """
    labeller = model if isinstance(model, Labeller) else _loaded_from(model, device)
    if not isinstance(labeller, SegmentationLabeller):
        raise UserError(
            "model: a classifier, whose labels are made of the image's own classes: call pplfast.image_labels with "
            "their names, or give a run with a segmentation network"
        )
    if isinstance(image, str | os.PathLike | Image.Image | np.ndarray):
        return _predictions([image], labeller)[0]
    return _predictions(list(image), labeller)


def _predictions(images: Sequence[AnyImage], labeller: SegmentationLabeller) -> list[Prediction]:
    pixels = [image_pixels(image, labeller.values) for image in images]
    of_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, each in enumerate(pixels):
        of_size[each.shape].append(index)
    found: dict[int, Prediction] = {}
    for indices in of_size.values():
        for at in range(0, len(indices), labeller.batch):
            some = indices[at : at + labeller.batch]
            rows = labeller.probabilities([pixels[index] for index in some])
            for index, row in zip(some, rows, strict=True):
                labels = labeller.choose(row, pixels[index])
                found[index] = Prediction(labels, row, labeller.classes, pixels[index])
    return [found[index] for index in range(len(pixels))]


def _loaded_from(path: str | os.PathLike[str], device: str | torch.device | None) -> Labeller:
    folder = find_segmentation(path)
    state = os.stat(folder / f"{SEGMENTATION.name}.json")  # written anew with its network
    return loaded(folder.resolve(), str(device or default_device()), state.st_mtime_ns)


@lru_cache(LOADED)
def loaded(folder: Path, device: str, changed: int) -> Labeller:
    """The network of a folder on a device. changed: the time of its description."""
    return load_labeller(folder, device)
