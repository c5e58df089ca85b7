"""The dense CRF on the network's device against pydensecrf: the same labels, and how long an image takes."""

import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pplfast.benchmarks.images import crf_missing, open_images
from pplfast.benchmarks.results import Ratio, Report
from pplfast.data.dataset import DataConfig

BENCH = "crf"
DIFFERENT_LIMIT = 1e-3  # share of pixels with another label
COARSE = 32  # pixels between the random scores that are interpolated: blobs of the size of objects
GPU_GOAL = 50.0


def run(report: Report, data: DataConfig | None = None, most: int = 60) -> None:
    """Every preset on every image, with scores of random blobs for the image's own classes and the background.

    A round is an image; the device's lattices are built anew for each, as the job does.
    """
    missing = crf_missing()
    if missing:
        report.skip(BENCH, "all of it", missing)
        return
    from pplfast.kernels import mean_field
    from pplfast.labels.crf import PRESETS, dense_crf
    from pplfast.labels.device_crf import crf_terms, unary

    device = torch.device(report.device)
    with open_images(data, min(most, 2) if report.quick else most) as dataset:
        for preset_name, preset in PRESETS.items():
            name = f"preset {preset_name}, {dataset.name}, {len(dataset)} images"
            samples: dict[str, list[float]] = {"pydensecrf": [], "device": []}
            different = total = 0
            rng = np.random.default_rng(0)
            for path, labels in zip(dataset.images, dataset.labels, strict=True):
                image, scores = _picture(path, 1 + int(labels.sum()), rng)
                start = time.perf_counter()
                theirs = dense_crf(image, scores, preset).argmax(0)
                samples["pydensecrf"].append(time.perf_counter() - start)
                on_device = torch.from_numpy(image)[None].to(device), torch.from_numpy(scores)[None].to(device)
                if not samples["device"]:  # compiles kernels, starts threads
                    mean_field(on_device[0], unary(on_device[1], torch.tensor([len(scores)], device=device), preset),
                               crf_terms(preset))
                start = time.perf_counter()
                energy = unary(on_device[1], torch.tensor([len(scores)], device=device), preset)
                ours = mean_field(on_device[0], energy, crf_terms(preset)).argmax(1)[0].cpu().numpy()
                samples["device"].append(time.perf_counter() - start)
                different += int((ours != theirs).sum())
                total += ours.size
            if report.check(BENCH, name, "pixels with another label than pydensecrf's", different / total,
                            DIFFERENT_LIMIT):
                goal = GPU_GOAL if report.device == "cuda" else None
                report.add(BENCH, name, samples, [Ratio("pydensecrf", "device", goal)], images=1)


def _picture(path: Path, labels: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The image uint8 (H, W, 3), and scores float32 (labels, H, W) that add up to 1."""
    with Image.open(path) as file:
        image = np.array(file.convert("RGB"))
    height, width = image.shape[:2]
    coarse = rng.random((1, labels, height // COARSE + 2, width // COARSE + 2), np.float32) ** 3
    scores = torch.nn.functional.interpolate(torch.from_numpy(coarse), (height, width), mode="bilinear")[0].numpy()
    return image, scores / scores.sum(0)
