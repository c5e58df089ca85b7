"""Scores of one image -> its labels: background, thresholds, dense CRF, argmax, encoding. No torch here: what is called
from worker processes."""

import io
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pplfast.arrays import Float32Array, Float64Array, IntArray, UInt8Array
from pplfast.data.classes import BACKGROUND, IGNORE
from pplfast.data.encoded import read_encoded
from pplfast.data.masks import mask_image
from pplfast.data.stored import Stored
from pplfast.jobs.job import Finish, Finished
from pplfast.labels import crf, overlay
from pplfast.labels.background import add_background, to_probabilities
from pplfast.labels.camfile import Cam, encode_npy, resize_bilinear, stored_size
from pplfast.labels.camfolder import load_cam_of
from pplfast.labels.confidence import confidence_fact, expected_iou
from pplfast.recipe import LabelConfig
from pplfast.recipe import crf_presets as presets

Unsure = tuple[float, float] | None


@dataclass(frozen=True)
class Scores:
    """One image on its way to its label. classes: of the maps, float32 (k, H, W), which may still be in the file `cam`.
    pixels: uint8 (H, W, 3), where a CRF is to look at them. labels: uint8 (H, W), positions in [background, *classes],
    where the device has already computed them, and how sure they are, (1 + k,)."""

    image: Path | Stored
    size: tuple[int, int]
    classes: tuple[int, ...] = ()
    maps: Float32Array | None = None
    cam: Path | Stored | None = None
    pixels: UInt8Array | None = None
    labels: UInt8Array | None = None
    sure: Float64Array | None = None
    tiled: int = 0


@dataclass(frozen=True)
class FinishLabels(Finish):
    """class_ids: mask value of each class. unsure: see `label_scores`. outputs: of png, npy, shards. in_processes:
    where the CRF is pydensecrf's."""

    class_ids: tuple[int, ...]
    label: LabelConfig
    unsure: Unsure
    outputs: tuple[str, ...] = ("png",)
    in_processes: bool = True

    def __call__(self, payload: Scores) -> Finished:
        begin = time.perf_counter()
        classes, maps, labels, sure = payload.classes, payload.maps, payload.labels, payload.sure
        if labels is None:
            if payload.cam is not None:
                cam = load_cam_of(payload.cam, payload.size, len(self.class_ids))
                classes, maps = tuple(int(c) for c in cam.classes), cam.full()
            assert maps is not None, "without labels the maps are there"
            labels = label_scores(maps, payload.pixels, self.label, self.unsure)
            if self.unsure is None:
                sure = expected_iou(map_probabilities(maps, self.label), labels)
        ids = np.full(256, IGNORE, np.uint8)
        own = [self.class_ids[c] for c in classes]
        ids[: len(own) + 1] = [BACKGROUND, *own]
        labelled = time.perf_counter()
        png = encode_png(ids[labels])
        finished = Finished({}, facts={"classes": own} | ({"tiled": payload.tiled} if payload.tiled else {}))
        if sure is not None:
            finished.facts |= confidence_fact((BACKGROUND, *own), sure)
        if "png" in self.outputs:
            finished.files[".png"] = png
        if "npy" in self.outputs:
            assert maps is not None, "maps that are to be written are sent"
            low = resize_bilinear(maps, *stored_size(*payload.size))
            finished.files[".npy"] = encode_npy(Cam(np.array(classes, np.int64), low, payload.size), maps)
        if "shards" in self.outputs:
            finished.sample = {_member(payload.image): read_encoded(payload.image).tobytes(), ".png": png}
        finished.seconds = {"crf": labelled - begin, "encode": time.perf_counter() - labelled}
        return finished


def _member(image: Path | Stored) -> str:
    """The suffix of an image in a shard, in which .png is its label."""
    suffix = os.path.splitext(str(image))[1].lower()
    return ".jpg" if suffix in (".jpg", ".jpeg", ".jpe", ".jfif") else f".image{suffix}"


