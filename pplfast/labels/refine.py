"""Probabilities of one image -> its label PNG, through the CRF. No torch here: the pool's workers import this."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pplfast.data.masks import write_mask
from pplfast.errors import UserError
from pplfast.labels import crf
from pplfast.labels.pseudo import read_image


@dataclass(frozen=True)
class Prediction:
    id: str
    image: Path
    output: Path
    ids: np.ndarray  # uint8 (k,): the mask value of each channel
    probabilities: np.ndarray  # float32 (k, H, W)


def refine_prediction(prediction: Prediction, preset: str) -> str:
    """Write the PNG. Returns why it failed, or "" when it did not."""
    try:
        scores = prediction.probabilities
        pixels = read_image(prediction.image, scores.shape[1:]) if preset != crf.NONE else None
        labels = prediction.ids[most_likely(scores, pixels, preset)]
    except UserError as error:
        return str(error)
    except Exception as error:  # whatever it is, the other images can still be done
        return repr(error)
    write_mask(prediction.output, labels)
    return ""


def most_likely(probabilities: np.ndarray, pixels: np.ndarray | None, preset: str) -> np.ndarray:
    """float32 (k, H, W), and the image uint8 (H, W, 3) where the preset is a CRF's -> int64 (H, W), 0 to k - 1."""
    if preset != crf.NONE:
        probabilities = crf.dense_crf(pixels, np.ascontiguousarray(probabilities), preset)
    return probabilities.argmax(axis=0)
