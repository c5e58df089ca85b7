"""Training images per second: DALI's loader, in its first epoch and from the cache, against PIL + DataLoader; and from
tar shards, against single files and against the webdataset library on the same shards."""

import tempfile
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from pplfast.benchmarks.images import dali_missing, open_images
from pplfast.benchmarks.reference.data import TrainImages, train_loader
from pplfast.benchmarks.results import Ratio, Report
from pplfast.benchmarks.shard_files import folder_to_shards
from pplfast.data.dataset import DataConfig, Dataset, open_dataset
from pplfast.data.encoded import read_encoded
from pplfast.recipe import AugmentConfig

BENCH = "loader"
AUGMENT = AugmentConfig(crop=448, resize_long=(320, 640))
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
BATCH, WORKERS = 16, 2
PAIRS = [Ratio("reference", "pplfast_first_epoch", 1.6), Ratio("reference", "pplfast_cached", 2.5)]
SHARD_PAIRS = [Ratio("single_files", "shards", 1.0), Ratio("webdataset", "shards", 1.0)]
PER_SHARD = 32  # enough shards for the library's workers
BUFFER = 1000  # of the library's shuffling, as its documentation has it
MEAN_LIMIT = 5e-3  # of a normalised image: the two decoders and resizing filters round differently


def run(report: Report, data: DataConfig | None = None, augment: AugmentConfig = AUGMENT, most: int = 512) -> None:
    missing = dali_missing()
    if missing:
        report.skip(BENCH, "all of it", missing)
        return
    with open_images(data, min(most, 64) if report.quick else most) as dataset:
        name = f"crop {augment.crop}, {dataset.name}, {len(dataset)} images"
        if _same_images(report, dataset, name, augment):
            samples = _measure(dataset, augment, 2 if report.quick else 5, report.device)
            report.add(BENCH, name, samples, PAIRS, images=1)
        with tempfile.TemporaryDirectory(prefix="pplfast-shards-") as folder:
            shards = folder_to_shards(dataset, folder, min(PER_SHARD, max(1, len(dataset) // (2 * WORKERS))))
            name = f"{name}, {len(shards)} shards"
            stored = open_dataset(DataConfig(folder))
            if _same_bytes(report, dataset, stored, name):
                samples = _measure_shards(dataset, stored, shards, augment, 2 if report.quick else 7, report.device)
                report.add(BENCH, name, samples, SHARD_PAIRS, images=1)


def _measure_shards(
    dataset: Dataset, stored: Dataset, shards: list[str], augment: AugmentConfig, rounds: int, device: str
) -> dict[str, list[float]]:
    """As `_measure`; no decoded image is kept. All files are in the system's cache."""
    from pplfast.data.loader import TrainLoader

    sets = {"single_files": dataset, "shards": stored}
    loaders = {
        name: TrainLoader(one, augment, MEAN, STD, BATCH, threads=WORKERS, device=device, cache_mb=0)
        for name, one in sets.items()
    }
    library = _webdataset(shards, dataset, augment)
    for batches in (library, *(loader.epoch(0) for loader in loaders.values())):
        _seconds(batches)
    samples: dict[str, list[float]] = {"single_files": [], "shards": [], "webdataset": []}
    for number in range(rounds):
        for name in ("single_files", "shards") if number % 2 == 0 else ("shards", "single_files"):
            samples[name].append(_seconds(loaders[name].epoch(number)) / len(dataset))
        samples["webdataset"].append(_seconds(library) / len(dataset))
    return samples


def _webdataset(shards: list[str], dataset: Dataset, augment: AugmentConfig) -> Iterable[Any]:
    """The library as its documentation has it: shards shuffled and divided among workers, a buffer, PIL; augmented as
    by the reference."""
    import webdataset
    from torch.utils.data import DataLoader

    reference, classes = _reference_images(dataset, augment), len(dataset.classes)

    def made(sample: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        label = torch.zeros(classes)
        label[[int(word) for word in sample["cls"].decode().split(",") if word]] = 1
        return reference.augmented(sample["jpg"]), label

    images = webdataset.WebDataset(shards, shardshuffle=len(shards)).shuffle(BUFFER)
    images = images.decode(webdataset.imagehandler("pil"), only=["jpg"]).map(made)
    return DataLoader(images, BATCH, num_workers=WORKERS, persistent_workers=True)


def _same_bytes(report: Report, dataset: Dataset, stored: Dataset, name: str) -> bool:
    """The shards hold the data set, in its order."""
    different = sum(
        image.read_bytes() != read_encoded(part).tobytes() or (own != other).any()
        for image, part, own, other in zip(
            dataset.image_files, stored.images, dataset.known_labels, stored.known_labels, strict=True
        )
    )
    return report.check(BENCH, name, "images of the shards with other bytes or labels", float(different), 0)


def _measure(dataset: Dataset, augment: AugmentConfig, rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds per image, one sample per round. Workers and pipelines are started before the clock."""
    from pplfast.data.loader import TrainLoader

    reference = train_loader(_reference_images(dataset, augment), BATCH, WORKERS, drop_last=False)
    _seconds(reference)  # starts the workers, and brings the files into the system's cache for everybody
    samples: dict[str, list[float]] = {"reference": [], "pplfast_first_epoch": [], "pplfast_cached": []}
    for number in range(rounds):
        loader = TrainLoader(dataset, augment, MEAN, STD, BATCH, seed=number, threads=WORKERS, device=device)
        samples["reference"].append(_seconds(reference) / len(dataset))
        samples["pplfast_first_epoch"].append(_seconds(loader.epoch(0)) / len(dataset))
        samples["pplfast_cached"].append(_seconds(loader.epoch(1)) / len(dataset))
    return samples


def _reference_images(dataset: Dataset, augment: AugmentConfig) -> TrainImages:
    return TrainImages(
        [str(path) for path in dataset.images],
        dataset.known_labels,
        augment.crop,
        augment.resize_long,
        MEAN,
        STD,
        augment.flip,
    )


def _seconds(batches: Iterable[object]) -> float:
    start = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - start


def _same_images(report: Report, dataset: Dataset, name: str, augment: AugmentConfig) -> bool:
    """Every image once, and with the same mean as the reference's: resized to fit, so that no cell is cut off."""
    from pplfast.data.loader import TrainLoader

    part = dataset.subset(range(min(len(dataset), 2 * BATCH)))
    whole = AugmentConfig(crop=augment.crop, resize_long=(augment.crop, augment.crop), flip=0.0)
    means, seen = np.zeros(len(part)), np.zeros(len(part), int)
    for batch in TrainLoader(part, whole, MEAN, STD, BATCH, threads=WORKERS).epoch(0):
        means[batch.indices.numpy()] = batch.images.mean(dim=(1, 2, 3)).numpy()
        np.add.at(seen, batch.indices.numpy(), 1)
    reference = _reference_images(part, whole)
    expected = np.array([reference[i][0].mean().item() for i in range(len(part))])
    return all(
        [
            report.check(BENCH, name, "images not seen exactly once", float((seen != 1).sum()), 0),
            report.check(
                BENCH, name, "mean of an image against PIL", float(np.abs(means - expected).max()), MEAN_LIMIT
            ),
        ]
    )
