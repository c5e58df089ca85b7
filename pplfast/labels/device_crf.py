"""The dense CRF on the network's device, for a batch of images: the presets of crf.py, exact like pydensecrf."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pplfast.arrays import Float64Array, UInt8Array
from pplfast.data.handover import to_device
from pplfast.kernels import CrfTerms, mean_field
from pplfast.recipe import LabelConfig
from pplfast.recipe.crf_presets import PRESETS, CrfPreset

CLIP = 1e-5  # of probabilities, as pydensecrf's users have it
UNSURE = 255


class Labelled(NamedTuple):
    """labels: uint8 (H, W), 0 background, 1 + position of the class, 255 unsure. sure: of the background and each class
    of the image the IoU to expect, float64 (1 + k,); None with unsure pixels."""

    labels: UInt8Array
    sure: Float64Array | None


class DeviceLabeller:
    """CAMs of a batch -> labels. unsure: (low, high) thresholds, see `rules.label_scores`."""

    def __init__(self, config: LabelConfig, unsure: tuple[float, float] | None, device: torch.device) -> None:
        self._config, self._unsure, self.device = config, unsure, device
        self._preset = PRESETS[config.crf]

    def __call__(self, pixels: Sequence[UInt8Array], maps: Tensor, labels: UInt8Array) -> list[Labelled]:
        """pixels: B times uint8 (H, W, 3); maps float32 (B, n, H, W), each image's own classes first; labels uint8
        (B, classes). Returns B `Labelled`."""
        if not maps.shape[1]:
            sure = None if self._unsure else np.ones(1)  # background alone
            return [Labelled(np.zeros(image.shape[:2], np.uint8), sure) for image in pixels]
        images = to_device(torch.from_numpy(np.stack(pixels)), self.device)
        counts = to_device(torch.from_numpy(labels.astype(np.int64).sum(axis=1)), self.device)
        with torch.inference_mode():
            if self._unsure is None:
                scores = _scores(maps, counts, self._config.background, self._config.value)
                result = self._argmax(images, scores, counts, self._config.background)
                ious = expected_ious(scores / scores.sum(1, keepdim=True), result).cpu().numpy()
                of_each = [row[: 1 + own] for row, own in zip(ious, labels.sum(axis=1, dtype=np.int64), strict=True)]
                return [Labelled(*pair) for pair in zip(_on_host(result), of_each, strict=True)]
            low, high = (_scores(maps, counts, "threshold", value) for value in self._unsure)
            found, nothing = (self._argmax(images, scores, counts, "threshold") for scores in (high, low))
            result = torch.where(found > 0, found, torch.where(nothing == 0, 0, UNSURE))
        return [Labelled(labels, None) for labels in _on_host(result)]

    def _argmax(self, images: Tensor, scores: Tensor, counts: Tensor, background: str) -> Tensor:
        if background == "threshold":
            scores = scores / scores.sum(1, keepdim=True)
        energy = unary(scores, counts + 1, self._preset)
        return mean_field(images, energy, crf_terms(self._preset)).argmax(1)


def _scores(maps: Tensor, counts: Tensor, background: str, value: float) -> Tensor:
    """(B, n, H, W), of which counts[b] classes are image b's -> (B, 1 + n, H, W): the background's score first, and 0
    for classes that are not the image's."""
    absent = torch.arange(maps.shape[1], device=maps.device) >= counts[:, None]  # (B, n)
    maps = maps.masked_fill(absent[:, :, None, None], 0)
    first = torch.full_like(maps[:, :1], value) if background == "threshold" else (1 - maps.amax(1, True)) ** value
    return torch.cat((first, maps), 1)


def _on_host(labels: Tensor) -> list[UInt8Array]:
    return list(labels.to(torch.uint8).cpu().numpy())


def expected_ious(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Of a batch (B, k, H, W) and its labels, whole numbers (B, H, W): (B, k), as `confidence.expected_iou` of each."""
    flat = labels.flatten(1)
    own = probabilities.flatten(2).gather(1, flat[:, None])[:, 0]
    zeros = probabilities.new_zeros(probabilities.shape[:2], dtype=torch.float64)
    right = zeros.scatter_add(1, flat, own.double())
    pixels = zeros.scatter_add(1, flat, torch.ones_like(own, dtype=torch.float64))
    union = pixels + probabilities.flatten(2).sum(2, dtype=torch.float64) - right
    return torch.where(union > 0, right / union, 0.0)


def unary(probabilities: Tensor, counts: Tensor, preset: CrfPreset) -> Tensor:
    """(B, C, H, W), of which the first counts[b] channels are image b's -> energies, infinite in the other channels."""
    channel = torch.arange(probabilities.shape[1], device=probabilities.device)[None, :, None, None]
    absent = channel >= counts[:, None, None, None]
    if preset.gt_prob is None:
        energy = -probabilities.clamp(CLIP, 1).log()
    else:
        best = probabilities.masked_fill(absent, -1).argmax(1, keepdim=True)
        others = -(((1 - preset.gt_prob) / (counts - 1)).log())[:, None, None, None]
        right = torch.tensor(preset.gt_prob, device=probabilities.device).log().neg()
        energy = torch.where(channel == best, right, others.to(probabilities.dtype))
    return energy.masked_fill(absent, float("inf"))


def crf_terms(preset: CrfPreset) -> CrfTerms:
    return CrfTerms(
        preset.gaussian_sxy,
        preset.gaussian_compat,
        preset.bilateral_sxy,
        preset.bilateral_srgb,
        preset.bilateral_compat,
        preset.iterations,
    )
