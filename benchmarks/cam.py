"""CAM generation over scales and flips: one image at a time (the reference) against batches of one shape."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pplfast.arrays import Float32Array, Float64Array, Int64Array, IntArray
from pplfast.benchmarks import models
from pplfast.benchmarks.harness import Effort, alternate, compute_clock, tf32, under_tf32, usual_memory
from pplfast.benchmarks.images import dali_missing, open_images
from pplfast.benchmarks.models import Case
from pplfast.benchmarks.reference.cam import image_cam, load_scales
from pplfast.benchmarks.reference.classifier import ReferenceClassifier
from pplfast.benchmarks.results import Ratio, Report
from pplfast.data.dataset import DataConfig, Dataset
from pplfast.errors import UserError
from pplfast.kernels import cam_fuse
from pplfast.patch.classifier import PatchClassifier
from pplfast.recipe import CamConfig

BENCH = "cam"
LIMITS = {"fp32": 1e-4, "bf16": 2e-2}  # largest difference of CAMs, which lie in 0..1
MIOU_LIMIT = 0.3  # points of mIoU between labels from the reference's CAMs and from pplfast's files
LABEL_SCALES = (0.5, 1.0)  # for the labels, so that more images fit than are timed
POSITIONS = {"resnet50": "layer3", "efficientnet_lite0": "group5"}
SCALES = (0.5, 1.0, 1.5, 2.0)
PAIRS = [Ratio("reference", "pplfast", 1.5), Ratio("reference", "pplfast_bf16", 3.0), Ratio("tuned", "pplfast_bf16")]
# On a GPU "reference" computes in true float32, "reference_tf32" as PyTorch does by default: convolutions in TF32.
GPU_PAIRS = [
    Ratio("reference_tf32", "pplfast_bf16", 5.0),
    Ratio("reference", "pplfast_bf16"),
    Ratio("reference", "pplfast"),
    Ratio("tuned", "pplfast_bf16"),
]
HALF = ("reference_tf32", "pplfast_bf16", "tuned")  # belong to the case of bf16; "reference" to both


@dataclass(frozen=True)
class Images:
    """One batch of images of one shape in memory."""

    height: int
    width: int
    scaled: list[Tensor]  # per scale (2B, 3, h, w): plain images, then mirrored ones
    classes: Tensor  # int64 (B, n)


def run(
    report: Report,
    data: DataConfig | None = None,
    backbone: str = "resnet50",
    most: int = 6,
    timed: int = 1,
    scales: tuple[float, ...] = SCALES,
) -> None:
    """On a GPU, images in memory; on the CPU, files from the data set to maps on the disk: `timed` images, and the
    labels of `most`. A ResNet-50 on four scales takes 1 TFLOP an image: even so the run takes minutes."""
    if report.device == "cuda":
        run_memory(report, backbone, scales)
        return
    missing = dali_missing()
    if missing:
        report.skip(BENCH, "files to maps", missing)
        return
    with open_images(data, min(most, 2) if report.quick else most) as dataset:
        _run_files(report, dataset, backbone, scales, timed)


def pplfast_cams(model: PatchClassifier, images: Images, bf16: bool) -> Tensor:
    """(B, n, height, width)."""
    rows = images.classes.repeat(2, 1)
    with torch.inference_mode(), models.autocast(images.scaled[0].device.type, bf16):
        maps = [model.maps(scaled, rows) for scaled in images.scaled]
        sizes = [(scaled.shape[2], scaled.shape[3]) for scaled in images.scaled]
        return cam_fuse(maps, images.height, images.width, True, sizes=sizes, cells=model.backbone.cells())


def reference_cams(model: ReferenceClassifier, images: Images, bf16: bool) -> Tensor:
    """The same, image by image."""
    count, cams = len(images.classes), []
    with models.autocast(images.scaled[0].device.type, bf16):
        for i in range(count):
            pairs = [scaled[[i, count + i]] for scaled in images.scaled]
            cams.append(image_cam(model, pairs, images.height, images.width, images.classes[i].tolist()))
    return torch.stack(cams)


def _same_maps(
    report: Report, name: str, ours: PatchClassifier, reference: ReferenceClassifier, images: Images
) -> None:
    with tf32(False):
        truth = reference_cams(reference, images, False)
        for precision in report.precisions(BENCH):
            difference = (pplfast_cams(ours, images, precision == "bf16") - truth).abs()
            what = f"largest difference of the CAMs (on average {float(difference.mean()):.1e})"
            report.check(BENCH, f"{name}, {precision}", what, float(difference.max()), LIMITS[precision])


def _time(report: Report, name: str, runs: dict[str, Callable[[], object]], effort: Effort, images: int) -> None:
    """float32 and bf16 are two cases: the one whose check failed gets no times, and takes no part."""
    precisions = report.precisions(BENCH)
    red = {precision: report.red(BENCH, f"{name}, {precision}") for precision in precisions}
    chosen = {
        label: run
        for label, run in runs.items()
        if label == "reference" or not red["bf16" if label in HALF else "fp32"]
    }
    clock = compute_clock(report.device)
    samples = alternate(chosen, report.device, effort, clock) if len(chosen) > 1 else {}
    for precision in precisions:
        own = {
            label: times
            for label, times in samples.items()
            if label == "reference" or (label in HALF) == (precision == "bf16")
        }
        _add(report, f"{name}, {precision}", own, images, clock)


def _time_tuned(
    report: Report, name: str, tuned: Callable[[], object], ours: Callable[[], object], effort: Effort, images: int
) -> None:
    """In turns with pplfast once more, after the others have their times: compiling takes minutes, and may not end."""
    clock = compute_clock(report.device)
    samples = alternate({"tuned": tuned, "pplfast_bf16": ours}, report.device, effort, clock)
    _add(report, f"{name}, bf16", samples, images, clock, again=("pplfast_bf16",))


def _wants_tuned(report: Report, name: str) -> bool:
    """The tuned reference is there for bf16 alone."""
    if "bf16" not in report.precisions(BENCH) or report.red(BENCH, f"{name}, bf16"):
        return False
    return report.can_tune(BENCH)


def _add(
    report: Report, case: str, samples: dict[str, list[float]], images: int, clock: str, again: tuple[str, ...] = ()
) -> None:
    cuda = report.device == "cuda"
    extra = {label: {"tf32": label in HALF} for label in samples} if cuda else None
    report.add(BENCH, case, samples, GPU_PAIRS if cuda else PAIRS, images=images, extra=extra, clock=clock, again=again)


def _case(backbone: str, classes: int) -> Case:
    return Case(backbone, classes, ((POSITIONS[backbone], 2),))


def _reference(case: Case, ours: PatchClassifier, images: Images, scales: tuple[float, ...]) -> ReferenceClassifier:
    """Once the classes respond at the scale nearest to 1."""
    nearest = min(range(len(scales)), key=lambda i: abs(scales[i] - 1))
    plain = images.scaled[nearest][: len(images.classes)]
    models.let_classes_respond(ours, plain, images.classes)
    return models.make_reference(case, ours, plain.device.type).eval()


def run_memory(
    report: Report, backbone: str, scales: tuple[float, ...], batch: int = 8, size: tuple[int, int] = (375, 500)
) -> None:
    device = report.device
    case = _case(backbone, 20)
    ours = models.make_pplfast(case, device).eval()
    generator = torch.Generator().manual_seed(0)
    scaled = [torch.randn(2 * batch, 3, *(round(side * s) for side in size), generator=generator) for s in scales]
    chosen = torch.stack([torch.randperm(20, generator=generator)[:2].sort().values for _ in range(batch)])
    nchw = Images(*size, [x.to(device) for x in scaled], chosen.to(device))
    last = Images(*size, [x.to(device, memory_format=torch.channels_last) for x in scaled], chosen.to(device))
    name = f"{backbone} K=2 after {POSITIONS[backbone]}, {size[1]}x{size[0]} in memory, {len(scales)} scales and flips"
    reference = _reference(case, ours, last, scales)
    _same_maps(report, name, ours, reference, last)
    runs = {"reference": under_tf32(lambda: reference_cams(reference, nchw, False), False)}
    if device == "cuda":
        runs["reference_tf32"] = under_tf32(lambda: reference_cams(reference, nchw, False), True)
    runs["pplfast"] = under_tf32(lambda: pplfast_cams(ours, last, False), False)
    if "bf16" in report.precisions(BENCH):
        runs["pplfast_bf16"] = under_tf32(lambda: pplfast_cams(ours, last, True), True)
    effort = Effort(3, 0.0) if report.quick else Effort(5, 10.0)
    _time(report, name, runs, effort, batch)
    if _wants_tuned(report, name):
        tuned = models.tune(models.make_reference(case, ours, device).eval(), report.compile)
        _time_tuned(
            report,
            name,
            under_tf32(lambda: reference_cams(tuned, last, True), True),
            runs["pplfast_bf16"],
            effort,
            batch,
        )


def _run_files(report: Report, dataset: Dataset, backbone: str, scales: tuple[float, ...], timed: int) -> None:
    """pplfast's part is what `pplfast cam` calls; the reference reads, computes and saves image by image."""
    from pplfast.data.decoding import read_pixels
    from pplfast.data.handover import Handover
    from pplfast.data.pipelines import Resizer
    from pplfast.labels.cam import own_classes

    case = _case(backbone, len(dataset.classes))
    ours = models.make_pplfast(case, report.device).eval()
    every, dataset = dataset, dataset.subset(range(min(timed, len(dataset))))
    name = (
        f"{backbone} K=2 after {POSITIONS[backbone]}, {dataset.name}, {len(dataset)} images, "
        f"{len(scales)} scales and flips"
    )
    mean, std = ours.backbone.mean, ours.backbone.std
    pixels, resize = read_pixels(dataset.images[0]), Resizer(mean, std, 1, 1, Handover(torch.device("cpu")))
    scaled = [torch.cat((image, image.flip(3))) for image in (resize([pixels], scale) for scale in scales)]
    height, width = pixels.shape[:2]
    images = Images(height, width, scaled, own_classes(dataset.known_labels[:1]))
    reference = _reference(case, ours, images, scales)
    _same_maps(report, name, ours, reference, images)
    _same_labels(report, name, every, ours, reference)
    with tempfile.TemporaryDirectory(prefix="pplfast-bench-") as folder:
        runs: dict[str, Callable[[], object]] = {
            "reference": usual_memory(
                lambda: _reference_files(reference, dataset, scales, mean, std, Path(folder), False)
            )
        }
        for precision in report.precisions(BENCH):
            config = CamConfig(scales=scales, precision=precision)

            def ours_files(config: CamConfig = config) -> None:
                write_cams(ours, dataset, config, tempfile.mkdtemp(dir=folder))

            runs["pplfast" if precision == "fp32" else "pplfast_bf16"] = ours_files
        effort = Effort(2, 0.0) if report.quick else Effort(2, 90.0, most=9)
        _time(report, name, runs, effort, len(dataset))
        if _wants_tuned(report, name):
            tuned = models.tune(models.make_reference(case, ours).eval(), report.compile)
            tuned_files = usual_memory(lambda: _reference_files(tuned, dataset, scales, mean, std, Path(folder), True))
            _time_tuned(report, name, tuned_files, runs["pplfast_bf16"], effort, len(dataset))


