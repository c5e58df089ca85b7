"""A trained network for images one at a time: from a file, a PIL image or an array to maps and a label map.

The same code as `pplfast cam`, `pplfast label --model` and `pplfast segment test`, by the settings of the training.
"""

import dataclasses
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pplfast.data.classes import BACKGROUND, ClassList
from pplfast.data.decoding import read_pixels
from pplfast.data.image_info import Values
from pplfast.errors import UserError, did_you_mean, naming, out_of_memory
from pplfast.jobs.memory import budget_bytes, split_budget
from pplfast.labels.cam import MapMaker
from pplfast.labels.network import Run, network_choices
from pplfast.labels.rules import label_scores, most_likely
from pplfast.labels.segment import Segmenter, rows_of
from pplfast.models.backbone import Network
from pplfast.models.segmentation import SegmentationNet
from pplfast.networks import CLASSIFIER, SEGMENTATION, find_network, networks_in
from pplfast.patch.classifier import PatchClassifier
from pplfast.precision import default_device, exact_float32
from pplfast.recipe import CamConfig, LabelConfig, SegmentationConfig
from pplfast.recipe.crf_presets import DEFAULT_THRESHOLD, check_background, check_crf
from pplfast.train import model_file, network_file, segmentation

THREADS = 2  # DALI's
MEMORY = 8.0  # GiB: the same everywhere, as tiles change a result
AnyImage = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]


class Labeller(ABC):
    """A trained network that labels single images; `load_labeller` makes one. classes: those it was trained for.
    values: the range of images deeper than 8 bits that it was trained on, for files; None: their full range."""

    classes: ClassList
    values: Values | None = None

    @abstractmethod
    def maps(self, image: AnyImage, classes: Sequence[str] | None = None) -> NDArray[np.float32]:
        """float32 (k, H, W) at the image's size; see the kind of network for what the k maps are.

        image: a file, a PIL image, or uint8 (H, W, 3) RGB; an EXIF orientation is not applied. Raises UserError for
        what is no such image, a class that the network does not know, and an image that does not fit the memory.
        """

    @abstractmethod
    def labels(self, image: AnyImage, classes: Sequence[str] | None = None) -> NDArray[np.uint8]:
        """uint8 (H, W): 0 background, else the value that the class has in masks (`self.classes.ids`).

        image, errors: as for `maps`.
        """

    def _positions(self, classes: Sequence[str] | None) -> list[int]:
        """Of the classes' names in the list, all of them without names."""
        if classes is None:
            return list(range(len(self.classes)))
        if isinstance(classes, str):
            raise UserError(f"classes = {classes!r}: must be a list of names, [{classes!r}]")
        for name in classes:
            if name not in self.classes.names:
                known = ", ".join(self.classes.names)
                hint = did_you_mean(name, self.classes.names)
                raise UserError(f"class '{name}': not one that the network was trained for{hint} (known: {known})")
        return [self.classes.index(name) for name in classes]


class CamLabeller(Labeller):
    """A classifier's class activation maps, and labels from them.

    model: in eval mode, its cuts set, on the device to use. Maps: of the classes asked for, in that order (all of the
    network without any); scales and flips summed, each divided by its maximum, so that a map says where its class is
    and not whether the image has it. Labels therefore need the image's classes.
    """

    def __init__(
        self,
        model: PatchClassifier,
        classes: ClassList,
        cam: CamConfig,
        label: LabelConfig,
    ) -> None:
        if not label.value and label.background == "threshold":  # left to the masks, of which there are none
            label = dataclasses.replace(label, value=DEFAULT_THRESHOLD)
        check_background(label.background, label.value)
        check_crf(label.crf)
        exact_float32()
        self.classes, self._label = classes, label
        self._maker = MapMaker(model, cam, *_choices(model, model.maps, cam.precision), batch=1, threads=THREADS)

    def maps(self, image: AnyImage, classes: Sequence[str] | None = None) -> NDArray[np.float32]:
        return self._maps(image_pixels(image, self.values), self._positions(classes))

    def labels(self, image: AnyImage, classes: Sequence[str] | None = None) -> NDArray[np.uint8]:
        if classes is None:
            raise UserError(
                "a classifier's labels are made of the image's own classes: give their names, like classes=['cat'], or "
                "use the segmentation network of the run, which needs none"
            )
        pixels, positions = image_pixels(image, self.values), self._positions(classes)
        found = label_scores(self._maps(pixels, positions), pixels, self._label, None)
        return _painted(found, _mask_values(self.classes, positions))

    def _maps(self, pixels: NDArray[np.uint8], positions: list[int]) -> NDArray[np.float32]:
        if not positions:
            return np.zeros((0, *pixels.shape[:2]), np.float32)
        with _fits(pixels):
            maps = self._maker([pixels], torch.tensor([positions]))
        assert maps is not None  # nobody stops it
        return cast(NDArray[np.float32], maps[0].cpu().numpy())


