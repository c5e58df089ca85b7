"""A segmentation network and images -> label PNGs: scales and flips, the mean of the probabilities, dense CRF."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pplfast import cpu
from pplfast.data.classes import BACKGROUND, ClassList
from pplfast.data.dataset import Dataset
from pplfast.data.inference import InferenceBatch, InferenceLoader
from pplfast.files import StrPath
from pplfast.labels import presets
from pplfast.labels.batches import BatchPlan, plan_batches
from pplfast.labels.folder import Outcome, OutputFolder
from pplfast.labels.memory import DEFAULT_MEMORY, budget_bytes, label_bytes
from pplfast.labels.pool import default_jobs, map_unordered
from pplfast.labels.progress import Progress
from pplfast.labels.pseudo import SUFFIX
from pplfast.labels.refine import Prediction, refine_prediction
from pplfast.models.segmentation import SegmentationNet
from pplfast.precision import exact_float32, resolve_precision
from pplfast.recipe import SegmentationConfig

CRF_SHARE = 0.5  # of the memory budget
LEAST = 0.01  # probability that a class must reach somewhere in the image to take part in its CRF


def segment_images(
    model: SegmentationNet,
    classes: ClassList,
    dataset: Dataset,
    config: SegmentationConfig,
    out: StrPath,
    jobs: int | None = None,
    threads: int = 2,
    memory: float = DEFAULT_MEMORY,
) -> Outcome:
    """Write `out/<id>.png`, mask ids of `classes`, for every image of the list that has none yet.

    model: in eval mode, on the device to use. jobs: worker processes of the CRF, None for one per core. memory: GiB for
    what grows with the images, half of them for the network and half for the CRF: fewer large ones are worked on at
    once, and one that it does not suffice for is a bad image. Images that fail are noted in `out/bad.jsonl` and in the
    outcome, and the rest goes on. Raises UserError for a CRF preset that does not exist and a folder of other settings.
    """
    budget = budget_bytes(memory)
    presets.check_crf(config.crf)
    device = next(model.parameters()).device
    exact_float32()
    precision = resolve_precision(config.optim.precision, device)
    cpu.install(model, device)
    folder = OutputFolder(out, SUFFIX, _settings(model, classes, config, precision))
    pending = folder.pending(dataset.ids)
    with Progress("segmentation", len(pending)) as progress:
        on_bad = folder.on_bad(dataset, progress.advance)
        bf16, room = precision == "bf16", int(CRF_SHARE * budget)
        stream = _Stream(model, classes, dataset, config, folder, pending, device, bf16, threads, on_bad, budget - room)
        work = partial(refine_prediction, preset=config.crf, room=room)
        jobs = default_jobs() if jobs is None else jobs
        for prediction, reason in map_unordered(work, stream, jobs, room, prediction_bytes):
            if reason:
                folder.failed(prediction.id, reason)
            else:
                folder.outcome.written += 1
            progress.advance()
    return folder.finish(progress.seconds)


@dataclass
class _Stream:
    """The predictions, made when the pool asks for them: at most a few images' probabilities are held."""

    model: SegmentationNet
    classes: ClassList
    dataset: Dataset
    config: SegmentationConfig
    folder: OutputFolder
    pending: list[int]
    device: torch.device
    bf16: bool
    threads: int
    on_bad: Callable[[int, str], None]
    budget: int  # bytes

    def __len__(self) -> int:
        return len(self.pending)

    def __iter__(self) -> Iterator[Prediction]:
        if not self.pending:
            return
        mean, std = self.model.backbone.mean, self.model.backbone.std
        plan = self._plan()
        loader = InferenceLoader(
            self.dataset,
            self.config.scales,
            self.config.flip,
            mean,
            std,
            self.config.test_batch,
            self.threads,
            self.device,
            indices=self.pending,
            on_bad=self.on_bad,
            fit=plan,
        )
        ids = np.array([BACKGROUND, *self.classes.ids], np.uint8)
        for batch in loader:
            with torch.inference_mode(), self._cast():
                found = probabilities(self.model, batch, self.config.flip, plan.make_room)
            for index, values in zip(batch.indices, found.cpu().numpy(), strict=True):
                name = self.dataset.ids[index]
                rows = rows_of(values)
                yield Prediction(name, self.dataset.images[index], self.folder.output(name), ids[rows], values[rows])
            del batch, found, values  # or they would be held while the next batch is made

    def _cast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def _plan(self) -> BatchPlan:
        config, rows = self.config, len(self.classes) + 1
        copies = (
            2 * (2 if config.flip else 1) + 2
        )  # logits and their softmax; the sum over the scales, and what is kept
        with self._cast():
            return plan_batches(
                self.model,
                self.device,
                config.scales,
                config.flip,
                config.test_batch,
                result=4 * rows * copies,
                budget=self.budget,
            )


def prediction_bytes(prediction: Prediction) -> int:
    """What it holds until its label is on the disk."""
    return label_bytes(prediction.probabilities[0].size, len(prediction.ids) - 1, 1.0)


def rows_of(probabilities: np.ndarray) -> np.ndarray:
    """Of float32 (rows, H, W), those that take part in an image's CRF."""
    return np.flatnonzero(probabilities.max(axis=(1, 2)) >= LEAST)


def probabilities(
    model: SegmentationNet, batch: InferenceBatch, flip: bool, at_once: Callable[[Tensor], int] = len
) -> Tensor:
    """float32 (B, rows, height, width): the mean over scales and flips of the softmax at the images' size.

    at_once: of the images (rows, 3, h, w) of a scale, how many one call of the network gets.
    """
    total = batch.images[0].new_zeros(())
    for images in batch.images:
        logits = torch.cat([model(part) for part in images.split(min(len(images), at_once(images)))]).float()
        if flip:
            plain, mirrored = logits.chunk(2)
            logits = torch.cat((plain, mirrored.flip(3)))
        full = F.interpolate(logits, size=(batch.height, batch.width), mode="bilinear", align_corners=False).softmax(1)
        if flip:
            plain, mirrored = full.chunk(2)
            full = plain + mirrored
        total = total + full
    return total / (len(batch.images) * (2 if flip else 1))


def _settings(model: SegmentationNet, classes: ClassList, config: SegmentationConfig, precision: str) -> dict[str, Any]:
    """What decides the labels. The network is named by its head: training never leaves that unchanged."""
    digest = hashlib.sha256()
    for tensor in model.head.state_dict().values():
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return {
        "network": digest.hexdigest()[:16],
        "scales": list(config.scales),
        "flip": config.flip,
        "crf": config.crf,
        "classes": list(classes.ids),
        "precision": precision,
    }
