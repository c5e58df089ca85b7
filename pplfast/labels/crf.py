"""The dense CRF (Kraehenbuehl and Koltun, 2011) through pydensecrf; its presets are in recipe/crf_presets.py."""

from collections.abc import Sequence

import numpy as np

from pplfast.arrays import Float32Array, UInt8Array
from pplfast.recipe.crf_presets import PRESETS, CrfPreset


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
