"""Probabilities of one image -> its label PNG, through the CRF. No torch here: the pool's workers import this."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pplfast.data.masks import write_mask
from pplfast.errors import UserError
from pplfast.labels import crf, presets
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
        if preset != presets.NONE:
            scores = crf.dense_crf(read_image(prediction.image, scores.shape[1:]), np.ascontiguousarray(scores), preset)
        labels = prediction.ids[scores.argmax(axis=0)]
    except UserError as error:
        return str(error)
    except Exception as error:  # whatever it is, the other images can still be done
        return repr(error)
    write_mask(prediction.output, labels)
    return ""
