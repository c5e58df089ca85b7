"""Probabilities of one image -> its label PNG, through the CRF. No torch here: the pool's workers import this."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pplfast.arrays import Float32Array, UInt8Array
from pplfast.labels import crf, presets
from pplfast.labels.pseudo import read_image, write_labels


@dataclass(frozen=True)
class Prediction:
    id: str
    image: Path
    output: Path
    ids: UInt8Array  # (k,): the mask value of each channel
    probabilities: Float32Array  # (k, H, W)


def refine_prediction(prediction: Prediction, preset: str) -> str:
    """Write the PNG. Returns why it failed, or "" when it did not."""

    def compute() -> UInt8Array:
        scores = prediction.probabilities
        if preset != presets.NONE:
            image = read_image(prediction.image, scores.shape[1:])
            scores = crf.dense_crf(image, np.ascontiguousarray(scores), preset)
        labels: UInt8Array = prediction.ids[scores.argmax(axis=0)]
        return labels

    return write_labels(prediction.output, compute)
