"""Training the boundary network on confident labels: between pixels of one class there must be no boundary."""

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pplfast.data.classes import BACKGROUND, IGNORE
from pplfast.data.dataset import Dataset
from pplfast.data.loader import Batch, TrainLoader
from pplfast.extend import refuse_modules_within
from pplfast.files import StrPath
from pplfast.kernels.random_walk import neighbours, straight_path
from pplfast.models import create
from pplfast.models.boundary import STRIDE, BoundaryNet
from pplfast.networks import BOUNDARY, find_network
from pplfast.patch.classifier import PatchClassifier
from pplfast.recipe import AffinityConfig, ModelConfig, part_from_dict
from pplfast.train.check import check_affinity
from pplfast.train.masks import mask_record, with_masks
from pplfast.train.network_file import as_described, load_weights_into, read_network, read_training, save_network
from pplfast.train.plan import StagePlan
from pplfast.train.task import Task
from pplfast.train.trainer import TrainOptions, TrainResult, run_task

NAME = "boundary"
EPSILON = 1e-5  # in the logarithms, as in IRN's code


def train_boundaries(
    config: AffinityConfig,
    classifier: PatchClassifier,
    dataset: Dataset,
    masks: StrPath,
    out: StrPath,
    seed: int = 0,
    resume: bool = False,
    options: TrainOptions = TrainOptions(),
) -> TrainResult:
    """Train a boundary network on `classifier`'s backbone into the folder `out`: boundary.safetensors, boundary.json.

    masks: the folder of `generate_affinity_labels`; images without a file there are left out.
    Source: IRN, arXiv 1904.05044, section 4.1 and eq. 6.
    resume: a finished folder is left as it is, an unfinished one continued with `resume`; under a
    launcher every rank calls this alike. Raises UserError for settings or data that cannot be, an `out` of another
    run, an unfinished one without `resume`, a full disk, and a loss that is not finite.
    """
    return run_task(AffinityTask(config, classifier, with_masks(dataset, masks), seed), out, resume, options)


class AffinityTask(Task[BoundaryNet]):
    """dataset: with the affinity labels as its masks."""

    result_file = f"{NAME}.json"

    def __init__(self, config: AffinityConfig, classifier: PatchClassifier, dataset: Dataset, seed: int) -> None:
        self.config, self.classifier, self.dataset, self.seed = config, classifier, dataset, seed
        self.optim = config.optim
        self.title = f"boundary network, {classifier.backbone.name}"

    def check(self) -> None:
        check_affinity(self.config)

    def record(self) -> dict[str, Any]:
        return mask_record(NAME, dataclasses.asdict(self.config), self.dataset, self.seed)

    def build(self) -> tuple[BoundaryNet, tuple[StagePlan, ...]]:
        return BoundaryNet(self.classifier.backbone), (StagePlan((), (), (self.config,), 1.0, "class boundaries"),)

    def load(self, model: BoundaryNet, **options: Any) -> TrainLoader:
        return TrainLoader(
            self.dataset, self.config.augment, model.backbone.mean, model.backbone.std, masks=True, **options
        )

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        return batch.weights * affinity_losses(outputs, batch.targets, self.config.radius)

    def save(self, model: BoundaryNet, stage: StagePlan, training: dict[str, Any], folder: Path) -> None:
        backbone = model.backbone
        stride = 1
        for spec in backbone.specs:
            stride *= spec.stride
        save_network(
            model,
            NAME,
            {
                "backbone": backbone.name,
                "output_stride": stride,
                "class_names": self.dataset.classes.names,  # the network knows none; for the data set of the walk
                "class_ids": self.dataset.classes.ids,
                "training": training,
                "settings": dataclasses.asdict(self.config),
                "dataset": self.dataset.name,
                "range": self.dataset.values,
            },
            folder,
        )

    def read_training(self, folder: Path) -> dict[str, Any]:
        return read_training(folder, NAME)


def load_boundaries(folder: StrPath) -> BoundaryNet:
    """The network of a finished `train_boundaries`, on the CPU, in eval mode.

    folder: the training folder, or that of its run or variant. Raises UserError where it has no such network, or where
    the files do not fit each other.
    """
    folder = find_network(folder, BOUNDARY)
    info = read_network(folder, NAME)
    with as_described(folder, NAME):
        named = {"backbone": info["backbone"], "output_stride": info["output_stride"]}
        config = part_from_dict(ModelConfig, named, f"{folder / NAME}.json: not the description of a boundary network")
        refuse_modules_within(folder, config.backbone)
        backbone, _ = create(config.backbone, weights="none", output_stride=config.output_stride)
        network = BoundaryNet(backbone)
    return load_weights_into(network, folder, NAME)


