"""An exported ONNX model in onnxruntime against the same network in pplfast, on photos: differences, and latency.

    python -m pplfast.benchmarks.onnx_latency --model runs/photos photos

Both get decoded images one at a time, at one scale, without mirror images and CRF. On the CPU, which is what the
exported file is for.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pplfast.arrays import UInt8Array
from pplfast.benchmarks.harness import Effort, alternate, compute_clock
from pplfast.benchmarks.results import Ratio, Report
from pplfast.data.classes import BACKGROUND
from pplfast.data.names import SUFFIXES
from pplfast.deploy.check import LIMIT, Run, difference, onnx_run, pplfast_run
from pplfast.deploy.export import export_model
from pplfast.errors import UserError
from pplfast.networks import SEGMENTATION, find_network
from pplfast.precision import resolve_precision
from pplfast.recipe import SegmentationConfig
from pplfast.train.network_file import read_settings
from pplfast.train.segmentation import NAME, load_segmentation

BENCH = "onnx"
IMAGES = 20
THREADS = (1, 2)
OTHER_LABELS = 1e-4  # share of pixels: those between two classes that are equally likely up to rounding
EFFORT = Effort(7, 60.0, most=15)
PYTORCH, PYTORCH_BF16, ONNX = "pytorch", "pytorch_bf16", "onnxruntime"


def run(report: Report, model: Path, images: Sequence[UInt8Array], threads: Sequence[int] = THREADS) -> None:
    """images: uint8 (H, W, 3), of any sizes. Where pplfast would take bf16 here, it is measured with that too."""
    folder = find_network(model, SEGMENTATION)
    config = read_settings(folder, NAME, SegmentationConfig)
    precision = resolve_precision(config.optim.precision, torch.device("cpu"))
    with tempfile.TemporaryDirectory(prefix="pplfast-bench-") as temporary:
        file = export_model(folder, Path(temporary) / "onnx").file
        for count in threads:
            torch.set_num_threads(count)
            network, classes = load_segmentation(folder)
            exported = onnx_run(file, count)
            if exported is None:
                report.skip(BENCH, "all of it", "onnxruntime is not installed")
                return
            runs = {PYTORCH: pplfast_run(network, config, threads=count), ONNX: exported}
            if precision == "bf16":
                runs[PYTORCH_BF16] = pplfast_run(network, config, "bf16", threads=count)
            case = f"{config.model.backbone}, {len(images)} images of {len(_sizes(images))} sizes, {count} threads"
            if _equal(report, case, runs, images, np.array([BACKGROUND, *classes.ids], np.uint8)):
                _time(report, case, runs, images)


def _equal(report: Report, case: str, runs: dict[str, Run], images: Sequence[UInt8Array], values: UInt8Array) -> bool:
    differences, other, pixels = [], 0, 0
    for image in images:
        (found, labels), (wanted, rows) = (runs[name](image[None]) for name in (ONNX, PYTORCH))
        differences.append(difference(found, wanted))
        other += int((labels != values[rows]).sum())
        pixels += labels.size
    good = report.check(BENCH, case, "largest difference of probabilities", float(np.max(differences)), LIMIT)
    return report.check(BENCH, case, "pixels with another label", other / pixels, OTHER_LABELS) and good


def _time(report: Report, case: str, runs: dict[str, Run], images: Sequence[UInt8Array]) -> None:
    def of_all(run: Run) -> Callable[[], object]:
        return lambda: [run(image[None]) for image in images]

    clock = compute_clock("cpu")
    samples = alternate({name: of_all(run) for name, run in runs.items()}, "cpu", EFFORT, clock)
    extra = {name: {"ms_per_image": 1e3 * float(np.median(times)) / len(images)} for name, times in samples.items()}
    pairs = [Ratio(PYTORCH, ONNX), Ratio(PYTORCH_BF16, ONNX)]
    report.add(BENCH, case, samples, pairs, images=len(images), extra=extra, clock=clock)
    for name, row in extra.items():
        print(f"    {name:<14} {row['ms_per_image']:.1f} ms an image", flush=True)


def _sizes(images: Sequence[UInt8Array]) -> set[tuple[int, ...]]:
    return {image.shape[:2] for image in images}


def read_images(folder: Path, most: int) -> list[UInt8Array]:
    """Of the folder's images by their names the first of each size, and others only where there are too few sizes."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES]
    if not files:
        raise UserError(f"{folder}: holds no images; give a folder of photos")
    first: dict[tuple[int, int], Path] = {}
    for path in files:
        if len(first) < most:
            with Image.open(path) as image:
                first.setdefault(image.size, path)
    chosen = [*first.values(), *(path for path in files if path not in first.values())][:most]
    return [np.array(Image.open(path).convert("RGB")) for path in chosen]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pplfast.benchmarks.onnx_latency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", type=Path, metavar="IMAGES", help="folder of photos, those in folders below it too")
    parser.add_argument("--model", type=Path, required=True, metavar="PATH", help=SEGMENTATION.help)
    parser.add_argument("--most", type=int, default=IMAGES, metavar="N", help="images (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the results there")
    args = parser.parse_args(arguments)
    report = Report("cpu", quick=False, compile=False, out=args.out)
    run(report, args.model, read_images(args.images, args.most))
    report.finish()
    return 0 if all(check["passed"] for check in report.checks) else 1


if __name__ == "__main__":
    raise SystemExit(main())
