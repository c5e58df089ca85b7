"""The dense CRF on the network's device against pydensecrf: the same labels, and how long an image takes."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pplfast.arrays import Float32Array, IntArray, UInt8Array
from pplfast.benchmarks.harness import device_seconds
from pplfast.benchmarks.images import crf_missing, open_images
from pplfast.benchmarks.results import Ratio, Report
from pplfast.data.dataset import DataConfig, Dataset
from pplfast.kernels import mean_field
from pplfast.kernels.backend import force
from pplfast.labels.crf import dense_crf
from pplfast.labels.device_crf import crf_terms, unary
from pplfast.recipe.crf_presets import PRESETS, CrfPreset

BENCH = "crf"
DIFFERENT_LIMIT = 1e-3  # share of pixels with another label
COARSE = 32  # pixels between the random scores that are interpolated: blobs of the size of objects
CPU_IMAGES, GPU_IMAGES = 60, 12
# "device" is a whole call, from the image on the host to its labels there; "device_only" the GPU's part of it.
PAIRS = [Ratio("pydensecrf", "device")]
GPU_PAIRS = [Ratio("pydensecrf", "device_only", 50.0), Ratio("plain_device_only", "device_only"), *PAIRS]


def run(report: Report, data: DataConfig | None = None, most: int = 0) -> None:
    """Every preset on every image, with scores of random blobs for the image's own classes and the background.

    A round is an image; the device's lattices are built anew for each, as the job does. `most` images, 0: as many as
    suit the device. On a GPU the Triton kernels are also measured against their plain definitions.
    """
    cuda = report.device == "cuda"
    missing = crf_missing()
    if missing:
        report.skip(BENCH, "pydensecrf" if cuda else "all of it", missing)
        if not cuda:
            return
    most = most or (GPU_IMAGES if cuda else CPU_IMAGES)
    with open_images(data, min(most, 2) if report.quick else most) as dataset:
        for preset in PRESETS:
            _run_preset(report, dataset, preset, with_pydensecrf=not missing)


def _run_preset(report: Report, dataset: Dataset, preset_name: str, with_pydensecrf: bool) -> None:
    case = f"preset {preset_name}, {dataset.name}, {len(dataset)} images"
    preset, cuda = PRESETS[preset_name], report.device == "cuda"
    names = ["pydensecrf"] * with_pydensecrf + ["device"] + ["device_only", "plain_device_only"] * cuda
    samples: dict[str, list[float]] = {name: [] for name in names}
    pixels, different = 0, dict.fromkeys(("pydensecrf", "plain_device_only"), 0)
    rng = np.random.default_rng(0)
    for path, labels in zip(dataset.image_files, dataset.known_labels, strict=True):
        image, scores = _picture(path, 1 + int(labels.sum()), rng)
        on_device = _on_device(image, scores, preset, report.device)
        runs: dict[str, Callable[[], Any]] = {
            "pydensecrf": lambda: dense_crf(image, scores, preset).argmax(0),
            "device": lambda: _on_device(image, scores, preset, report.device)().cpu().numpy(),
            "device_only": on_device,
            "plain_device_only": lambda: _plain(on_device),
        }
        if cuda or not samples["device"]:  # compiles kernels, starts threads
            for name in names[with_pydensecrf:]:
                runs[name]()
        found = {}
        for name in names:
            found[name], seconds = _timed(runs[name], on_gpu=name.endswith("only"))
            samples[name].append(seconds)
        for name in different.keys() & found.keys():
            different[name] += int((found[name] != found["device"]).sum())
        pixels += found["device"].size
    good = True
    for name, what in (("pydensecrf", "pydensecrf's"), ("plain_device_only", "the plain definition's")):
        if name in samples:
            good &= report.check(
                BENCH, case, f"pixels with another label than {what}", different[name] / pixels, DIFFERENT_LIMIT
            )
    if good:
        report.add(
            BENCH,
            case,
            samples,
            GPU_PAIRS if cuda else PAIRS,
            images=1,
            extra={name: {"clock": "events"} for name in names if name.endswith("only")},
        )


def _on_device(image: UInt8Array, scores: Float32Array, preset: CrfPreset, device: str) -> Callable[[], torch.Tensor]:
    """A call that labels, its inputs on the device already: int64 (H, W)."""
    pixels, probabilities = torch.from_numpy(image)[None].to(device), torch.from_numpy(scores)[None].to(device)
    counts = torch.tensor([len(scores)], device=device)
    return lambda: mean_field(pixels, unary(probabilities, counts, preset), crf_terms(preset)).argmax(1)[0]


def _plain(label: Callable[[], torch.Tensor]) -> torch.Tensor:
    with force("plain"):
        return label()


def _timed(run: Callable[[], Any], on_gpu: bool) -> tuple[IntArray, float]:
    """Labels, and the call's seconds: between two events of the GPU, or by the wall's clock."""
    kept = []
    if on_gpu:
        seconds = device_seconds(lambda: kept.append(run()))
        return kept[0].cpu().numpy(), seconds
    start = time.perf_counter()
    labels = run()
    return labels, time.perf_counter() - start


def _picture(path: Path, labels: int, rng: np.random.Generator) -> tuple[UInt8Array, Float32Array]:
    """The image uint8 (H, W, 3), and scores float32 (labels, H, W) that add up to 1."""
    with Image.open(path) as file:
        image = np.array(file.convert("RGB"))
    height, width = image.shape[:2]
    coarse = rng.random((1, labels, height // COARSE + 2, width // COARSE + 2), np.float32) ** 3
    scores = torch.nn.functional.interpolate(torch.from_numpy(coarse), (height, width), mode="bilinear")[0].numpy()
    return image, scores / scores.sum(0)
