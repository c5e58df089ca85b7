"""The background's score beside the CAMs of an image's classes."""

import numpy as np

from pplfast.arrays import Float32Array


def add_background(maps: Float32Array, kind: str, value: float) -> Float32Array:
    """(k, H, W) float32 CAMs in [0, 1] -> (k + 1, H, W) float32 scores, background first.

    "threshold": the background scores `value` everywhere. "alpha": (1 - max over the classes)^value (PSA).
    In the argmax of the result a tie goes to the background, so a class needs more than the threshold.
    """
    scores = np.empty((len(maps) + 1, *maps.shape[1:]), np.float32)
    scores[1:] = maps
    if kind == "threshold":
        scores[0] = value
    else:
        scores[0] = (1 - maps.max(axis=0, initial=0)) ** value
    return scores


def to_probabilities(scores: Float32Array, kind: str) -> Float32Array:
    """What the CRF takes as probabilities: (k + 1, H, W) float32.

    Threshold scores are divided by their sum over the channels. The CRF's result depends on ratios of channels only,
    so this changes nothing but where its clipping at 1e-5 sets in. Alpha scores go in as they are, as published.
    """
    return scores / scores.sum(axis=0, keepdims=True) if kind == "threshold" else scores
