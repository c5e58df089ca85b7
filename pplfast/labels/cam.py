"""A classifier and images -> class activation maps of each image's classes: scales and flips, summed, normalised."""

import hashlib
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pplfast import cpu
from pplfast.arrays import UInt8Array
from pplfast.data.dataset import Dataset
from pplfast.data.handover import to_device
from pplfast.data.inference import InferenceBatch, InferenceLoader
from pplfast.errors import UserError
from pplfast.files import StrPath
from pplfast.kernels import cam_fuse
from pplfast.labels.batches import BatchPlan, plan_batches
from pplfast.labels.camfile import SUFFIX, stored_size
from pplfast.labels.camwriter import BATCHES_WAITING, CamWriter, Row, npy_path
from pplfast.labels.folder import Outcome, OutputFolder
from pplfast.labels.memory import DEFAULT_MEMORY, budget_bytes
from pplfast.labels.progress import Progress
from pplfast.patch.classifier import PatchClassifier
from pplfast.precision import exact_float32, resolve_precision
from pplfast.recipe import CamConfig

# Of one call of the network on a CPU: small maps gain from company (8 rows of 188 x 250: 40 % less time a row than
# one), those of one row of 750 x 1000 do not, and take memory.
CPU_PIXELS = 800_000


def generate_cams(
    model: PatchClassifier,
    dataset: Dataset,
    config: CamConfig,
    out: StrPath,
    npy: bool = False,
    threads: int = 2,
    loader: Callable[..., Iterable[InferenceBatch]] = InferenceLoader,
    memory: float = DEFAULT_MEMORY,
) -> Outcome:
    """Write `out/<id>.npz` for every image of the data set that has none yet; with `npy` also `<id>.npy`.

    model: in eval mode, with its stage set, on the device to use. threads: DALI's. memory: GiB for what grows with the
    images: batches of large ones get smaller, and one that it does not suffice for is a bad image.
    Source of the maps: arXiv 2209.07828; of their fusion over scales and flips, IRN's code (arXiv 1904.05044).
    Maps are fused and normalised at the image's own size (`high_res` of the npy), then sampled at stride 4.
    Images that cannot be used are noted in `out/bad.jsonl` and in the outcome, and the rest goes on. Raises UserError
    for images without labels, a model that does not fit the data set, a folder of other settings.
    """
    budget_bytes(memory)
    check_fits(model, dataset)
    device = next(model.parameters()).device
    exact_float32()
    precision = resolve_precision(config.precision, device)
    cpu.install(model, device)
    folder = OutputFolder(out, SUFFIX, _settings(model, config, precision))
    pending = folder.pending(dataset.ids)
    if npy:  # an earlier pass may have been without
        pending = sorted({*pending, *(i for i, name in enumerate(dataset.ids) if not npy_path(folder, name).exists())})
        folder.outcome.skipped = len(dataset) - len(pending)
    labels = dataset.known_labels
    plan = plan_cams(model, config, precision, int(labels.sum(axis=1).max()), npy, memory) if pending else None
    with Progress("CAMs", len(pending)) as progress, torch.inference_mode(), CamWriter(folder) as writer:
        on_bad = folder.on_bad(dataset, progress.advance)
        batches = (
            loader(
                dataset,
                config.scales,
                config.flip,
                model.backbone.mean,
                model.backbone.std,
                config.batch,
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
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                full = _fused_maps(model, batch, labels[batch.indices], config.flip, device, plan)
            size = (batch.height, batch.width)
            stored = F.interpolate(full, stored_size(*size), mode="bilinear", align_corners=False)
            rows = [
                Row(row, dataset.ids[index], np.flatnonzero(labels[index]).astype(np.int16))
                for row, index in enumerate(batch.indices)
            ]
            writer.add(rows, size, stored, full if npy else None)
            progress.advance(len(batch.indices))
            del batch, full, stored  # or they would be held while the next batch is made
    return folder.finish(progress.seconds)


def plan_cams(
    model: PatchClassifier, config: CamConfig, precision: str, classes: int, npy: bool, memory: float
) -> BatchPlan:
    """classes: the most of one image."""
    device = next(model.parameters()).device
    chosen = torch.zeros(1, classes, dtype=torch.int64, device=device)
    copies = 2 + npy * (1 + BATCHES_WAITING)  # the sum over the scales and what is added to it; what is being written
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        return plan_batches(
            lambda images: model.maps(images, chosen),
            device,
            config.scales,
            config.flip,
            config.batch,
            result=4 * classes * (copies + 1 / 4),  # the maps at stride 4, on their way to a file
            budget=budget_bytes(memory),
        )


def rows_at_once(device: torch.device, pixels: int) -> int:
    """How many images of that many pixels one call of the network gets; on a GPU all."""
    return max(1, CPU_PIXELS // pixels) if device.type == "cpu" else sys.maxsize


def _fused_maps(
    model: PatchClassifier,
    batch: InferenceBatch,
    labels: UInt8Array,
    flip: bool,
    device: torch.device,
    plan: BatchPlan,
) -> Tensor:
    """float32 (B, n, H, W), of the classes of `own_classes(labels)`."""
    classes = to_device(own_classes(labels), device).repeat(2 if flip else 1, 1)
    return cam_fuse([_maps(model, images, classes, plan) for images in batch.images], batch.height, batch.width, flip)


def _maps(model: PatchClassifier, images: Tensor, classes: Tensor, plan: BatchPlan) -> Tensor:
    rows = min(len(images), rows_at_once(images.device, images[0, 0].numel()), plan.make_room(images))
    return torch.cat([model.maps(*part) for part in zip(images.split(rows), classes.split(rows), strict=True)])


def own_classes(labels: UInt8Array) -> Tensor:
    """labels uint8 (B, C) -> int64 (B, n), n the most classes of one image: each row's own classes first, in order.

    Rows with fewer are filled up with classes that the image does not have; their maps are dropped afterwards.
    """
    most = int(labels.sum(axis=1).max())
    return torch.from_numpy(np.argsort(labels == 0, axis=1, kind="stable")[:, :most])


def check_fits(model: PatchClassifier, dataset: Dataset) -> None:
    """Raises UserError for images without labels, and for a classifier of other classes."""
    if dataset.labels is None:
        raise UserError(
            f"{dataset.name}: has no image labels, and CAMs are made of an image's own classes; give --labels"
        )
    empty = [name for name, row in zip(dataset.ids, dataset.labels, strict=True) if not row.any()]
    if empty:
        raise UserError(
            f"{dataset.name}: {len(empty)} images have no label (first: {empty[0]}); add their labels to "
            "the file of --labels, or take them off the list"
        )
    count = model.classifier.weight.shape[0]
    if count != len(dataset.classes):
        raise UserError(
            f"{dataset.name}: {len(dataset.classes)} classes, but the classifier was trained for {count}; "
            "give --classes the same list as in training"
        )


def _settings(model: PatchClassifier, config: CamConfig, precision: str) -> dict[str, Any]:
    """What decides the maps."""
    return {
        "classifier": classifier_hash(model),
        "scales": list(config.scales),
        "flip": config.flip,
        "precision": precision,
    }


def classifier_hash(model: PatchClassifier) -> str:
    """Names a classifier by its last layer: training never leaves that unchanged."""
    weight = model.classifier.weight.detach().float().cpu().contiguous().numpy()
    return hashlib.sha256(weight.tobytes()).hexdigest()[:16]
