"""What one run of the chain is given."""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pplfast.data.dataset import DataConfig, Dataset
from pplfast.recipe import Recipe

if TYPE_CHECKING:
    from pplfast.train import TrainOptions


@dataclass(frozen=True)
class RunConfig:
    """A run of the whole chain into the folder `out`.

    train: the list to train on. val: the list that gets CAMs and labels, scored where it has masks.
    test: the list that a segmentation network is tested on, if the recipe has one; None: val.
    """

    train: DataConfig
    val: DataConfig
    recipe: Recipe
    variants: tuple[str, ...]
    out: Path
    jobs: int  # processes of the CRF and of the scoring
    training: "TrainOptions | None" = None  # None: the defaults
    command: str = ""  # for the record
    test: DataConfig | None = None
    memory: float | None = None  # GiB, of the steps that work through images, for what grows with them


def with_default_lists(config: DataConfig, train: str | None, val: str | None) -> tuple[DataConfig, DataConfig]:
    """Training and validation part of one data set.

    Lists that are not given: "train" and "val" in a VOC layout; all images, for both, in a plain folder.
    """
    voc = (Path(config.root) / "ImageSets").is_dir()
    train = train if train is not None else "train" if voc else ""
    val = val if val is not None else "val" if voc else train
    return dataclasses.replace(config, list=train), dataclasses.replace(config, list=val)


def absolute(config: DataConfig) -> DataConfig:
    """The same data set, in paths that hold from any working folder; what a run saves."""
    root = Path(config.root).resolve()

    def held(value: str) -> str:
        elsewhere = value and not (root / value).exists() and Path(value).exists()
        return str(Path(value).resolve()) if elsewhere else value

    return dataclasses.replace(
        config,
        root=str(root),
        list=held(config.list),
        labels=held(config.labels),
        classes=held(config.classes),
        masks=held(config.masks),
    )


def fingerprint(dataset: Dataset) -> str:
    """Changes with the ids, classes and labels. Files are taken on trust, so that a data set can be moved."""
    digest = hashlib.sha256(repr((dataset.ids, dataset.classes)).encode())
    if dataset.labels is not None:
        digest.update(dataset.labels.tobytes())
    return digest.hexdigest()[:16]
