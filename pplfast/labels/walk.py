"""CAM files and a boundary network -> refined CAM files: the random walk of each image's maps within its boundaries."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pplfast import cpu
from pplfast.data.dataset import Dataset
from pplfast.data.handover import to_device
from pplfast.data.inference import InferenceBatch, InferenceLoader
from pplfast.errors import UserError
from pplfast.files import StrPath
from pplfast.kernels import random_walk
from pplfast.kernels.random_walk import neighbours
from pplfast.labels import camfile
from pplfast.labels.batches import BatchPlan, plan_batches
from pplfast.labels.camfile import Cam, load_cam, stored_size
from pplfast.labels.camwriter import CamWriter, Row
from pplfast.labels.folder import Outcome, OutputFolder, find_outputs, read_settings
from pplfast.labels.memory import DEFAULT_MEMORY, budget_bytes
from pplfast.labels.progress import Progress
from pplfast.models.boundary import BoundaryNet
from pplfast.precision import exact_float32
from pplfast.recipe import WalkConfig

BATCH = 8  # images of one shape at a time
MAPS = 6 * 8  # at stride 4: those of up to 8 classes, and what the walk makes of them


def walk_cams(
    model: BoundaryNet,
    cams: StrPath,
    dataset: Dataset,
    config: WalkConfig,
    out: StrPath,
    threads: int = 2,
    memory: float = DEFAULT_MEMORY,
) -> Outcome:
    """Write `out/<id>.npz`, CAM files like those in `cams`, for every image of the list that has none yet.

    model: in eval mode, on the device to use. The edge map is the mean of the image's and its mirror's, at stride 4,
    as in IRN; the maps of an image are divided by the largest value of all its classes, so that a constant background
    threshold serves them. memory: GiB for what grows with the images, as in `generate_cams`. Images that fail are noted
    in `out/bad.jsonl` and in the outcome, and the rest goes on.
    Raises UserError for CAMs that are missing and a folder of other settings. Source: arXiv 1904.05044, section 4.
    """
    budget = budget_bytes(memory)
    device = next(model.parameters()).device
    cpu.install(model, device)
    exact_float32()
    cams = Path(cams)
    failed = find_outputs(cams, dataset.ids, camfile.SUFFIX, "pplfast cam")
    folder = OutputFolder(out, camfile.SUFFIX, _settings(model, cams, config))
    for image_id, reason in failed.items():
        folder.failed(image_id, reason)
    pending = [index for index in folder.pending(dataset.ids) if dataset.ids[index] not in failed]
    walk_pixel = 4 * (len(neighbours(config.radius)) + MAPS) / 16  # float32 affinities and maps, of 4 x 4 pixels each
    plan = plan_batches(model, device, (1.0,), True, BATCH, walk_pixel, budget) if pending else None
    with Progress("random walk", len(pending)) as progress, torch.inference_mode(), CamWriter(folder) as writer:
        on_bad = folder.on_bad(dataset, progress.advance)
        batches = (
            InferenceLoader(
                dataset,
                (1.0,),
                True,
                model.backbone.mean,
                model.backbone.std,
                BATCH,
                threads,
                device,
                indices=pending,
                on_bad=on_bad,
                fit=plan,
            )
            if plan
            else ()
        )
        for batch in batches:
            assert plan is not None, "the batches were made by it"
            _walk_batch(model, batch, cams, dataset, config, folder, writer, device, plan)
            progress.advance(len(batch.indices))
            del batch  # or it would be held while the next one is made
    return folder.finish(progress.seconds)


def edges(model: BoundaryNet, images: Tensor, at_once: Callable[[Tensor], int] = len) -> Tensor:
    """images (2 * B, 3, H, W), plain rows, then mirrored ones -> edge maps float32 (B, ceil(H/4), ceil(W/4)).

    at_once: of the images, how many one call of the network gets.
    """
    found = torch.cat([model(part) for part in images.split(min(len(images), at_once(images)))])
    plain, mirrored = found.float().chunk(2)
    return torch.sigmoid((plain + mirrored.flip(2)) / 2)


def _walk_batch(
    model: BoundaryNet,
    batch: InferenceBatch,
    cams: Path,
    dataset: Dataset,
    config: WalkConfig,
    folder: OutputFolder,
    writer: CamWriter,
    device: torch.device,
    plan: BatchPlan,
) -> None:
    names = [dataset.ids[index] for index in batch.indices]
    size = (batch.height, batch.width)
    loaded = [_load(cams / f"{name}{camfile.SUFFIX}", name, size, folder) for name in names]
    maps = torch.zeros(len(loaded), max(len(cam.classes) if cam else 1 for cam in loaded), *stored_size(*size))
    for row, cam in zip(maps, loaded, strict=True):
        if cam is not None:
            row[: len(cam.classes)] = torch.from_numpy(cam.maps.astype(np.float32))
    walked = random_walk(
        to_device(maps, device), edges(model, batch.images[0], plan.make_room), config.steps, config.beta, config.radius
    )
    walked = walked / walked.amax((1, 2, 3), keepdim=True).clamp(min=1e-30)
    writer.add(
        [
            Row(row, name, cam.classes)
            for row, (name, cam) in enumerate(zip(names, loaded, strict=True))
            if cam is not None
        ],
        size,
        walked,
    )


def _load(path: Path, name: str, size: tuple[int, int], folder: OutputFolder) -> Cam | None:
    """The CAM of an image of that size; None, and the reason noted in the folder, where there is no such CAM."""
    try:
        cam = load_cam(path)
    except UserError as error:
        folder.failed(name, str(error))
        return None
    if cam.size != size:
        folder.failed(
            name,
            f"{path}: is for {cam.size[1]} x {cam.size[0]} pixels, the image has {size[1]} x "
            f"{size[0]}; make the CAM again",
        )
        return None
    return cam


def _settings(model: BoundaryNet, cams: Path, config: WalkConfig) -> dict[str, Any]:
    """What decides the maps. The network is named by its heads: training never leaves them unchanged."""
    digest = hashlib.sha256()
    for head in (*model.heads, model.edge):
        for tensor in head.state_dict().values():
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return {
        "boundary": digest.hexdigest()[:16],
        "radius": config.radius,
        "beta": config.beta,
        "steps": config.steps,
        "cams": read_settings(cams),
    }