def _same_labels(
    report: Report, name: str, dataset: Dataset, ours: PatchClassifier, reference: ReferenceClassifier
) -> None:
    """mIoU of the labels from CAMs alone, at the threshold that is best for the reference's."""
    from pplfast.labels.camfile import SUFFIX, load_cam

    rows = [i for i, mask in enumerate(dataset.masks) if mask is not None]
    if not rows:
        report.skip(BENCH, "labels against masks", f"{dataset.name} has no masks")
        return
    dataset = dataset.subset(rows)
    mean, std = ours.backbone.mean, ours.backbone.std
    expected = []
    for path, row in zip(dataset.image_files, dataset.known_labels, strict=True):
        pairs, classes = load_scales(str(path), LABEL_SCALES, mean, std), np.flatnonzero(row)
        height, width = pairs[LABEL_SCALES.index(1.0)].shape[2:]
        expected.append((image_cam(reference, pairs, height, width, classes.tolist()).numpy(), classes))
    truth = _mious(dataset, expected)
    best = int(truth.argmax())
    for precision in report.precisions(BENCH):
        with tempfile.TemporaryDirectory(prefix="pplfast-bench-") as folder:
            write_cams(ours, dataset, CamConfig(scales=LABEL_SCALES, precision=precision), folder)
            cams = [load_cam(Path(folder) / f"{image}{SUFFIX}") for image in dataset.ids]
        mious = _mious(dataset, [(cam.full(), cam.classes) for cam in cams])
        what = (
            f"labels of {len(dataset)} images at scales {' and '.join(map(str, LABEL_SCALES))}, mIoU from "
            f"{truth[best]:.2f}, points"
        )
        report.check(BENCH, f"{name}, {precision}", what, abs(float(mious[best] - truth[best])), MIOU_LIMIT)


