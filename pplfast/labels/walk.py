"""CAM files and a boundary network -> refined CAM files: the random walk of each image's maps within its boundaries."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pplfast.data.dataset import Dataset
from pplfast.data.handover import HostCopy, to_device
from pplfast.data.images import BadImage
from pplfast.files import StrPath
from pplfast.jobs.job import Choice, Finish, ImageBatch, Job
from pplfast.jobs.memory import DECODED, SCALED
from pplfast.jobs.options import DEFAULTS, JobOptions, Outcome
from pplfast.jobs.run import run_job
from pplfast.kernels import random_walk
from pplfast.kernels.random_walk import neighbours
from pplfast.labels.cam import CamOfRow, FinishCam, class_settings
from pplfast.labels.camfile import SUFFIX, Cam, stored_size
from pplfast.labels.camfolder import CamFolder
from pplfast.labels.network import ScaledNetwork, in_tiles, layers_hash, network_choices
from pplfast.models.boundary import STRIDE, BoundaryNet
from pplfast.recipe import WalkConfig

BATCH = 8  # images of one size at a time
MAPS = 6 * 8  # at stride 4: those of up to 8 classes, and what the walk makes of them


def walk_cams(
    model: BoundaryNet,
    cams: StrPath,
    dataset: Dataset,
    config: WalkConfig,
    out: StrPath,
    options: JobOptions = DEFAULTS,
) -> Outcome:
    """Write `out/<id>.npz`, CAM files like those in `cams`, for every image of the list that has none yet, alone or as
    one rank of a launcher.

    model: in eval mode; moved to this rank's device. The edge map is the mean of the image's and its mirror's, at
    stride 4, as in IRN; the maps of an image are divided by the largest value of all its classes, so that a constant
    background threshold serves them. Images that fail are noted in `out/manifest.jsonl` and in the outcome, and the
    rest goes on. Raises UserError for CAMs that are missing or of other classes, and as `run_job` does.
    Source: arXiv 1904.05044, section 4.
    """
    return run_job(WalkJob(model, CamFolder(cams, dataset), dataset, config), out, options)


class WalkJob(Job):
    title, command, suffixes, batch = "random walk", "pplfast refine walk", (SUFFIX,), BATCH
    smallest = 1  # what is trained on gets its part of the chain, however thin it is

    def __init__(self, model: BoundaryNet, cams: CamFolder, dataset: Dataset, config: WalkConfig) -> None:
        walk = {"radius": config.radius, "beta": config.beta, "steps": config.steps, "precision": "fp32"}
        super().__init__(
            dataset,
            {
                **class_settings(dataset),
                "boundary": layers_hash(*model.heads, model.edge),
                **walk,
                "cams": cams.settings,
            },
        )
        self._model, self._cams, self._config = model, cams, config

    def finish(self, settings: dict[str, Any]) -> Finish:
        return FinishCam()

    def choices(self, device: torch.device, network_bytes: int) -> dict[str, Choice]:
        return network_choices(self._model, self._model, "fp32", device, network_bytes)

    def depends(self, index: int) -> dict[str, Any]:
        return self._cams.state(index)

    def prepare(self, settings: dict[str, Any], device: torch.device, network_bytes: int, threads: int) -> None:
        model = self._model.to(device)

        def tiled(row: Tensor, pixels: int) -> Tensor:
            return in_tiles(lambda part: model(part)[:, None], row, pixels, model.backbone.stride, STRIDE)[:, 0]

        self._network = ScaledNetwork(
            model, model, tiled, (1.0,), True, "fp32", settings["call_pixels"], self.batch, threads
        )

    def pixel_bytes(self) -> float:
        return DECODED + SCALED + 4 * (len(neighbours(self._config.radius)) + MAPS) / STRIDE**2

    def compute(self, batch: ImageBatch, stopped: Callable[[], bool]) -> list[Any | BadImage] | None:
        config, device = self._config, self._network.device
        loaded = [self._cams.load(index, batch.size) for index in batch.indices]
        most = max((len(cam.classes) for cam in loaded if isinstance(cam, Cam)), default=0)
        maps = torch.zeros(len(loaded), max(1, most), *stored_size(*batch.size))
        for row, cam in zip(maps, loaded, strict=True):
            if isinstance(cam, Cam):
                row[: len(cam.classes)] = torch.from_numpy(cam.maps.astype(np.float32))
        with torch.inference_mode():
            ((found, _),) = self._network(batch.pixels)
            walked = random_walk(to_device(maps, device), edges(found), config.steps, config.beta, config.radius)
            result = HostCopy(walked / walked.amax((1, 2, 3), keepdim=True).clamp(min=1e-30))
        tiled = self._network.tiled_at
        return [
            cam if isinstance(cam, BadImage) else CamOfRow(row, cam.classes, batch.size, result, tiled=tiled)
            for row, cam in enumerate(loaded)
        ]


def edges(found: Tensor) -> Tensor:
    """(2 * B, h, w) logits of images, then of the mirrored ones -> edge maps float32 (B, h, w)."""
    plain, mirrored = found.float().chunk(2)
    return torch.sigmoid((plain + mirrored.flip(2)) / 2)
