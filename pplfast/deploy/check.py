"""Whether an exported file computes what pplfast does: on images of other sizes than the export's, in float32."""

import dataclasses
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pplfast.arrays import Float32Array, UInt8Array
from pplfast.data.classes import BACKGROUND, ClassList
from pplfast.deploy.onnx_file import INPUT, OUTPUTS
from pplfast.errors import UserError
from pplfast.labels.segment import Segmenter
from pplfast.models.segmentation import SegmentationNet
from pplfast.precision import exact_float32
from pplfast.recipe import SegmentationConfig
from pplfast.recipe.crf_presets import NONE

LIMIT = 1e-4  # between probabilities
SIDES = ((1.5, 2.3), (4, 6), (9.1, 5.6))  # of the images, in strides of the network: whole ones and others
COARSE = 8  # pixels between the random colours that are interpolated
WHOLE = 2**40  # pixels of a call: no image is cut in tiles

Run = Callable[[UInt8Array], tuple[Float32Array, UInt8Array]]  # (N, H, W, 3) -> probabilities, labels of the network


def pplfast_run(model: SegmentationNet, config: SegmentationConfig, precision: str = "fp32", threads: int = 1) -> Run:
    """What `pplfast predict --scales 1 --no-flip --crf none` computes before it is written, with rows for labels.
    model: in eval mode; it becomes pplfast's for this device. precision: or "bf16". threads: of DALI."""
    exact_float32()
    config = dataclasses.replace(config, scales=(1.0,), flip=False, crf=NONE)
    segmenter = Segmenter(model, config, precision, WHOLE, batch=1, threads=threads)

    def run(images: UInt8Array) -> tuple[Float32Array, UInt8Array]:
        found = segmenter(list(images))
        assert found is not None, "nobody stops it"
        return found.cpu().numpy(), found.argmax(1).to(torch.uint8).cpu().numpy()

    return run


def onnx_run(path: Path, threads: int = 1) -> Run | None:
    """The ONNX file in onnxruntime on the CPU; None where that is not installed."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images: UInt8Array) -> tuple[Float32Array, UInt8Array]:
        probabilities, labels = session.run(list(OUTPUTS), {INPUT: images})
        return probabilities, labels

    return run


def program_run(path: Path) -> Run:
    """The file of a torch.export program, as one who has torch alone reads it."""
    module = torch.export.load(path).module()

    def run(images: UInt8Array) -> tuple[Float32Array, UInt8Array]:
        with torch.no_grad():
            probabilities, labels = module(torch.from_numpy(images))
        return probabilities.numpy(), labels.numpy()

    return run


def largest_difference(run: Run, expected: Run, classes: ClassList, stride: int) -> float:
    """Between the probabilities of two runs, the first of which gives mask values as labels, the second rows. Raises
    UserError where it is above LIMIT, and for a label where that cannot be the reason."""
    values = np.array([BACKGROUND, *classes.ids], np.uint8)
    largest = 0.0
    for images in _pictures(stride):
        size = f"an image of {images.shape[2]} x {images.shape[1]} pixels"
        (found, labels), (wanted, rows) = run(images), expected(images)
        here = difference(found, wanted)
        if not here <= LIMIT:  # nor NaN
            raise _wrong(f"its probabilities of {size} differ by {here:.2g} from pplfast's, more than {LIMIT:g}")
        largest = max(largest, here)
        second, first = np.sort(wanted, 1)[:, -2:].swapaxes(0, 1)
        if np.any((labels != values[rows]) & (first - second > 2 * LIMIT)):
            raise _wrong(f"its labels of {size} are not pplfast's")
    return largest


def difference(found: Float32Array, wanted: Float32Array) -> float:
    """The largest one; infinite between arrays of two shapes."""
    return float(np.abs(found - wanted).max()) if found.shape == wanted.shape else float("inf")


def _wrong(what: str) -> UserError:
    return UserError(f"the exported network is not written: {what}; report it, with the output of `pplfast doctor`")


def _pictures(stride: int) -> Iterator[NDArray[np.uint8]]:
    """One image of each size, uint8 (1, H, W, 3), of smooth random colours: noise alone would leave every network
    unmoved."""
    rng = np.random.default_rng(0)
    for sides in SIDES:
        height, width = (round(side * stride) for side in sides)
        colours = torch.from_numpy(rng.random((1, 3, height // COARSE + 2, width // COARSE + 2), np.float32) * 255)
        smooth = torch.nn.functional.interpolate(colours, (height, width), mode="bilinear")
        yield smooth.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
