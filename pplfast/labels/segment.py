"""A segmentation network and images -> label PNGs: scales and flips, the mean of the probabilities, dense CRF."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pplfast.arrays import Float32Array
from pplfast.data.classes import BACKGROUND, ClassList
from pplfast.data.dataset import Dataset
from pplfast.data.images import BadImage
from pplfast.files import StrPath
from pplfast.jobs.job import Choice, Finish, ImageBatch, Job
from pplfast.jobs.memory import DECODED, SCALED, USUAL_CLASSES, crf_bytes
from pplfast.jobs.options import DEFAULTS, JobOptions, Outcome
from pplfast.jobs.record import Record
from pplfast.jobs.run import run_job
from pplfast.kernels import Cells, place
from pplfast.labels import overlay
from pplfast.labels.confidence import write_confidence
from pplfast.labels.network import ScaledNetwork, in_tiles, layers_hash, network_choices
from pplfast.labels.rules import FinishPrediction, NetworkScores
from pplfast.models.segmentation import SegmentationNet
from pplfast.recipe import SegmentationConfig
from pplfast.recipe import crf_presets as presets

LEAST = 0.01  # probability that a class must reach somewhere in the image to take part in its CRF


def segment_images(
    model: SegmentationNet,
    classes: ClassList,
    dataset: Dataset,
    config: SegmentationConfig,
    out: StrPath,
    options: JobOptions = DEFAULTS,
    told: bool = False,
) -> Outcome:
    """Write `out/<id>.png`, mask ids of `classes`, for every image of the list that has none yet, alone or as one rank
    of a launcher.

    model: in eval mode; moved to this rank's device. told: a pixel gets one of the classes of its image's label, or
    the background; without, any class. Images that fail are noted in `out/manifest.jsonl` and in the
    outcome, and the rest goes on. Raises UserError for a CRF preset that does not exist, with `told` for a data set
    without image labels, and as `run_job` does.
    """
    return run_job(SegmentJob(model, classes, dataset, config, told), out, options)


class SegmentJob(Job):
    title, command = "segmentation", "pplfast segment test"
    suffixes: tuple[str, ...] = (".png",)
    smallest = 1  # what is trained on gets its part of the chain, however thin it is

    def __init__(
        self,
        model: SegmentationNet,
        classes: ClassList,
        dataset: Dataset,
        config: SegmentationConfig,
        told: bool = False,
        drawn: bool = False,
    ) -> None:
        """told: as of `segment_images`. drawn: the labels are drawn over each image as well, `<id>.overlay.jpg`."""
        presets.check_crf(config.crf)
        wanted = {
            "network": layers_hash(model.head),
            "cells": list(model.cells),
            "scales": list(config.scales),
            "flip": config.flip,
            "crf": config.crf,
            "class_names": list(classes.names),
            "class_ids": list(classes.ids),
        }
        if config.optim.precision != "auto":
            wanted["precision"] = config.optim.precision
        if told:
            wanted["told"] = True
        super().__init__(dataset, wanted)
        self._model, self._config, self.batch, self._drawn = model, config, config.test_batch, drawn
        if drawn:
            self.suffixes = (".png", overlay.SUFFIX)
        self._labels = dataset.known_labels if told else None
        self._classes = classes
        self._ids = np.array([BACKGROUND, *classes.ids], np.uint8)

    def summarise(self, folder: Path, records: Sequence[Record]) -> None:
        write_confidence(folder, records, self._classes)

    def finish(self, settings: dict[str, Any]) -> Finish:
        return FinishPrediction(self._config.crf, self._drawn)

    def choices(self, device: torch.device, network_bytes: int) -> dict[str, Choice]:
        return network_choices(self._model, self._model, self._config.optim.precision, device, network_bytes)

    def prepare(self, settings: dict[str, Any], device: torch.device, network_bytes: int, threads: int) -> None:
        model, config = self._model.to(device), self._config
        self._segmenter = Segmenter(model, config, settings["precision"], settings["call_pixels"], self.batch, threads)

    def depends(self, index: int) -> dict[str, Any]:
        return {} if self._labels is None else {"classes": np.flatnonzero(self._labels[index]).tolist()}

    def pixel_bytes(self) -> float:
        rows = len(self._ids)
        copies = 2 * (2 if self._config.flip else 1) + 2  # logits and softmax; the sum over the scales, what is kept
        crf = 0 if self._config.crf == presets.NONE else crf_bytes(min(rows - 1, USUAL_CLASSES))
        drawn = overlay.DRAWN if self._drawn else 0
        return DECODED + SCALED * max(self._config.scales) ** 2 + 4 * rows * copies + crf + drawn

    def compute(self, batch: ImageBatch, stopped: Callable[[], bool]) -> list[Any | BadImage] | None:
        found = self._segmenter(batch.pixels, stopped)
        if found is None:
            return None
        return list(self._predictions(batch, found.cpu().numpy()))

    def _predictions(self, batch: ImageBatch, found: Float32Array) -> Iterator[NetworkScores]:
        tiled = self._segmenter.network.tiled_at
        looked_at = self._drawn or self._config.crf != presets.NONE
        for index, pixels, values in zip(batch.indices, batch.pixels, found, strict=True):
            rows = rows_of(values) if self._labels is None else _rows_of_label(self._labels[index])
            told = self._labels is not None
            yield NetworkScores(pixels if looked_at else None, self._ids[rows], values[rows], tiled, told)


class Segmenter:
    """Decoded images -> the mean over scales and flips of the softmax at the images' size."""

    def __init__(
        self,
        model: SegmentationNet,
        config: SegmentationConfig,
        precision: str,
        call_pixels: int,
        batch: int,
        threads: int,
    ) -> None:
        def tiled(row: Tensor, pixels: int) -> Tensor:
            return in_tiles(model, row, pixels, model.backbone.stride, int(model.cells.step))

        self.network = ScaledNetwork(
            model, model, tiled, config.scales, config.flip, precision, call_pixels, batch, threads
        )
        self._cells = model.cells
        self._passes = len(config.scales) * (2 if config.flip else 1)

    def __call__(self, pixels: list[Any], stopped: Callable[[], bool] = lambda: False) -> Tensor | None:
        """pixels: B times uint8 (H, W, 3) -> float32 (B, rows, H, W); None when `stopped` says so."""
        size = pixels[0].shape[:2]
        total: Tensor | None = None
        for logits, scaled in self.network(pixels):
            if stopped():
                return None
            with torch.inference_mode():
                full = probabilities(logits, scaled, self._cells, size, self.network.flip)
                total = full if total is None else total.add_(full)
        assert total is not None, "there is a scale"
        return total / self._passes


def probabilities(logits: Tensor, scaled: tuple[int, int], cells: Cells, size: tuple[int, int], flip: bool) -> Tensor:
    """Of one scale, (B, rows, h, w) or with flip B plain, then B mirrored ones, whose cells lie at `cells` of images
    (h, w) = scaled -> float32 (B, rows, *size): the softmax at the images' size, the sum of the two with flip."""
    rows, columns = (Cells.over(pixels, side) for pixels, side in zip(scaled, size, strict=True))
    full = place(logits.float(), cells, (rows, columns), size).softmax(1)
    if flip:
        plain, mirrored = full.chunk(2)
        full = plain + mirrored.flip(3)
    return full


def rows_of(probabilities: np.ndarray) -> np.ndarray:
    """Of float32 (rows, H, W), those that take part in an image's CRF."""
    return np.flatnonzero(probabilities.max(axis=(1, 2)) >= LEAST)


def _rows_of_label(label: np.ndarray) -> np.ndarray:
    """uint8 (C,), 0 or 1 -> the background's row and those of its classes."""
    return np.flatnonzero(np.concatenate(([1], label)))
