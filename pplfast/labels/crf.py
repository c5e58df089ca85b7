"""The dense CRF (Kraehenbuehl and Koltun, 2011) through pydensecrf, with the presets that published code uses."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pplfast.arrays import Float32Array, UInt8Array
from pplfast.errors import UserError


@dataclass(frozen=True)
class CrfPreset:
    """Settings of one mean-field inference.

    gt_prob: None: the unary is -log of the probabilities, clipped at 1e-5. Otherwise the unary comes from the argmax
    label, which is right with this probability (pydensecrf's `unary_from_labels`).
    sxy in pixels, srgb in grey levels (0..255), compat: weight of the Potts term.
    """

    source: str
    gaussian_sxy: float
    gaussian_compat: float
    bilateral_sxy: float
    bilateral_srgb: float
    bilateral_compat: float
    gt_prob: float | None = None
    iterations: int = 10


PRESETS = {
    "probabilities": CrfPreset("PSA, imutils.crf_inference", 3, 3, 80, 13, 10),
    "labels": CrfPreset("IRN, imutils.crf_inference_label", 3, 3, 50, 5, 10, gt_prob=0.7),
    "deeplab": CrfPreset("DeepLab v2, PASCAL VOC", 1, 3, 67, 3, 4),
}
NONE = "none"
# What computes it in a labelling job: processes, or the network's device; "auto" takes the GPU where there is one.
ENGINES = PYDENSECRF, DEVICE = "pydensecrf", "device"
AUTO = "auto"


def check_crf(name: str) -> None:
    if name != NONE and name not in PRESETS:
        raise UserError(f"CRF preset '{name}': must be one of {', '.join(PRESETS)}, {NONE}")


def dense_crf(image: UInt8Array, probabilities: Float32Array, preset: str | CrfPreset) -> Float32Array:
    """image uint8 (H, W, 3) RGB, probabilities float32 (k, H, W) -> the marginals, float32 (k, H, W).

    Give it the background and the image's own classes only: classes at probability 0 do not change the result, and
    the time grows with k. A single channel has nothing to decide and is returned as ones.
    """
    return dense_crf_each(image, [probabilities], preset)[0]


def dense_crf_each(image: UInt8Array, several: Sequence[Float32Array], preset: str | CrfPreset) -> list[Float32Array]:
    """`dense_crf` for several probabilities of one shape. The lattices of the image, a third to a half of a
    call's time with two channels, are built once."""
    import pydensecrf.densecrf as densecrf  # here, so that commands without a CRF run where it is not installed

    settings = PRESETS[preset] if isinstance(preset, str) else preset
    count, height, width = several[0].shape
    if image.shape != (height, width, 3) or image.dtype != np.uint8:
        raise ValueError(f"image {image.dtype} {image.shape} does not match probabilities {several[0].shape}")
    if count == 1:
        return [np.ones_like(probabilities) for probabilities in several]
    model = densecrf.DenseCRF2D(width, height, count)
    model.addPairwiseGaussian(sxy=settings.gaussian_sxy, compat=settings.gaussian_compat)
    writable = np.require(image, requirements=["C", "W"])  # pydensecrf takes no read-only array
    model.addPairwiseBilateral(
        sxy=settings.bilateral_sxy, srgb=settings.bilateral_srgb, rgbim=writable, compat=settings.bilateral_compat
    )
    marginals = []
    for probabilities in several:
        model.setUnaryEnergy(np.ascontiguousarray(_unary(probabilities, settings)))
        marginals.append(np.array(model.inference(settings.iterations), dtype=np.float32).reshape(count, height, width))
    return marginals


def _unary(probabilities: Float32Array, settings: CrfPreset) -> Float32Array:
    from pydensecrf.utils import unary_from_labels, unary_from_softmax

    if settings.gt_prob is None:
        unary: Float32Array = unary_from_softmax(probabilities, clip=1e-5)
    else:
        labels = probabilities.argmax(axis=0)
        unary = unary_from_labels(labels, len(probabilities), settings.gt_prob, zero_unsure=False)
    return unary
