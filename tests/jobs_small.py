"""Small jobs without a network, and networks of two layers, for the tests of the engine."""

import os
from pathlib import Path

import numpy as np
import torch
from bare_backbone import BareBackbone
from finish_small import FinishMean
from label_jobs import jpeg
from torch import nn

from pplfast.data.classes import ClassList
from pplfast.data.dataset import Dataset
from pplfast.jobs import pipeline, plan
from pplfast.jobs.job import Job
from pplfast.jobs.manifest import read_manifest
from pplfast.jobs.options import JobOptions
from pplfast.kernels import Cells

CLASSES = ClassList(("bus", "cat", "person"), (6, 8, 15))
OPTIONS = JobOptions(memory=0.25, jobs=1, threads=1)


def images(root: Path, ids, size=(40, 24)) -> Dataset:
    """Noise of that width and height, each image its own; one class each in turn."""
    paths = []
    for number, name in enumerate(ids):
        path = root / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(*size, seed=number))
        paths.append(path)
    labels = np.eye(len(CLASSES), dtype=np.uint8)[np.arange(len(paths)) % len(CLASSES)]
    return Dataset("small", tuple(ids), tuple(paths), CLASSES, labels, (None,) * len(paths))


def replace(path: Path, data: bytes, later: int = 10) -> None:
    """Other bytes, changed so many seconds later."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_bytes(data)
    os.utime(path, ns=(before, before + later * 10**9))


class Mean(Job):
    """`<id>.png` holds the mean of an image as text. seen: ids that `compute` got, in order."""

    title, command, suffixes = "means", "pplfast mean", (".png",)
    batch = 4

    def __init__(self, dataset: Dataset, wanted=None, **changes) -> None:
        super().__init__(dataset, {"kind": "mean"} if wanted is None else wanted)
        self.seen: list[str] = []
        self.sizes: list[int] = []
        self.inputs: dict[int, dict] = {}
        self.chosen: dict = {}
        vars(self).update(changes)

    def choices(self, device, network_bytes):
        return self.chosen

    def depends(self, index):
        return self.inputs.get(index, {})

    def finish(self, settings):
        return FinishMean(self.suffixes, bool(self.shards))

    def prepare(self, settings, device, network_bytes, threads):
        self.settings = settings

    def pixel_bytes(self):
        return 16.0

    def compute(self, batch, stopped):
        self.seen += [self.dataset.ids[index] for index in batch.indices]
        self.sizes.append(len(batch.indices))
        return [
            (self.dataset.images[index], f"{image.mean():.6f}")
            for index, image in zip(batch.indices, batch.pixels, strict=True)
        ]


def small_backbone():
    return BareBackbone(2, 2, shift=0.0, mean=(127.0,) * 3, std=(64.0,) * 3)


class SmallClassifier(nn.Module):
    """Like a classifier, with a receptive field that a tile's overlap covers: tiles are then exact. rows: the shapes of
    its calls."""

    def __init__(self, classes: int = len(CLASSES)):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = small_backbone()
        self.first, self.classifier = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, classes, 3, 2, 1)
        self.rows = []

    def maps(self, images, classes=None):
        self.rows.append(tuple(images.shape))
        out = self.classifier(self.first(images).relu()).relu()
        return out if classes is None else torch.stack([m[c] for m, c in zip(out, classes, strict=True)])


class SmallBoundary(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.backbone = small_backbone()
        self.heads, self.edge = nn.ModuleList([nn.Conv2d(3, 4, 4, 4)]), nn.Conv2d(4, 1, 1)

    def forward(self, images):
        right, below = -images.shape[3] % 4, -images.shape[2] % 4
        return self.edge(self.heads[0](nn.functional.pad(images, (0, right, 0, below))))[:, 0]


class SmallSegmenter(nn.Module):
    cells = Cells.over(4, 1)

    def __init__(self, rows: int = 1 + len(CLASSES)):
        super().__init__()
        torch.manual_seed(2)
        self.backbone, self.head = small_backbone(), nn.Conv2d(3, rows, 4, 4)

    def forward(self, images):
        right, below = -images.shape[3] % 4, -images.shape[2] % 4
        return self.head(nn.functional.pad(images, (0, right, 0, below)))


def in_batches(monkeypatch) -> None:
    """As on a GPU: several images of one size at a time."""
    plain = pipeline.Feed

    def feed(job, indices, batch, keeper, *more):
        keeper._batch = job.batch
        return plain(job, indices, job.batch, keeper, *more)

    monkeypatch.setattr(pipeline, "Feed", feed)


def plan_of(job: Job, out: Path, verify: bool = False):
    """What a single rank finds to do: positions, and how many are done, and bad. As in `run_job`."""
    plan.tidy(out, job.dataset.ids)
    positions = np.arange(len(job.dataset), dtype=np.int64)
    return plan.keep(job, out, plan.to_do(job, out, positions, read_manifest(out), verify))
