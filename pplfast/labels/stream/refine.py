"""What the worker processes do with one image: background, CRF, argmax, encoding, writing. No torch here."""

import io
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pplfast.arrays import Float32Array, UInt8Array
from pplfast.data.classes import BACKGROUND
from pplfast.data.masks import mask_image
from pplfast.errors import UserError
from pplfast.files import atomic_path
from pplfast.labels import camfile, crf, presets
from pplfast.labels.background import add_background, to_probabilities
from pplfast.labels.pool import start_worker
from pplfast.labels.stream.manifest import checksum
from pplfast.labels.stream.shards import Member, sample
from pplfast.recipe import LabelConfig

UNSURE = 255


@dataclass(frozen=True)
class RefineConfig:
    """class_ids: mask value of each class. outputs: of png, npy, shards. unsure: see `label_scores`."""

    out: Path
    class_ids: tuple[int, ...]
    label: LabelConfig
    unsure: tuple[float, float] | None
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """pixels: uint8 (H, W, 3). maps: float32 (k, H, W), of `classes`. labels: uint8 (H, W), positions in [background,
    *classes], where the device has already computed them; then `maps` is None unless it is written as well."""

    id: str
    index: int
    image: Path
    classes: tuple[int, ...]
    pixels: UInt8Array | None
    maps: Float32Array | None
    labels: UInt8Array | None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image."""
        known = self.labels if self.pixels is None else self.pixels
        assert known is not None, "there are the labels, or what they are made from"
        height, width = known.shape[:2]
        return height, width


@dataclass
class Refined:
    """files: for the manifest. members: of the shard, which the rank's own process writes."""

    files: list[dict[str, Any]] = field(default_factory=list)
    members: list[Member] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    failure: str = ""  # what is wrong with this image alone


_config: RefineConfig


def start(config: RefineConfig) -> None:
    """First call in each worker process."""
    global _config
    start_worker()
    os.nice(5)  # the network and the decoding, which feed all workers, go first where cores are short
    _config = config


def refine(task: Task) -> Refined:
    """Raises UserError where an output cannot be written: that stops the job. All else is the image's failure."""
    try:
        begin = time.perf_counter()
        labels = task.labels
        if labels is None:
            assert task.maps is not None and task.pixels is not None, "without labels the worker makes them"
            labels = label_scores(task.maps, task.pixels, _config.label, _config.unsure)
        ids = np.full(256, UNSURE, np.uint8)
        ids[: len(task.classes) + 1] = [BACKGROUND, *(_config.class_ids[c] for c in task.classes)]
        labelled = time.perf_counter()
        png = encode_png(ids[labels])
        jpeg = task.image.read_bytes() if "shards" in _config.outputs else b""
    except Exception as error:  # whatever it is, the other images can still be done
        return Refined(failure=str(error) if isinstance(error, UserError) else repr(error))
    result = Refined(seconds={"crf": labelled - begin})
    if "png" in _config.outputs:
        result.files.append(_write(f"{task.id}.png", png))
    if "npy" in _config.outputs:
        result.files.append(_write(f"{task.id}.npy", _encode_npy(task)))
    if "shards" in _config.outputs:
        description = {
            "classes": [_config.class_ids[c] for c in task.classes],
            "height": labels.shape[0],
            "width": labels.shape[1],
        }
        result.members = sample(task.id, jpeg, png, description)
    result.seconds["encode"] = time.perf_counter() - labelled
    return result


def label_scores(
    maps: Float32Array, pixels: UInt8Array, config: LabelConfig, unsure: tuple[float, float] | None
) -> UInt8Array:
    """float32 (k, H, W) CAMs -> uint8 (H, W): 0 background, 1 + position of the class, 255 unsure.

    With `unsure` = (low, high) as in IRN: a pixel has a class where it wins against the threshold `high`, it is
    background where that wins at `low`, each after the CRF; what lies between is unsure.
    """
    if unsure is None:
        return _argmax(maps, pixels, config.background, config.value, config.crf)
    low, high = unsure
    sure = _argmax(maps, pixels, "threshold", high, config.crf)
    nothing = _argmax(maps, pixels, "threshold", low, config.crf) == 0
    return np.where(sure > 0, sure, np.where(nothing, 0, UNSURE)).astype(np.uint8)


def _argmax(maps: Float32Array, pixels: UInt8Array, background: str, value: float, preset: str) -> UInt8Array:
    scores = add_background(maps, background, value)
    if preset != presets.NONE:
        scores = crf.dense_crf(pixels, to_probabilities(scores, background), preset)
    return np.asarray(scores.argmax(axis=0), np.uint8)


def encode_png(mask: UInt8Array) -> bytes:
    buffer = io.BytesIO()
    mask_image(mask).save(buffer, format="PNG")
    return buffer.getvalue()


def _encode_npy(task: Task) -> bytes:
    maps = task.maps
    assert maps is not None, "the network's process sends the maps that are to be written"
    height, width = camfile.stored_size(*maps.shape[1:])
    buffer = io.BytesIO()
    camfile.write_npy_dict(buffer, np.array(task.classes, np.int64), camfile.resize_bilinear(maps, height, width), maps)
    return buffer.getvalue()


def _write(name: str, data: bytes) -> dict[str, Any]:
    path = _config.out / name
    with atomic_path(path, sync=False) as temporary:
        temporary.write_bytes(data)
    return {"file": name, "bytes": len(data), "sha256": checksum(data)}
