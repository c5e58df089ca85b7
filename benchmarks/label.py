"""From files to pseudo labels: the streaming job against one image at a time, images per second of each of its phases,
and which phase holds it up."""

import contextlib
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pplfast.benchmarks import models
from pplfast.benchmarks.harness import Effort, alternate
from pplfast.benchmarks.images import crf_missing, dali_missing, open_images
from pplfast.benchmarks.models import Case
from pplfast.benchmarks.reference import ReferenceClassifier
from pplfast.benchmarks.reference.cam import image_cam, image_label, load_scales
from pplfast.benchmarks.results import Ratio, Report
from pplfast.data.dataset import DataConfig, Dataset
from pplfast.patch.classifier import PatchClassifier
from pplfast.recipe import CamConfig, LabelConfig
from pplfast.recipe.crf_presets import DEFAULT_THRESHOLD

BENCH = "label"
POSITIONS = {"resnet50": "layer3", "efficientnet_lite0": "group5"}
# Largest share of pixels with another label than the reference's.
DIFFERENT_LIMIT = {"fp32": 1e-3, "bf16": 1e-2}
CONTESTANTS = {"fp32": "pplfast", "bf16": "pplfast_bf16"}
PAIRS = [Ratio("reference", "pplfast", 1.5), Ratio("reference", "pplfast_bf16", 2.5)]


def run(
    report: Report,
    data: DataConfig | None = None,
    most: int = 4,
    cams: CamConfig | None = None,
    backbone: str = "resnet50",
) -> None:
    """The reference is in float32, NCHW, with the CRF in sequence. The backbone's weights are random, but for
    EfficientNet-Lite0's."""
    missing = dali_missing() or crf_missing()
    if missing:
        report.skip(BENCH, "all of it", missing)
        return
    with open_images(data, min(most, 2) if report.quick else most) as dataset:
        weights = "auto" if backbone == "efficientnet_lite0" else "none"
        case = Case(backbone, len(dataset.classes), ((POSITIONS[backbone], 2),), weights=weights)
        ours = models.make_pplfast(case, report.device).eval()
        reference = models.make_reference(case, ours, report.device).eval()
        _measure(report, dataset, backbone, ours, reference, cams or CamConfig())


def _measure(
    report: Report,
    dataset: Dataset,
    backbone: str,
    ours: PatchClassifier,
    reference: ReferenceClassifier,
    cams: CamConfig,
) -> None:
    name = f"{backbone}, {dataset.name}, {len(dataset)} images, {len(cams.scales)} scales and flips"
    mean, std = ours.backbone.mean, ours.backbone.std
    results = {}
    threshold = DEFAULT_THRESHOLD
    _see_something(ours, reference, dataset.image_files[0], mean, std)
    with tempfile.TemporaryDirectory(prefix="pplfast-bench-") as folder:
        root = Path(folder)

        def job(precision: str) -> Path:
            from pplfast.labels.label import label_dataset

            out = Path(tempfile.mkdtemp(dir=folder))
            settings = CamConfig(cams.scales, cams.flip, cams.batch, precision)
            with open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
                results[precision] = label_dataset(ours, dataset, settings, LabelConfig(value=threshold), out)
            return out

        _reference_labels(reference, dataset, cams.scales, mean, std, threshold, root / "reference")
        runs: dict[str, Callable[[], object]] = {
            "reference": lambda: _reference_labels(
                reference, dataset, cams.scales, mean, std, threshold, root / "reference"
            )
        }
        # Near 1 the comparison below says little: then the CRF has made one label of maps without an object.
        print(f"         share of the reference's most frequent label: {_most_frequent(root / 'reference'):.3f}")
        contestants = {precision: CONTESTANTS[precision] for precision in report.precisions(BENCH)}
        for precision, contestant in contestants.items():
            share = _different(dataset, job(precision), root / "reference")
            if report.check(
                BENCH,
                f"{name}, {precision}",
                "pixels with another label than the reference's",
                share,
                DIFFERENT_LIMIT[precision],
            ):
                runs[contestant] = partial(job, precision)
        samples = alternate(runs, "cpu", Effort(2, 0.0), warm=True)
    extra = {}
    for precision, contestant in contestants.items():
        if contestant in samples:
            rates = {phase: round(rate, 2) for phase, rate in results[precision].phase_rates().items()}
            extra[contestant] = {"bottleneck": results[precision].bottleneck, "phase_images_per_second": rates}
            print(f"    {contestant}: images/s by phase: " + ", ".join(f"{k} {v:g}" for k, v in rates.items()))
    report.add(BENCH, name, samples, PAIRS, images=len(dataset), extra=extra)


def _reference_labels(
    model: ReferenceClassifier,
    dataset: Dataset,
    scales: tuple[float, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    threshold: float,
    out: Path,
) -> None:
    out.mkdir(exist_ok=True)
    ids = np.array([0, *dataset.classes.ids], np.uint8)
    for image_id, path, labels in zip(dataset.ids, dataset.image_files, dataset.known_labels, strict=True):
        classes = np.flatnonzero(labels).tolist()
        cam = _reference_cam(model, path, classes, scales, mean, std)
        target = out / f"{image_id}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ids[image_label(str(path), cam, classes, threshold)]).save(target)


def _reference_cam(
    model: ReferenceClassifier,
    path: Path,
    classes: list[int],
    scales: tuple[float, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Tensor:
    with Image.open(path) as image:
        width, height = image.size
    device = next(model.parameters()).device
    pairs = [pair.to(device) for pair in load_scales(str(path), scales, mean, std)]
    return image_cam(model, pairs, height, width, classes)


def _see_something(
    ours: PatchClassifier, reference: ReferenceClassifier, path: Path, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    """Give both classifiers weights with which maps follow the picture: the first principal components of the features
    of one image, without the mean. Maps of random weights are the same nearly everywhere."""
    weight = reference.classifier.weight
    pairs = load_scales(str(path), (1.0,), mean, std)
    with torch.no_grad():
        features = reference.features(pairs[0][:1].to(weight.device))[0].flatten(1).T  # (cells, channels)
        centre = features.mean(0)
        directions = torch.linalg.svd(features - centre, full_matrices=False).Vh[: len(weight)]
        directions = directions - (directions @ centre)[:, None] * centre / centre.square().sum()
        weight.copy_(directions[:, :, None, None])
        ours.classifier.weight.copy_(weight)


def _most_frequent(labels: Path) -> float:
    """Of all pixels of the PNGs."""
    counts = np.zeros(256, np.int64)
    for path in labels.rglob("*.png"):
        counts += np.bincount(np.asarray(Image.open(path)).ravel(), minlength=256)
    return float(counts.max() / counts.sum())


def _different(dataset: Dataset, ours: Path, theirs: Path) -> float:
    """Share of all pixels."""
    different = total = 0
    for image_id in dataset.ids:
        with Image.open(ours / f"{image_id}.png") as a, Image.open(theirs / f"{image_id}.png") as b:
            first, second = np.asarray(a), np.asarray(b)
        different += int((first != second).sum())
        total += first.size
    return different / total
