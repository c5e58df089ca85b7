"""A classifier and images -> class activation maps of each image's classes: scales and flips, summed, normalised."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pplfast.arrays import Int64Array, IntArray, UInt8Array
from pplfast.data.dataset import Dataset
from pplfast.data.handover import HostCopy, to_device
from pplfast.data.images import BadImage
from pplfast.errors import UserError
from pplfast.files import StrPath
from pplfast.jobs.job import Choice, Finish, Finished, ImageBatch, Job
from pplfast.jobs.memory import DECODED, SCALED
from pplfast.jobs.options import DEFAULTS, JobOptions, Outcome
from pplfast.jobs.run import run_job
from pplfast.kernels import cam_fuse
from pplfast.labels.camfile import SUFFIX, Cam, encode_cam, encode_npy, stored_size
from pplfast.labels.network import ScaledNetwork, layers_hash, network_choices
from pplfast.patch.classifier import PatchClassifier
from pplfast.patch.tiles import tiled_maps
from pplfast.recipe import CamConfig

NOT_FINITE = "the maps hold values that are not finite; check the classifier"


def generate_cams(
    model: PatchClassifier,
    dataset: Dataset,
    config: CamConfig,
    out: StrPath,
    npy: bool = False,
    options: JobOptions = DEFAULTS,
) -> Outcome:
    """Write `out/<id>.npz` for every image of the data set that has none yet, alone or as one rank of a launcher; with
    `npy` also `<id>.npy`.

    model: in eval mode, its cuts set; moved to this rank's device. An image without any class gets a file without
    maps. Source of the maps: arXiv 2209.07828; of their fusion over scales and flips, IRN's code (arXiv 1904.05044).
    Maps are fused and normalised at the image's own size (`high_res` of the npy), then sampled at stride 4.
    Images that cannot be used are noted in `out/manifest.jsonl` and in the outcome, and the rest goes on. Raises
    UserError for a model that does not fit the data set, and as `run_job` does.
    """
    return run_job(CamJob(model, dataset, config, npy), out, options)


class MapMaker:
    """Decoded images -> CAMs at full size, normalised, of the classes asked for."""

    def __init__(
        self, model: PatchClassifier, config: CamConfig, precision: str, call_pixels: int, batch: int, threads: int
    ) -> None:
        def tiled(row: Tensor, classes: Tensor, pixels: int) -> Tensor:
            return tiled_maps(model, row, classes, pixels // 2)  # it holds twice what one call of that size does

        self._cells = model.backbone.cells()
        self.network = ScaledNetwork(
            model, model.maps, tiled, config.scales, config.flip, precision, call_pixels, batch, threads
        )

    def __call__(
        self, pixels: Sequence[UInt8Array], classes: Tensor, stopped: Callable[[], bool] = lambda: False
    ) -> Tensor | None:
        """pixels: B times uint8 (H, W, 3); classes int64 (B, n) -> float32 (B, n, H, W) on the device.

        None when `stopped` says so between two scales. Raises the device's out-of-memory error.
        """
        height, width = pixels[0].shape[:2]
        network, maps, sizes = self.network, [], []
        if not classes.shape[1]:
            network.tiled_at = 0
            return torch.zeros(len(pixels), 0, height, width, device=network.device)
        for scale, size in network(pixels, to_device(classes, network.device)):
            if stopped():
                return None
            maps.append(scale)
            sizes.append(size)
        with torch.inference_mode(), network.cast():
            return cam_fuse(maps, height, width, network.flip, sizes=sizes, cells=self._cells)


class ClassifierJob(Job):
    """What jobs that begin with a classifier's CAMs have in common. wanted: what decides what is made of the maps."""

    def __init__(self, model: PatchClassifier, dataset: Dataset, config: CamConfig, wanted: dict[str, Any]) -> None:
        count = model.classifier.weight.shape[0]
        if count != len(dataset.classes):
            raise UserError(
                f"{dataset.name}: {len(dataset.classes)} classes, but the classifier was trained for {count}; "
                "give --classes the same list as in training"
            )
        if config.precision != "auto":
            wanted = {**wanted, "precision": config.precision}
        maps = {
            "classifier": layers_hash(model.classifier),
            "cells": list(model.backbone.cells()),
            "scales": list(config.scales),
            "flip": config.flip,
        }
        super().__init__(dataset, {**class_settings(dataset), **maps, **wanted})
        self.model, self.config, self.batch = model, config, config.batch
        self.labels = dataset.known_labels
        self.most_classes = int(self.labels.sum(axis=1).max(initial=0))

    def choices(self, device: torch.device, network_bytes: int) -> dict[str, Choice]:
        chosen = torch.zeros(1, max(1, self.most_classes), dtype=torch.int64, device=device)
        return network_choices(
            self.model, lambda images: self.model.maps(images, chosen), self.config.precision, device, network_bytes
        )

    def depends(self, index: int) -> dict[str, Any]:
        return {"classes": [int(position) for position in self.classes(index)]}

    def classes(self, index: int) -> Int64Array:
        """Positions in the class list of an image's classes."""
        return np.flatnonzero(self.labels[index])

    def prepare(self, settings: dict[str, Any], device: torch.device, network_bytes: int, threads: int) -> None:
        model, precision, pixels = self.model.to(device), settings["precision"], settings["call_pixels"]
        self.maps = MapMaker(model, self.config, precision, pixels, self.batch, threads)


