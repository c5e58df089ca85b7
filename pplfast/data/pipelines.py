"""The DALI graphs: decode, augment for training, scale for inference. One definition serves CPU and GPU.

Images travel between the graphs as decoded uint8 arrays in host memory. So freshly decoded and cached images meet in
one batch, and the augmentation cannot tell them apart.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy as np
import torch

from pplfast.arrays import Float32Array, UInt8Array
from pplfast.data.classes import IGNORE
from pplfast.data.handover import Handover
from pplfast.data.sampling import Geometry
from pplfast.errors import UserError

os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # DALI's last resort for a damaged TIFF, of which we say more

try:
    from nvidia.dali import Pipeline, fn, pipeline_def, types
    from nvidia.dali.data_node import DataNode
except ModuleNotFoundError:
    raise UserError("NVIDIA DALI is not installed; install it with pip install 'pplfast[cuda13]'") from None

Item = TypeVar("Item")
Result = TypeVar("Result")


def resolve_device(device: str | torch.device) -> torch.device:
    """With the index filled in: the loaders' own threads do not inherit the current GPU of the caller's."""
    device = torch.device(device)
    return torch.device("cuda", torch.cuda.current_device()) if device == torch.device("cuda") else device


def pipeline_options(batch_size: int, threads: int, device: torch.device) -> dict[str, Any]:
    """Arguments of every pipeline here.

    Each is run by a thread of ours (see `ahead`), one batch at a time, hence no queue inside. The dynamic executor
    gives every batch its own buffers: on a CPU they stay valid as long as the arrays or tensors made from them; on a
    GPU as long as nothing that reads them waits in a queue of torch's, see `Handover`.
    """
    gpu = device.type == "cuda"
    return {
        "gpu": gpu,
        "batch_size": batch_size,
        "num_threads": threads,
        "device_id": device.index if gpu else None,
        "prefetch_queue_depth": 1,
        "exec_dynamic": True,
    }


@pipeline_def
def decode_graph(gpu: bool) -> DataNode:
    """Encoded bytes -> uint8 HWC in host memory.

    RGB whatever the file's colours. The EXIF orientation is ignored, because masks are drawn on images as stored.
    Fancy upsampling is what libjpeg and PIL do; on the CPU it is always on.
    """
    encoded = fn.external_source(name="encoded", no_copy=True, dtype=types.UINT8, ndim=1)
    images = fn.decoders.image(
        encoded,
        device="mixed" if gpu else "cpu",
        output_type=types.RGB,
        adjust_orientation=False,
        jpeg_fancy_upsampling=True,
    )
    return images.cpu() if gpu else images


@pipeline_def
def augment_graph(crop: int, jitter: bool, mean: list[float], std: list[float], gpu: bool) -> DataNode:
    """uint8 HWC images and a Geometry -> float32 (crop, crop, 3).

    Resizing only the visible part equals resizing the whole and cropping. Colours are changed before normalisation,
    so that the padding, which comes after it, is 0.
    """
    images = _images(gpu)
    size, start, end, place = (_values(name, 1) for name in ("size", "roi_start", "roi_end", "place"))
    images = fn.resize(images, size=size, roi_start=start, roi_end=end, interp_type=types.INTERP_LINEAR, antialias=True)
    if jitter:
        images = fn.color_twist(images, **{name: _values(name, 0) for name in ("brightness", "contrast", "saturation")})
    return _laid_into_crop(images, crop, place, fill_values=0.0, mean=mean, std=std)


@pipeline_def
def scale_graph(mean: list[float], std: list[float], gpu: bool) -> DataNode:
    """uint8 HWC images of one shape -> normalised float32 images."""
    images = fn.resize(_images(gpu), size=_values("size", 1), interp_type=types.INTERP_CUBIC, antialias=True)
    return fn.crop_mirror_normalize(images, mean=mean, std=std, output_layout="HWC")


@pipeline_def
def mask_graph(crop: int, gpu: bool) -> DataNode:
    """uint8 HW1 masks and the Geometry of their images -> uint8 (crop, crop, 1): the nearest value, 255 around."""
    masks = _images(gpu)
    size, start, end, place = (_values(name, 1) for name in ("size", "roi_start", "roi_end", "place"))
    masks = fn.resize(masks, size=size, roi_start=start, roi_end=end, interp_type=types.INTERP_NN)
    return _laid_into_crop(masks, crop, place, fill_values=float(IGNORE), mean=[0.0], std=[1.0], dtype=types.UINT8)


def _laid_into_crop(images: DataNode, crop: int, place: DataNode, **options: Any) -> DataNode:
    """HWC images no larger than the crop, at their `place` in it; mirrored where the Geometry says so."""
    return fn.crop_mirror_normalize(
        images,
        crop=(crop, crop),
        crop_pos_y=place[0],
        crop_pos_x=place[1],
        out_of_bounds_policy="pad",
        mirror=_values("flip", 0, types.INT32),
        output_layout="HWC",
        **options,
    )


def _images(gpu: bool) -> DataNode:
    images = fn.external_source(name="images", no_copy=True, dtype=types.UINT8, ndim=3, layout="HWC")
    return images.gpu() if gpu else images


def _values(name: str, ndim: int, dtype: types.DALIDataType = types.FLOAT) -> DataNode:
    return fn.external_source(name=name, dtype=dtype, ndim=ndim)


class Decoder:
    """Decodes images batch by batch. A bad one costs its own result only."""

    def __init__(self, batch_size: int, threads: int, device: torch.device) -> None:
        self._options = pipeline_options(batch_size, threads, device)
        self._pipeline = self._build()

    def _build(self) -> Pipeline:
        return decode_graph(**self._options)

    def __call__(self, encoded: Sequence[UInt8Array]) -> list[UInt8Array | None]:
        """uint8 (H, W, 3) for each, views of one buffer; None where the file is damaged."""
        if not encoded:
            return []
        try:
            return [*self._run(encoded)]
        except RuntimeError:
            # DALI says that some sample failed, not reliably which one, and the pipeline is lost.
            self._pipeline = self._build()
            return [self._alone(one) for one in encoded]

    def _alone(self, encoded: UInt8Array) -> UInt8Array | None:
        try:
            return self._run([encoded])[0]
        except RuntimeError:
            self._pipeline = self._build()
            return None

    def _run(self, encoded: Sequence[UInt8Array]) -> list[UInt8Array]:
        (batch,) = self._pipeline.run(encoded=list(encoded))
        return [np.asarray(batch[row]) for row in range(len(batch))]


class Augmenter:
    """Decoded images -> one training batch."""

    def __init__(
        self,
        crop: int,
        jitter: bool,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int,
        threads: int,
        handover: Handover,
    ) -> None:
        self._handover = handover
        self._pipeline = augment_graph(
            crop=crop,
            jitter=jitter,
            mean=[float(value) for value in mean],
            std=[float(value) for value in std],
            **pipeline_options(batch_size, threads, handover.device),
        )

    def __call__(
        self, images: Sequence[UInt8Array], geometry: Geometry, factors: dict[str, Float32Array]
    ) -> torch.Tensor:
        """float32 (B, 3, crop, crop), channels_last."""
        (batch,) = self._pipeline.run(images=list(images), **vars(geometry), **factors)
        return self._handover.from_dali(batch).permute(0, 3, 1, 2)


class MaskCutter:
    """Masks -> those of one training batch, cut like their images."""

    def __init__(self, crop: int, batch_size: int, threads: int, handover: Handover) -> None:
        self._handover = handover
        self._pipeline = mask_graph(crop=crop, **pipeline_options(batch_size, threads, handover.device))

    def __call__(self, masks: Sequence[UInt8Array], geometry: Geometry) -> torch.Tensor:
        """masks: uint8 (H, W, 1) -> int64 (B, crop, crop)."""
        (batch,) = self._pipeline.run(images=list(masks), **vars(geometry))
        return self._handover.from_dali(batch, dtype=torch.int64).squeeze(3)


class Resizer:
    """Decoded images of one shape -> one normalised batch at a scale, by antialiased bicubic resizing in 0..255 as in
    the field's published CAM code. mean, std: 3 values in units of 0..255."""

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], batch_size: int, threads: int, handover: Handover
    ) -> None:
        self._handover = handover
        self._pipeline = scale_graph(
            mean=[float(value) for value in mean],
            std=[float(value) for value in std],
            **pipeline_options(batch_size, threads, handover.device),
        )

    def __call__(self, images: Sequence[UInt8Array], scale: float) -> torch.Tensor:
        """float32 (B, 3, h, w), channels_last."""
        height, width = images[0].shape[:2]
        size = scaled_size(height, width, scale)
        (batch,) = self._pipeline.run(images=list(images), size=np.full((len(images), 2), size, np.float32))
        return self._handover.from_dali(batch).permute(0, 3, 1, 2)


def scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Pixels at a scale: rounded half to even, at least 1."""
    return max(1, round(height * scale)), max(1, round(width * scale))


def ahead(submit: Callable[[Item], "Future[Result]"], items: Iterable[Item], count: int) -> Iterator[Result]:
    """Results in the order of `items`, with up to `count` submitted before they are asked for."""
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(submit(item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
