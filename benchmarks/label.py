"""From files to pseudo labels: images per second of each stage and of the whole, and which stage holds it up."""

import contextlib
import os
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pplfast.benchmarks import models
from pplfast.benchmarks.cam import Images, pplfast_cams, write_cams
from pplfast.benchmarks.harness import Effort, alternate
from pplfast.benchmarks.images import crf_missing, dali_missing, open_images
from pplfast.benchmarks.models import Case
from pplfast.benchmarks.reference import ReferenceClassifier
from pplfast.benchmarks.reference.cam import image_cam, image_label, load_scales
from pplfast.benchmarks.results import Ratio, Report
from pplfast.data.dataset import DataConfig, Dataset
from pplfast.patch.classifier import PatchClassifier
from pplfast.recipe import CamConfig, LabelConfig

BENCH = "label"
STAGES = ("load", "maps", "crf")
MEAN, STD = (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)  # EfficientNet-Lite0's
THRESHOLD = 0.25
DIFFERENT_LIMIT = 0.03  # share of pixels with another label than the reference's, whose CAMs stay at full size


def run(report: Report, data: DataConfig | None = None, most: int = 12, cams: CamConfig | None = None) -> None:
    """EfficientNet-Lite0 with its ImageNet weights; `load`, `maps` and `crf` alone, then `pplfast` end to end."""
    missing = dali_missing() or crf_missing()
    if missing:
        report.skip(BENCH, "all of it", missing)
        return
    cams = cams or CamConfig()
    with open_images(data, min(most, 4) if report.quick else most) as dataset:
        case = Case("efficientnet_lite0", len(dataset.classes), (("group5", 2),), weights="auto")
        ours = models.make_pplfast(case, report.device).eval()
        reference = models.make_reference(case, ours, report.device).eval()
        _measure(report, dataset, ours, reference, cams)


def _measure(report: Report, dataset: Dataset, ours: PatchClassifier, reference: ReferenceClassifier, cams: CamConfig
             ) -> None:
    from pplfast.data.inference import InferenceLoader
    from pplfast.labels.cam import own_classes
    from pplfast.precision import resolve_precision

    name = f"efficientnet_lite0, {dataset.name}, {len(dataset)} images, {len(cams.scales)} scales and flips"
    bf16 = resolve_precision(cams.precision, torch.device(report.device)) == "bf16"

    def load() -> InferenceLoader:
        return InferenceLoader(dataset, cams.scales, cams.flip, ours.backbone.mean, ours.backbone.std, cams.batch,
                               device=report.device)

    batches = [Images(b.height, b.width, b.images, own_classes(dataset.labels[b.indices]).to(report.device))
               for b in load()]
    with tempfile.TemporaryDirectory(prefix="pplfast-bench-") as folder:
        root = Path(folder)
        write_cams(ours, dataset, cams, str(root / "cams"))
        _write_labels(dataset, root / "cams", root / "labels")
        _reference_labels(reference, dataset, cams.scales, root / "reference")
        if not report.check(BENCH, name, "pixels with another label than the reference's",
                            _different(dataset, root / "labels", root / "reference"), DIFFERENT_LIMIT):
            return

        def whole() -> None:
            out = Path(tempfile.mkdtemp(dir=folder))
            write_cams(ours, dataset, cams, str(out / "cams"))
            _write_labels(dataset, out / "cams", out / "labels")

        samples = alternate({
            "reference": lambda: _reference_labels(reference, dataset, cams.scales, root / "reference"),
            "load": lambda: [None for _ in load()],
            "maps": lambda: [pplfast_cams(ours, images, bf16).cpu() for images in batches],
            "crf": lambda: _write_labels(dataset, root / "cams", Path(tempfile.mkdtemp(dir=folder)) / "labels"),
            "pplfast": whole,
        }, "cpu", Effort(2, 0.0) if report.quick else Effort(3, 60.0, most=7))
    slowest = max(STAGES, key=lambda stage: statistics.median(samples[stage]))
    report.add(BENCH, name, samples, [Ratio("reference", "pplfast")], images=len(dataset),
               extra={"pplfast": {"bottleneck": slowest}})


def _write_labels(dataset: Dataset, cams: Path, out: Path) -> None:
    from pplfast.labels.pseudo import generate_labels

    with open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
        generate_labels(cams, dataset, LabelConfig(value=THRESHOLD), out)


def _reference_labels(model: ReferenceClassifier, dataset: Dataset, scales: tuple[float, ...], out: Path) -> None:
    out.mkdir(exist_ok=True)
    ids = np.array([0, *dataset.classes.ids], np.uint8)
    device = next(model.parameters()).device
    for image_id, path, labels in zip(dataset.ids, dataset.images, dataset.labels, strict=True):
        classes = np.flatnonzero(labels).tolist()
        with Image.open(path) as image:
            width, height = image.size
        pairs = load_scales(str(path), scales, MEAN, STD)
        cam = image_cam(model, [pair.to(device) for pair in pairs], height, width, classes)
        target = out / f"{image_id}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ids[image_label(str(path), cam, classes, THRESHOLD)]).save(target)


def _different(dataset: Dataset, ours: Path, theirs: Path) -> float:
    """Share of all pixels."""
    different = total = 0
    for image_id in dataset.ids:
        with Image.open(ours / f"{image_id}.png") as a, Image.open(theirs / f"{image_id}.png") as b:
            first, second = np.asarray(a), np.asarray(b)
        different += int((first != second).sum())
        total += first.size
    return different / total