def _mious(dataset: Dataset, cams: Sequence[tuple[Float32Array, IntArray]]) -> Float64Array:
    """Percent, at each threshold of the sweep; cams: per image maps (k, H, W) and their classes."""
    from pplfast.data.masks import read_mask
    from pplfast.evaluate.cams import THRESHOLDS, confusions, count_image
    from pplfast.evaluate.confusion import class_ious, index_table, mean_iou

    table, edges = index_table(dataset.classes), np.asarray(THRESHOLDS, np.float32)
    counts: Int64Array = np.zeros((), np.int64)
    for mask, (maps, classes) in zip(dataset.masks, cams, strict=True):
        assert mask is not None, "the caller takes images with masks alone"
        counts = counts + count_image(table[read_mask(mask)], maps, classes, len(dataset.classes), edges)
    return np.array([mean_iou(class_ious(matrix, dataset.classes)) for matrix in confusions(counts)])


def _reference_files(
    model: ReferenceClassifier,
    dataset: Dataset,
    scales: tuple[float, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    out: Path,
    bf16: bool,
) -> None:
    for i, path in enumerate(dataset.image_files):
        pairs = load_scales(str(path), scales, mean, std)
        if bf16:
            pairs = [pair.contiguous(memory_format=torch.channels_last) for pair in pairs]
        height, width = pairs[scales.index(1.0)].shape[2:]
        classes = np.flatnonzero(dataset.known_labels[i])
        with models.autocast("cpu", bf16):
            cam = image_cam(model, pairs, height, width, classes.tolist())
        value = {"keys": classes, "cam": cam[:, ::4, ::4].numpy(), "high_res": cam.numpy()}
        np.save(out / f"{i}.npy", np.array(value, dtype=object), allow_pickle=True)


def write_cams(model: PatchClassifier, dataset: Dataset, config: CamConfig, out: str) -> None:
    """`pplfast cam` without its progress lines."""
    from pplfast.labels.cam import generate_cams

    with open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
        outcome = generate_cams(model, dataset, config, out)
    if outcome.written != len(dataset):
        raise UserError(
            f"{dataset.name}: {len(dataset) - outcome.written} of {len(dataset)} images cannot be used; "
            "`pplfast data check` names them"
        )