@dataclass(frozen=True)
class NetworkScores:
    """Of a segmentation network for one image. ids: uint8 (k,), the mask value of each channel. probabilities: float32
    (k, H, W). pixels: uint8 (H, W, 3), where a CRF or people are to look at them. told: these are the image's classes,
    and not only those that it may have."""

    pixels: UInt8Array | None
    ids: UInt8Array
    probabilities: Float32Array
    tiled: int = 0
    told: bool = False


@dataclass(frozen=True)
class FinishPrediction(Finish):
    """drawn: whether the labels are drawn over the image as well."""

    crf: str
    drawn: bool = False

    @property
    def in_processes(self) -> bool:  # type: ignore[override]
        return self.crf != presets.NONE

    def __call__(self, payload: NetworkScores) -> Finished:
        begin = time.perf_counter()
        rows = most_likely(payload.probabilities, payload.pixels, self.crf)
        labels, sure = payload.ids[rows], expected_iou(payload.probabilities, rows)
        labelled = time.perf_counter()
        files = {".png": encode_png(labels)}
        if self.drawn:
            assert payload.pixels is not None, "a drawing shows the image"
            files[overlay.SUFFIX] = overlay.encode_overlay(payload.pixels, labels)
        # Of classes that an image may have, one without a pixel is one that it has not.
        kept = np.full(len(sure), payload.told) | (sure > 0) | (payload.ids == BACKGROUND)
        facts: dict[str, Any] = dict(confidence_fact(payload.ids[kept].tolist(), sure[kept]))
        facts |= {"tiled": payload.tiled} if payload.tiled else {}
        seconds = {"crf": labelled - begin, "encode": time.perf_counter() - labelled}
        return Finished(files, facts=facts, seconds=seconds)


def label_scores(maps: Float32Array, pixels: UInt8Array | None, config: LabelConfig, unsure: Unsure) -> UInt8Array:
    """float32 (k, H, W) CAMs -> uint8 (H, W): 0 background, 1 + position of the class, 255 unsure.

    With `unsure` = (low, high) as in IRN's `cam_to_ir_label` (arXiv 1904.05044): a pixel has a class where it wins
    against the threshold `high`, it is background where that wins at `low`, each after the CRF; what lies between is
    unsure. pixels: uint8 (H, W, 3), for a CRF.
    """
    if unsure is None:
        return _argmax(maps, pixels, config.background, (config.value,), config.crf)[0]
    high, low = _argmax(maps, pixels, "threshold", (unsure[1], unsure[0]), config.crf)
    return np.where(high > 0, high, np.where(low == 0, 0, IGNORE)).astype(np.uint8)


def map_probabilities(maps: Float32Array, config: LabelConfig) -> Float32Array:
    """float32 (k, H, W) CAMs -> (k + 1, H, W), the background's first: its score and theirs, divided by their sum."""
    return to_probabilities(add_background(maps, config.background, config.value), "threshold")


def _argmax(
    maps: Float32Array, pixels: UInt8Array | None, background: str, values: tuple[float, ...], preset: str
) -> list[UInt8Array]:
    scores = [add_background(maps, background, value) for value in values]
    if preset != presets.NONE and len(maps):
        assert pixels is not None, "a CRF looks at the image"
        scores = crf.dense_crf_each(pixels, [to_probabilities(each, background) for each in scores], preset)
    return [np.asarray(each.argmax(axis=0), np.uint8) for each in scores]


def most_likely(probabilities: Float32Array, pixels: UInt8Array | None, preset: str) -> IntArray:
    """(k, H, W), and the image uint8 (H, W, 3) where the preset is a CRF's -> (H, W), 0 to k - 1."""
    if preset != presets.NONE:
        assert pixels is not None, "a CRF looks at the image"
        probabilities = crf.dense_crf(pixels, np.ascontiguousarray(probabilities), preset)
    best: IntArray = probabilities.argmax(axis=0)
    return best


def encode_png(mask: UInt8Array) -> bytes:
    buffer = io.BytesIO()
    mask_image(mask).save(buffer, format="PNG")
    return buffer.getvalue()
