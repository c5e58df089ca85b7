"""Shards that `pplfast label` wrote, in the hands of those who read them: the webdataset library and training."""

from pathlib import Path

import numpy as np
import torch

from pplfast.benchmarks.shard_files import CLASSES, tiny_samples, write_shards
from pplfast.benchmarks.shard_parts import (
    Goal,
    Part,
    command,
    keys_of_shards,
    label_words,
    make_network,
    samples,
    with_broken,
)
from pplfast.data.dataset import DataConfig, Dataset, open_dataset
from pplfast.data.loader import TrainLoader
from pplfast.data.masks import read_mask
from pplfast.data.stored import Stored
from pplfast.jobs.options import EXIT_BAD
from pplfast.recipe import AugmentConfig
from pplfast.train.masks import with_masks

SIDE, BROKEN = 64, 7  # pixels; the place of the image that is none
AUGMENT = AugmentConfig(crop=SIDE, resize_long=(SIDE, 2 * SIDE))
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
BATCH = 16


def equal(folder: Path, images: int, per_shard: int) -> Part:
    """The same command with shards and with files as its outputs. One image is broken, so that a label is missing."""
    data, shards, files = (str(folder / name) for name in ("images", "labels", "files"))
    made = with_broken(tiny_samples(images, SIDE), BROKEN)
    tars = write_shards(data, made, per_shard)
    words = label_words(data, make_network(folder / "model"), shards)
    command(words, codes=[EXIT_BAD])
    command([*words, "--out", files, "--files"], codes=[EXIT_BAD])
    good = images - 1
    side_by_side, pngs = _side_by_side(tars, Path(shards), Path(files), keys_of_shards(images, per_shard))
    dataset = open_dataset(DataConfig(data, classes=",".join(CLASSES)))
    from_shards, from_files = with_masks(dataset, shards), with_masks(dataset, files)
    masks = sum(
        one == other and np.array_equal(read_mask(mine), read_mask(theirs))
        for one, other, mine, theirs in zip(
            from_shards.ids, from_files.ids, _masks(from_shards), _masks(from_files), strict=True
        )
    )
    figures = {
        "images": images,
        "shards": len(tars),
        "keys_side_by_side": side_by_side,
        "pngs_equal": pngs,
        "masks_equal": masks,
        "images_in_equal_batches": _equal_batches(from_shards, from_files),
    }
    goals = [
        Goal("keys of image and label shards, side by side in webdataset", side_by_side, images, exact=True),
        Goal("PNGs equal to the files", pngs, good, exact=True),
        Goal("masks that training reads, equal to the files'", masks, good, exact=True),
        Goal("images in equal batches of an epoch", figures["images_in_equal_batches"], good, exact=True),
    ]
    return Part(figures, goals)


def _side_by_side(tars: list[str], shards: Path, files: Path, keys: dict[str, list[str]]) -> tuple[int, int]:
    """Samples of image and label shards with the same key, in order; of these, labels that are those of the files."""
    same = pngs = 0
    names = [name for name, own in keys.items() for _ in own]
    pairs = zip(samples(tars), samples(shards / f"{name}.tar" for name in keys), strict=True)
    for name, (image, label) in zip(names, pairs, strict=True):
        same += image["__key__"] == label["__key__"]
        if "seg.png" in label:
            pngs += label["seg.png"] == (files / name / f"{label['__key__']}.png").read_bytes()
    return same, pngs


def _masks(dataset: Dataset) -> list[Path | Stored]:
    return [mask for mask in dataset.masks if mask is not None]


def _equal_batches(one: Dataset, other: Dataset) -> int:
    """Images of an epoch's batches that are the same, as `segment train` reads them, to the last bit."""
    loaders = [
        TrainLoader(dataset, AUGMENT, MEAN, STD, BATCH, threads=1, cache_mb=0, masks=True) for dataset in (one, other)
    ]
    same = 0
    for mine, theirs in zip(*(loader.epoch(0) for loader in loaders), strict=True):
        if torch.equal(mine.images, theirs.images) and torch.equal(mine.targets, theirs.targets):
            same += int(mine.weights.sum())
    return same