class SegmentationLabeller(Labeller):
    """A segmentation network's probabilities, and labels from them through the dense CRF.

    model: in eval mode, on the device to use. Maps: the background's probabilities, then those of the classes asked
    for, in that order (all of the network without any). Labels are chosen among the same.
    """

    def __init__(self, model: SegmentationNet, classes: ClassList, config: SegmentationConfig) -> None:
        check_crf(config.crf)
        exact_float32()
        self.classes, self._config = classes, config
        # On a CPU the last bits of an image's result would depend on what is beside it, and it would be no faster.
        self.batch = 1 if next(model.parameters()).device.type == "cpu" else config.test_batch
        choices = _choices(model, model, config.optim.precision)
        self._segmenter = Segmenter(model, config, *choices, batch=self.batch, threads=THREADS)

    def maps(self, image: AnyImage, classes: Sequence[str] | None = None) -> NDArray[np.float32]:
        return self._maps(image_pixels(image, self.values), self._positions(classes))

    def labels(self, image: AnyImage, classes: Sequence[str] | None = None) -> NDArray[np.uint8]:
        pixels, positions = image_pixels(image, self.values), self._positions(classes)
        if classes is None:
            return self.choose(self._maps(pixels, positions), pixels)
        # As `segment test` does with --labels: all that are named take part.
        found = most_likely(self._maps(pixels, positions), pixels, self._config.crf)
        return _painted(found, _mask_values(self.classes, positions))

    def probabilities(self, pixels: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Of images of one size, uint8 (H, W, 3) each, at most `batch` of them: float32 (B, C + 1, H, W), the
        background's first. UserError for what does not fit the memory."""
        if len(pixels) == 1:
            return self._maps(pixels[0], list(range(len(self.classes))))[None]
        try:
            return self._found(pixels).cpu().numpy()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        # Out of the handler: the error's traceback holds the tensors of the attempt.
        return np.concatenate([self.probabilities([one]) for one in pixels])

    def choose(self, probabilities: NDArray[np.float32], pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """An image's (C + 1, H, W) -> its label map, uint8 (H, W), through the dense CRF."""
        rows = rows_of(probabilities)
        found = most_likely(probabilities[rows], pixels, self._config.crf)
        return _painted(found, _mask_values(self.classes, self._positions(None))[rows])

    def _maps(self, pixels: NDArray[np.uint8], positions: list[int]) -> NDArray[np.float32]:
        with _fits(pixels):
            found = self._found([pixels])
            return cast(NDArray[np.float32], found[0, [0, *(1 + position for position in positions)]].cpu().numpy())

    def _found(self, pixels: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        found = self._segmenter(list(pixels))
        assert found is not None  # nobody stops it
        return found


def load_labeller(path: str | os.PathLike[str], device: str | torch.device | None = None) -> Labeller:
    """The network of a training folder, with the settings that it was trained by.

    path: the folder of a classifier (`RUN/ppl/train`) or of a segmentation network (`RUN/ppl/segmentation`).
    device: None for the GPU where there is one. Raises UserError where there is no such network, or both.
    """
    path, device = Path(path), device or default_device()
    classifiers, segmenters = networks_in(path, CLASSIFIER), networks_in(path, SEGMENTATION)
    if classifiers and segmenters:
        choice = ", ".join(map(str, (*classifiers, *segmenters)))
        raise UserError(f"{path}: holds a classifier and a segmentation network; give one of {choice}")
    if segmenters:
        segmenter = find_network(path, SEGMENTATION)
        network, classes = segmentation.load_segmentation(segmenter)
        config = network_file.read_settings(segmenter, segmentation.NAME, SegmentationConfig)
        with naming(segmenter / f"{segmentation.NAME}.json"):
            labeller: Labeller = SegmentationLabeller(network.to(device), classes, config)
            labeller.values = network_file.read_range(segmenter, segmentation.NAME)
            return labeller
    info = model_file.read_info(path)
    with naming(find_network(path, CLASSIFIER) / model_file.DESCRIPTION):
        labeller = CamLabeller(
            model_file.load_classifier(path).to(device),
            ClassList(info.class_names, info.class_ids),
            model_file.read_recorded(path, "cam", CamConfig),
            model_file.read_recorded(path, "label", LabelConfig),
        )
        labeller.values = info.range
        return labeller


def image_maps(
    model: Labeller | str | os.PathLike[str], image: AnyImage, classes: Sequence[str] | None = None
) -> NDArray[np.float32]:
    """One image to its maps, float32 (k, H, W): class activation maps in [0, 1] of the k classes, in their order, or
    the probabilities of the background and the classes.

    model: the folder of a trained network, or, for many images, what `load_labeller` made of it. image: a file, a PIL
    image, or uint8 (H, W, 3) RGB. classes: names; None: all of the network. Raises UserError as `load_labeller` and
    `Labeller.maps` do.
    """
    return _labeller(model).maps(image, classes)


def image_labels(
    model: Labeller | str | os.PathLike[str], image: AnyImage, classes: Sequence[str] | None = None
) -> NDArray[np.uint8]:
    """One image to its label map, uint8 (H, W): 0 background, else the classes' values in masks.

    model, image: as for `image_maps`. classes: the names of what the image shows; a classifier needs them, a
    segmentation network chooses among all without. Raises UserError as `load_labeller` and `Labeller.labels` do.
    """
    return _labeller(model).labels(image, classes)


def _labeller(model: Labeller | str | os.PathLike[str]) -> Labeller:
    return model if isinstance(model, Labeller) else load_labeller(model)


def image_pixels(image: AnyImage, values: Values | None) -> NDArray[np.uint8]:
    """uint8 (H, W, 3). values: the range of files deeper than 8 bits. UserError for what is no such image."""
    if isinstance(image, str | os.PathLike):
        return read_pixels(Path(image), values)
    if isinstance(image, Image.Image):
        try:
            image = np.array(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:  # Pillow decodes a file only now
            raise UserError(f"image: a PIL image that cannot be decoded ({error})") from None
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise UserError(f"image: must be a file, a PIL image or a uint8 array (H, W, 3), not {found}")
    if not image.size:
        raise UserError(f"image: has no pixels, {image.shape}")
    return np.ascontiguousarray(image)


def _choices(model: Network, run: Run, precision: str) -> tuple[str, int]:
    """The precision, and the pixels of one call."""
    device = next(model.parameters()).device
    network, _ = split_budget(budget_bytes(MEMORY), device)
    choices = network_choices(model, run, precision, device, network)
    return choices["precision"].value if precision == "auto" else precision, choices["call_pixels"].value


@contextmanager
def _fits(pixels: NDArray[np.uint8]) -> Iterator[None]:
    """UserError where the memory does not suffice inside."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        size = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise UserError(f"the image of {size} pixels does not fit the memory; make it smaller") from None


def _mask_values(classes: ClassList, positions: list[int]) -> NDArray[np.uint8]:
    return np.array([BACKGROUND, *(classes.ids[position] for position in positions)], np.uint8)


def _painted(rows: NDArray[np.integer[Any]], values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    painted: NDArray[np.uint8] = values[rows]
    return painted