class CamJob(ClassifierJob):
    title, command = "CAMs", "pplfast cam"
    smallest = 1  # what is trained on gets its part of the chain, however thin it is

    def __init__(self, model: PatchClassifier, dataset: Dataset, config: CamConfig, npy: bool) -> None:
        super().__init__(model, dataset, config, {})
        self.suffixes = (SUFFIX, ".npy") if npy else (SUFFIX,)
        self._npy = npy

    def finish(self, settings: dict[str, Any]) -> Finish:
        return FinishCam()

    def pixel_bytes(self) -> float:
        copies = 3 + self._npy + 1 / 4  # the sum over the scales, what is added to it, and what is being written
        return DECODED + SCALED * max(self.config.scales) ** 2 + 4 * self.most_classes * copies

    def compute(self, batch: ImageBatch, stopped: Callable[[], bool]) -> list[Any | BadImage] | None:
        full = self.maps(batch.pixels, own_classes(self.labels[batch.indices]), stopped)
        if full is None:
            return None
        if full.shape[1]:
            stored = F.interpolate(full, stored_size(*batch.size), mode="bilinear", align_corners=False)
        else:  # nothing to interpolate, which torch refuses
            stored = full.new_zeros(len(full), 0, *stored_size(*batch.size))
        maps, high_res = HostCopy(stored), HostCopy(full) if self._npy else None
        tiled = self.maps.network.tiled_at
        return [
            CamOfRow(row, self.classes(index), batch.size, maps, high_res, tiled)
            for row, index in enumerate(batch.indices)
        ]


@dataclass(frozen=True)
class CamOfRow:
    """One image of a batch, whose own classes' maps come first. maps: float32 (B, n, ceil(H/4), ceil(W/4)).
    high_res: float32 (B, n, H, W), where `<id>.npy` is written too."""

    row: int
    classes: IntArray
    size: tuple[int, int]
    maps: HostCopy
    high_res: HostCopy | None = None
    tiled: int = 0


class FinishCam(Finish):
    def __call__(self, payload: CamOfRow) -> Finished:
        count = len(payload.classes)
        own = payload.maps.numpy()[payload.row, :count]
        if not np.isfinite(own).all():
            raise UserError(NOT_FINITE)
        cam = Cam(payload.classes.astype(np.int16), own.astype(np.float16), payload.size)
        files = {SUFFIX: encode_cam(cam)}
        if payload.high_res is not None:
            files[".npy"] = encode_npy(cam, payload.high_res.numpy()[payload.row, :count])
        return Finished(files, facts={"tiled": payload.tiled} if payload.tiled else {})


def own_classes(labels: UInt8Array) -> Tensor:
    """labels uint8 (B, C) -> int64 (B, n), n the most classes of one image: each row's own classes first, in order.

    Rows with fewer are filled up with classes that the image does not have; their maps are dropped afterwards.
    """
    most = int(labels.sum(axis=1).max(initial=0))
    return torch.from_numpy(np.argsort(labels == 0, axis=1, kind="stable")[:, :most])


def class_settings(dataset: Dataset) -> dict[str, Any]:
    """Of a folder whose files speak of classes by their places in a list."""
    return {"class_names": list(dataset.classes.names)}
