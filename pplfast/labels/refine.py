"""Probabilities of one image -> its label PNG, through the CRF. No torch here: the pool's workers import this."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pplfast.arrays import Float32Array, IntArray, UInt8Array
from pplfast.labels import crf, presets
from pplfast.labels.memory import check_label_fits
from pplfast.labels.pseudo import read_image, write_labels


@dataclass(frozen=True)
class Prediction:
    id: str
    image: Path
    output: Path
    ids: UInt8Array  # (k,): the mask value of each channel
    probabilities: Float32Array  # (k, H, W)


def refine_prediction(prediction: Prediction, preset: str, room: int) -> str:
    """Write the PNG. Returns why it failed, or "" when it did not. room: bytes; a larger image fails."""

    def compute() -> UInt8Array:
        scores = prediction.probabilities
        if preset != presets.NONE:
            check_label_fits(scores.shape[1:], len(prediction.ids) - 1, room)
        pixels = read_image(prediction.image, scores.shape[1:]) if preset != presets.NONE else None
        labels: UInt8Array = prediction.ids[most_likely(scores, pixels, preset)]
        return labels

    return write_labels(prediction.output, compute)


def most_likely(probabilities: Float32Array, pixels: UInt8Array | None, preset: str) -> IntArray:
    """(k, H, W), and the image (H, W, 3) where the preset is a CRF's -> (H, W), 0 to k - 1."""
    if preset != presets.NONE:
        assert pixels is not None, "a CRF looks at the image"
        probabilities = crf.dense_crf(pixels, np.ascontiguousarray(probabilities), preset)
    best: IntArray = probabilities.argmax(axis=0)
    return best
