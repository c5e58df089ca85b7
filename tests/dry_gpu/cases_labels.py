"""Maps, labels and predictions: name -> a function that is run under a Watch, on fake tensors on CUDA."""

from collections.abc import Callable

import numpy as np
import torch
from cases_train import CLASSES, RADIUS, autocast, classifier, images, segmentation_net
from torch import Tensor

from pplfast.kernels import cam_fuse, random_walk
from pplfast.labels import network
from pplfast.labels.cam import MapMaker
from pplfast.labels.device_crf import DeviceLabeller
from pplfast.labels.segment import Segmenter
from pplfast.labels.walk import edges
from pplfast.models import create
from pplfast.models.boundary import BoundaryNet
from pplfast.recipe import CamConfig, LabelConfig, SegmentationConfig

HEIGHT, WIDTH = 375, 500
SCALES = (0.5, 1.0, 1.5, 2.0)
WANTED = 3  # classes of an image
PRESET_HEIGHTS = {"probabilities": 375, "labels": 333, "deeplab": 281}  # apart: Gaussian lattices are kept by shape
UNSURE = {"sure": None, "unsure": (0.1, 0.6)}


def maps(backbone: str, variant: str, precision: str) -> Callable[[], None]:
    model = classifier(backbone, variant).eval()
    scaled = [images(16, *_scaled(HEIGHT, WIDTH, scale)) for scale in SCALES]
    classes = torch.zeros(16, WANTED, dtype=torch.int64, device="cuda")

    def run() -> None:
        with torch.inference_mode(), autocast(precision):
            sizes = [_scaled(HEIGHT, WIDTH, scale) for scale in SCALES]
            maps = [model.maps(x, classes) for x in scaled]
            full = cam_fuse(maps, HEIGHT, WIDTH, True, sizes=sizes, cells=model.backbone.cells())
        _expect(full, (8, WANTED, HEIGHT, WIDTH))

    return run


def map_maker(backbone: str, rows: str) -> Callable[[], None]:
    """rows "groups": three of the four rows at a time at scale 1. "tiles": scale 2 in six parts."""
    wanted, scales, count = {"groups": (3 * HEIGHT * WIDTH, (0.5, 1.0, 1.5), 2), "tiles": (400_000, (2.0,), 1)}[rows]
    model = classifier(backbone, "ppl").eval()
    pixels = _scale_ready(count, scales)
    maker = MapMaker(model, CamConfig(scales=scales), "bf16", wanted, count, 1)
    classes = torch.zeros(count, WANTED, dtype=torch.int64)
    with torch.inference_mode(), maker.network.cast():  # as in a job, which counts what the network takes
        model.maps(images(1, 64, 64), torch.zeros(1, WANTED, dtype=torch.int64, device="cuda"))
    return lambda: _expect(maker(pixels, classes), (count, WANTED, HEIGHT, WIDTH))


def crf(preset: str, unsure: str) -> Callable[[], None]:
    height = PRESET_HEIGHTS[preset] + len(unsure)
    labeller = DeviceLabeller(LabelConfig("threshold", 0.3, preset), UNSURE[unsure], torch.device("cuda"))
    pixels = [np.zeros((height, WIDTH, 3), np.uint8)] * 4
    cams = torch.empty(4, WANTED, height, WIDTH, device="cuda")
    labels = np.eye(4, CLASSES, dtype=np.uint8)

    def run() -> None:
        found = labeller(pixels, cams, labels)
        if [made.labels.shape for made in found] != [(height, WIDTH)] * 4:
            raise AssertionError(f"labels of {[made.labels.shape for made in found]}")

    return run


def walk(backbone: str) -> Callable[[], None]:
    with torch.device("cuda"):
        model = BoundaryNet(create(backbone, "none")[0]).eval()
    inputs, cams = images(16, HEIGHT, WIDTH), torch.empty(8, WANTED, 94, 125, device="cuda")

    def run() -> None:
        with torch.inference_mode():
            _expect(random_walk(cams, edges(model(inputs)), 256, radius=RADIUS), (8, WANTED, 94, 125))

    return run


def predict(backbone: str, precision: str) -> Callable[[], None]:
    model = segmentation_net(backbone).eval()
    pixels = _scale_ready(2, SCALES)
    segmenter = Segmenter(model, SegmentationConfig(scales=SCALES), precision, 2**40, 2, 1)
    return lambda: _expect(segmenter(pixels), (2, CLASSES + 1, HEIGHT, WIDTH))


def large(what: str) -> Callable[[], None]:
    """A photo of 24 megapixels: the launch grids have to hold."""
    height, width = 4000, 6000
    if what == "cam_fuse":
        scaled = [torch.empty(2, WANTED, 500, 750, device="cuda"), torch.empty(2, WANTED, 250, 375, device="cuda")]
        return lambda: _expect(cam_fuse(scaled, height, width, True), (1, WANTED, height, width))
    cams, edge = torch.empty(1, WANTED, 1000, 1500, device="cuda"), torch.empty(1, 1000, 1500, device="cuda")
    return lambda: _expect(random_walk(cams, edge, 256), (1, WANTED, 1000, 1500))


def _scale_ready(count: int, scales: tuple[float, ...]) -> list[np.ndarray]:
    """Decoded images; what DALI makes of them, which needs a real device, is there."""
    ready = {scale: images(count, *_scaled(HEIGHT, WIDTH, scale)) for scale in scales}
    network.Resizer = lambda *_: lambda _, scale: ready[scale]
    return [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * count


def _scaled(height: int, width: int, scale: float) -> tuple[int, int]:
    return round(height * scale), round(width * scale)


def _expect(found: Tensor, shape: tuple[int, ...]) -> None:
    if (tuple(found.shape), found.dtype, found.device.type) != (shape, torch.float32, "cuda"):
        raise AssertionError(f"gives {tuple(found.shape)} {found.dtype} on {found.device}, not {shape} float32 on cuda")


KINDS = {"maps": maps, "map_maker": map_maker, "crf": crf, "walk": walk, "predict": predict, "large": large}
