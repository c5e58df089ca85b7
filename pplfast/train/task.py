"""What differs between training a classifier, a boundary network and a segmentation network."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import Tensor

from pplfast.data.dataset import Dataset
from pplfast.data.loader import Batch, TrainLoader
from pplfast.models.backbone import Network
from pplfast.recipe import OptimConfig
from pplfast.train.plan import StagePlan

Net = TypeVar("Net", bound=Network)


class Task(ABC, Generic[Net]):
    """One kind of training run; `trainer.run_task` runs it through the engine, with checkpoints, progress and logs."""

    title: str  # what the log calls it: "ppl classifier, resnet50"
    result_file: str  # in the run's folder once it is finished, and not before
    seed: int
    optim: OptimConfig
    dataset: Dataset  # the images to train on

    @abstractmethod
    def check(self) -> None:
        """Raises UserError for data that cannot be trained on."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """What decides the result, JSON-able, and `versions`: the folder is claimed with it."""

    @abstractmethod
    def build(self) -> tuple[Net, tuple[StagePlan, ...]]:
        """The network and the stages to train. The parameters of its backbone get the plain learning rate. It takes
        images (B, 3, H, W). Called once the random numbers are seeded. Raises UserError for settings that cannot be."""

    @abstractmethod
    def load(self, model: Net, **options: Any) -> TrainLoader:
        """The loader of this rank; options: those of TrainLoader that the run decides."""

    @abstractmethod
    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The losses of a batch's images times their weights, float32 (B,). A step minimises their mean over all ranks'
        images, whatever their division among ranks and accumulation steps."""

    def begin_stage(self, model: Net, stage: StagePlan) -> None:
        """Called before each stage, and with the last one before the network is saved."""

    @abstractmethod
    def save(self, model: Net, stage: StagePlan, training: dict[str, Any], folder: Path) -> None:
        """Write the network, `result_file` last. training: steps, seconds, images_per_s, loss."""

    @abstractmethod
    def read_training(self, folder: Path) -> dict[str, Any]:
        """The `training` of a finished folder."""
