"""The background's score beside the CAMs of an image's classes."""

import numpy as np

from pplfast.arrays import Float32Array
from pplfast.errors import UserError

KINDS = ("threshold", "alpha")
DEFAULT_THRESHOLD = 0.25  # where neither a recipe nor masks say which


def check_background(kind: str, value: float) -> None:
    """Raises UserError for a kind that does not exist or a value outside its range."""
    if kind not in KINDS:
        raise UserError(f"background '{kind}': must be one of {', '.join(KINDS)}")
    if kind == "threshold" and not 0 < value < 1:
        raise UserError(f"background threshold {value}: must lie between 0 and 1 (usual: 0.15 to 0.30)")
    if kind == "alpha" and not value > 0:
        raise UserError(f"background alpha {value}: must be above 0 (usual: 4, 24, 32)")


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
