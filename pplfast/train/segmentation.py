"""Training the segmentation network on pseudo labels."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pplfast.data.classes import BACKGROUND, IGNORE, ClassList
from pplfast.data.dataset import Dataset
from pplfast.data.loader import Batch, TrainLoader
from pplfast.described import described_classes
from pplfast.extend import refuse_modules_within
from pplfast.files import StrPath
from pplfast.kernels import Cells, place
from pplfast.models import create
from pplfast.models.segmentation import SegmentationNet
from pplfast.networks import SEGMENTATION, find_network
from pplfast.recipe import ModelConfig, SegmentationConfig, part_from_dict
from pplfast.train.check import check_segmentation
from pplfast.train.masks import mask_record, with_masks
from pplfast.train.network_file import as_described, load_weights_into, read_network, read_training, save_network
from pplfast.train.plan import StagePlan
from pplfast.train.task import Task
from pplfast.train.trainer import TrainOptions, TrainResult, run_task

NAME = "segmentation"


def train_segmentation(
    config: SegmentationConfig,
    dataset: Dataset,
    masks: StrPath,
    out: StrPath,
    seed: int = 0,
    resume: bool = False,
    options: TrainOptions = TrainOptions(),
) -> TrainResult:
    """Train a segmentation network into the folder `out`: segmentation.safetensors, segmentation.json.

    masks: a folder of label PNGs; images without a file there are left out, pixels of 255 are ignored.
    resume: a finished folder is left as it is, an unfinished one continued with `resume`; under a
    launcher every rank calls this alike. Raises UserError for settings or data that cannot be, an `out` of another
    run, an unfinished one without `resume`, a full disk, and a loss that is not finite.
    """
    return run_task(SegmentationTask(config, with_masks(dataset, masks), seed), out, resume, options)


class SegmentationTask(Task[SegmentationNet]):
    """dataset: with the labels to train on as its masks."""

    result_file = f"{NAME}.json"

    def __init__(self, config: SegmentationConfig, dataset: Dataset, seed: int) -> None:
        self.config, self.dataset, self.seed, self.optim = config, dataset, seed, config.optim
        self.table = row_table(dataset.classes)
        self.title = f"segmentation network, {config.model.backbone}"

    def check(self) -> None:
        check_segmentation(self.config)

    def record(self) -> dict[str, Any]:
        return mask_record(NAME, dataclasses.asdict(self.config), self.dataset, self.seed)

    def build(self) -> tuple[SegmentationNet, tuple[StagePlan, ...]]:
        model = self.config.model
        backbone, _ = create(model.backbone, weights=model.weights, output_stride=model.output_stride)
        backbone.freeze(backbone.frozen_default if model.frozen_blocks < 0 else model.frozen_blocks)
        network = SegmentationNet(backbone, len(self.dataset.classes) + 1, self.config.head)
        self.cells = network.cells
        return network, (StagePlan((), (), (self.config,), 1.0, "segmentation"),)

    def load(self, model: SegmentationNet, **options: Any) -> TrainLoader:
        return TrainLoader(
            self.dataset, self.config.augment, model.backbone.mean, model.backbone.std, masks=True, **options
        )

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        self.table = self.table.to(batch.targets.device)  # stays there: a copy in each step would wait for the device
        rows = self.table[batch.targets]
        return batch.weights * pixel_losses(outputs, self.cells, rows, self.config.balanced)

    def save(self, model: SegmentationNet, stage: StagePlan, training: dict[str, Any], folder: Path) -> None:
        classes = self.dataset.classes
        save_network(
            model,
            NAME,
            {
                "model": dataclasses.asdict(self.config.model),
                "head": model.head_name,
                "class_names": classes.names,
                "class_ids": classes.ids,
                "training": training,
                "settings": dataclasses.asdict(self.config),
                "dataset": self.dataset.name,
                "range": self.dataset.values,
            },
            folder,
        )

    def read_training(self, folder: Path) -> dict[str, Any]:
        return read_training(folder, NAME)


def load_segmentation(folder: StrPath) -> tuple[SegmentationNet, ClassList]:
    """The network of a finished `train_segmentation`, on the CPU, in eval mode, and its classes.

    folder: the training folder, or that of its run or variant. Raises UserError where it has no such network, or where
    the files do not fit each other.
    """
    folder = find_network(folder, SEGMENTATION)
    info = read_network(folder, NAME)
    with as_described(folder, NAME):
        source = f"{folder / NAME}.json: not the description of a segmentation network: model"
        config = part_from_dict(ModelConfig, info["model"], source)
        refuse_modules_within(folder, config.backbone)
        classes = described_classes(info)
        backbone, _ = create(config.backbone, weights="none", output_stride=config.output_stride)
        network = SegmentationNet(backbone, len(classes) + 1, info["head"])
    return load_weights_into(network, folder, NAME), classes


def row_table(classes: ClassList) -> Tensor:
    """int64 (256,): mask value -> row of the logits: 0 background, c + 1 class c, IGNORE for 255 and unlisted ones."""
    table = torch.full((256,), IGNORE)
    table[BACKGROUND] = 0
    table[list(classes.ids)] = torch.arange(1, len(classes) + 1)
    return table


def pixel_losses(logits: Tensor, cells: Cells, rows: Tensor, balanced: bool) -> Tensor:
    """Logits (B, R, h, w), which lie at `cells`, and rows int64 (B, H, W) -> cross entropy of each image, float32 (B,).

    The mean over an image's labelled pixels; `balanced`: the mean of that over its background pixels and that over its
    object pixels, of those that it has. Logits are enlarged to the labels' size, which are never resampled.
    """
    height, width = rows.shape[1:]
    logits = place(logits.float(), cells, (Cells(0, 1), Cells(0, 1)), (height, width))
    losses = F.cross_entropy(logits, rows, ignore_index=IGNORE, reduction="none").flatten(1)
    rows = rows.flatten(1)
    if not balanced:
        return losses.sum(1) / (rows != IGNORE).sum(1).clamp(min=1)
    parts = [rows == BACKGROUND, (rows != BACKGROUND) & (rows != IGNORE)]
    means = [(losses * part).sum(1) / part.sum(1).clamp(min=1) for part in parts]
    count = torch.stack([part.any(1) for part in parts]).sum(0)
    return torch.stack(means).sum(0) / count.clamp(min=1)
