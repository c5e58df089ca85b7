"""The random walk by sparse steps against the dense matrix: the same maps, how many times as fast, how much memory."""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from pplfast.arrays import Float32Array
from pplfast.benchmarks.harness import Effort, alternate, compute_clock
from pplfast.benchmarks.images import open_images
from pplfast.benchmarks.kernel_cost import random_walk as cost
from pplfast.benchmarks.memory import peak_bytes
from pplfast.benchmarks.reference.walk import dense_walk
from pplfast.benchmarks.results import Ratio, Report
from pplfast.data.dataset import DataConfig
from pplfast.kernels import random_walk
from pplfast.kernels.backend import force
from pplfast.kernels.random_walk import power_weights

BENCH = "walk"
STRIDE, SQUARINGS, MAPS = 4, 8, 2  # usual values; two classes in an image
EDGE_MAPS = 20  # of each kind
SMALL = (30, 40)  # for the comparison of values: the dense matrix of 1,200 pixels
IMAGE, LARGE = (375, 500), (1024, 1024)  # pixels
DIFFERENCE_LIMIT, ARGMAX_LIMIT = 1e-3, 1e-4
SPEED_GOAL, MEMORY_LIMIT, LARGE_LIMIT = 1000, 0.01, 300e6


def run(
    report: Report,
    data: DataConfig | None = None,
    small: tuple[int, int] = SMALL,
    image: tuple[int, int] = IMAGE,
    large: tuple[int, int] = LARGE,
) -> None:
    count = 2 if report.quick else EDGE_MAPS
    with open_images(data, count) as dataset:
        real = [image_edges(path, small) for path in dataset.image_files]
        kinds = {
            f"{count} random edge maps": [random_edges(small, seed) for seed in range(count)],
            f"{len(real)} edge maps of {dataset.name}": real,
        }
    for kind, edges in kinds.items():
        _compare_values(report, f"{kind}, {small[0]}x{small[1]}, 2^{SQUARINGS} steps", edges)
    _compare_speed(report, (image[0] // 2, image[1] // 2) if report.quick else image)
    if report.device == "cpu":
        _check_large(report, large)
    else:
        report.skip(BENCH, "memory", "measured on a CPU under Linux only")


def _compare_values(report: Report, case: str, edges: list[Float32Array]) -> None:
    different = pixels = 0
    relative = 0.0
    for number, edge in enumerate(edges):
        maps = blobs(3, edge.shape, number)
        found = stencil(maps, edge, report.device)
        wanted = dense_walk(maps, edge, SQUARINGS)
        relative = max(relative, float((np.abs(found - wanted) / np.maximum(wanted, 1e-30)).max()))
        different += int((found.argmax(0) != wanted.argmax(0)).sum())
        pixels += edge.size
    report.check(BENCH, case, "largest relative difference from the dense matrix", relative, DIFFERENCE_LIMIT)
    report.check(BENCH, case, "share of pixels with another argmax", different / pixels, ARGMAX_LIMIT)


def _compare_speed(report: Report, image: tuple[int, int]) -> None:
    """The dense walk takes a minute and more on a CPU and is run once."""
    height, width = (-(-side // STRIDE) for side in image)
    case = f"{image[0]}x{image[1]}, stride {STRIDE}, 2^{SQUARINGS} steps, {MAPS} maps"
    maps, edge = blobs(MAPS, (height, width), 0), random_edges((height, width), 0)
    clock = compute_clock(report.device)
    runs: dict[str, Callable[[], object]] = {"pplfast": lambda: stencil(maps, edge, report.device)}
    on_device = _device_only(maps, edge) if report.device == "cuda" else {}
    runs |= on_device
    samples = alternate(runs, report.device, Effort(7, 0.0), clock)
    if report.device == "cpu":
        # Only a thread that starts with the setting has it, and torch's threads run already: a fresh process.
        with ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), _without_denormals, (torch.get_num_threads(),)
        ) as fresh:
            wanted, seconds = fresh.submit(_timed_dense, maps, edge, report.device, clock).result()
    else:
        wanted, seconds = _timed_dense(maps, edge, report.device, clock)
    samples["dense"] = [seconds] * len(samples["pplfast"])
    found = stencil(maps, edge, report.device)
    relative = float((np.abs(found - wanted) / np.maximum(wanted, 1e-30)).max())
    report.check(BENCH, case, "largest relative difference from the dense matrix", relative, DIFFERENCE_LIMIT)
    report.check(
        BENCH,
        case,
        "share of pixels with another argmax",
        float((found.argmax(0) != wanted.argmax(0)).mean()),
        ARGMAX_LIMIT,
    )
    memory = _peaks((height, width)) if report.device == "cpu" else None
    extra = {}
    if report.device == "cuda":
        plain, triton = (on_device[name]().cpu().numpy() for name in ("plain_device_only", "device_only"))
        report.check(
            BENCH,
            case,
            "largest relative difference from the plain definition",
            float((np.abs(triton - plain) / np.maximum(plain, 1e-30)).max()),
            DIFFERENCE_LIMIT,
        )
    elif memory is None:
        report.skip(BENCH, "memory", "measured on a CPU under Linux only")
    else:
        (ours, _), (dense, _) = memory
        print(f"  memory: {ours / 1e6:.1f} MB, dense {dense / 1e6:.0f} MB")
        report.check(BENCH, case, "memory, share of the dense walk's", ours / dense, MEMORY_LIMIT)
        extra = {"pplfast": {"peak_bytes": ours}, "dense": {"peak_bytes": dense}}
    model = cost(1, MAPS, height, width, len(power_weights(2**SQUARINGS)) - 1)
    extra.setdefault("pplfast", {})["flops"] = model.flops
    pairs = [Ratio("dense", "pplfast", SPEED_GOAL), Ratio("plain_device_only", "device_only")]
    report.add(BENCH, case, samples, pairs, images=1, extra=extra, clock=clock)


def _device_only(maps: Float32Array, edge: Float32Array) -> dict[str, Callable[[], torch.Tensor]]:
    """The walk of maps that are on the GPU already, and stay there: by the kernels, and by their plain definition."""
    x, e = torch.from_numpy(maps)[None].cuda(), torch.from_numpy(edge)[None].cuda()

    def plain() -> torch.Tensor:
        with force("plain"):
            return random_walk(x, e, 2**SQUARINGS)

    return {"device_only": lambda: random_walk(x, e, 2**SQUARINGS), "plain_device_only": plain}


def _without_denormals(threads: int) -> None:
    """Entries of the squared matrices fall below 1e-38, where a CPU multiplies in microcode: the fourth squaring was
    not done after 27 s, and takes 10 s with such entries as zero."""
    torch.set_flush_denormal(True)
    torch.set_num_threads(threads)


def _timed_dense(maps: Float32Array, edge: Float32Array, device: str, clock: str) -> tuple[Float32Array, float]:
    now = time.perf_counter if clock == "wall" else time.process_time
    start = now()
    return dense_walk(maps, edge, SQUARINGS, device=device), now() - start


def _peaks(shape: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Without the squarings' time: one squaring holds as many matrices as eight."""
    ours = peak_bytes(walk_of_size, (stencil_steps, (8, 9), 4), (stencil_steps, shape, 4))
    dense = peak_bytes(walk_of_size, (dense_steps, (8, 9), 1), (dense_steps, shape, 1))
    return None if ours is None or dense is None else (ours, dense)


def _check_large(report: Report, image: tuple[int, int]) -> None:
    shape = tuple(-(-side // STRIDE) for side in image)
    case = f"{image[0]}x{image[1]}, stride {STRIDE}, 2^{SQUARINGS} steps, {MAPS} maps"
    memory = peak_bytes(walk_of_size, (stencil_steps, (8, 9), 4), (stencil_steps, shape, 2**SQUARINGS))
    if memory is None:
        report.skip(BENCH, case, "memory is measured under Linux only")
        return
    print(f"  memory: {memory[0] / 1e6:.1f} MB, with the whole process {memory[1] / 1e6:.0f} MB")
    report.check(BENCH, case, "bytes beyond the process's own", memory[0], LARGE_LIMIT)


def stencil(maps: Float32Array, edge: Float32Array, device: str = "cpu", steps: int = 2**SQUARINGS) -> Float32Array:
    x, e = torch.from_numpy(maps)[None].to(device), torch.from_numpy(edge)[None].to(device)
    return random_walk(x, e, steps)[0].cpu().numpy()


def stencil_steps(maps: Float32Array, edge: Float32Array, steps: int) -> Float32Array:
    return stencil(maps, edge, steps=steps)


def dense_steps(maps: Float32Array, edge: Float32Array, squarings: int) -> Float32Array:
    return dense_walk(maps, edge, squarings)


def walk_of_size(
    function: Callable[[Float32Array, Float32Array, int], Float32Array], shape: tuple[int, int], count: int
) -> None:
    torch.set_num_threads(1)
    function(blobs(MAPS, shape, 0), random_edges(shape, 0), count)


def blobs(count: int, shape: tuple[int, int], seed: int) -> Float32Array:
    """Smooth maps in [0, 1], as CAMs are: float32 (count, h, w)."""
    coarse = torch.rand(1, count, 5, 6, generator=torch.Generator().manual_seed(seed))
    maps = F.interpolate(coarse, shape, mode="bicubic", align_corners=False)[0].clamp_(0, 1)
    return (maps / maps.amax((1, 2), keepdim=True)).numpy()


def random_edges(shape: tuple[int, int], seed: int) -> Float32Array:
    """Mostly low with ridges, in [0, 1], as the output of a boundary network: float32 (h, w)."""
    generator = torch.Generator().manual_seed(1000 + seed)
    coarse = torch.rand(1, 1, 7, 8, generator=generator)
    ridge = F.interpolate(coarse, shape, mode="bicubic", align_corners=False)[0, 0]
    noise = torch.rand(shape, generator=generator)
    return (torch.exp(-(((ridge - 0.5) / 0.05) ** 2)) * 0.9 + 0.1 * noise).clamp_(0, 1).numpy()


def image_edges(path: Path, shape: tuple[int, int]) -> Float32Array:
    """Brightness gradients of an image's middle at stride 4, their 95th percentile and all above it 1: (h, w)."""
    with Image.open(path) as image:
        small = image.convert("L").resize(
            (max(image.width // STRIDE, shape[1] + 2), max(image.height // STRIDE, shape[0] + 2)),
            Image.Resampling.BILINEAR,
        )
    grey = np.asarray(small, np.float32)
    gradient = np.hypot(*np.gradient(grey))
    top, left = (gradient.shape[0] - shape[0]) // 2, (gradient.shape[1] - shape[1]) // 2
    part = gradient[top : top + shape[0], left : left + shape[1]]
    return np.asarray(np.clip(part / max(float(np.quantile(part, 0.95)), 1.0), 0, 1), np.float32)