def affinity_losses(logits: Tensor, labels: Tensor, radius: int) -> Tensor:
    """Edge logits (B, h, w) and labels at the images' size, int64 (B, 4h, 4w), -> losses float32 (B,).

    IRN's loss (arXiv 1904.05044, eq. 6), over the pairs of pixels nearer than `radius` whose labels are known:
    -log(affinity) of equal labels, the mean over background pairs and that over object pairs weighted equally, and
    -log(1 - affinity) of different ones, as much as both together. The affinity is 1 - the largest edge between the
    two. Means are per image, where IRN takes them over the batch, so that ranks need not tell each other their counts.
    """
    edge, order = torch.sigmoid(logits.float()).flatten(1).sort(1)
    with torch.no_grad():
        counts = _barriers(order.view_as(logits), labels[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE], radius)
        shares = counts / (counts.sum(2, keepdim=True) + EPSILON)
    together, apart = -torch.log(1 - edge + EPSILON), -torch.log(edge + EPSILON)
    means = [(loss * shares[:, kind]).sum(1) for kind, loss in enumerate((together, together, apart))]
    return ((means[0] + means[1]) / 2 + means[2]) / 2


def _barriers(order: Tensor, labels: Tensor, radius: int) -> Tensor:
    """The cells' numbers by rising edge, int64 (B, h, w), labels (B, h, w) -> float32 (B, 3, h * w): how many
    background pairs, object pairs and pairs of different labels have the n-th smallest edge of the image as the largest
    between them. A pair's loss depends on that cell alone, so the loss is a sum over cells, and no gradient has to find
    its way through the pairs, 600,000 of a crop of 256.
    """
    batch, cells = len(order), order[0].numel()
    labels = labels.to(torch.uint8)
    ends = torch.stack([_shifted(labels, dy, dx, IGNORE) for dy, dx in neighbours(radius)])
    kind = torch.where(labels == ends, (labels != BACKGROUND).to(torch.int32), 2)
    kind.masked_fill_((labels == IGNORE) | (ends == IGNORE), 3)
    planes = torch.arange(0, 4 * batch, 4, dtype=torch.int32, device=order.device).view(batch, 1, 1)
    slots = kind.add_(planes).mul_(cells).add_(_largest_ranks(order, radius))
    # torch.bincount would count the same, but on a GPU it waits for the device to ask for the largest slot.
    found = torch.zeros(4 * batch * cells, dtype=torch.int32, device=order.device)
    found.index_add_(0, slots.flatten(), found.new_ones(()).expand(slots.numel()))
    return found.view(batch, 4, cells)[:, :3].float()


def _largest_ranks(order: Tensor, radius: int) -> Tensor:
    """`order` as in `_barriers` -> int32 (P, B, h, w): the rank of the largest edge on the path of each pair.

    Paths that leave the image are cut; their pairs have no label at one end.
    """
    height, width = order.shape[1:]
    order = order.flatten(1)
    numbers = torch.arange(height * width, dtype=torch.int32, device=order.device).expand_as(order)
    ranks = torch.empty_like(order, dtype=torch.int32).scatter_(1, order, numbers).view(-1, height, width)
    reach = radius - 1
    padded = F.pad(ranks, (reach, reach, 0, reach), value=-1)  # paths lead down, or to the right
    pairs = neighbours(radius)
    largest = ranks.repeat(len(pairs), 1, 1, 1)
    for result, pair in zip(largest, pairs, strict=True):
        for dy, dx in _inner_cells(*pair):
            torch.maximum(result, padded[:, dy : dy + height, reach + dx : reach + dx + width], out=result)
    return largest


@cache
def _inner_cells(dy: int, dx: int) -> tuple[tuple[int, int], ...]:
    return tuple(cell for cell in straight_path(dy, dx) if cell != (0, 0))


def _shifted(x: Tensor, dy: int, dx: int, outside: float) -> Tensor:
    """The value of pixel p + (dy, dx) at pixel p of (B, h, w)."""
    height, width = x.shape[1:]
    padded = F.pad(x, (max(-dx, 0), max(dx, 0), max(-dy, 0), max(dy, 0)), value=outside)
    top, left = max(dy, 0), max(dx, 0)
    return padded[:, top : top + height, left : left + width]
