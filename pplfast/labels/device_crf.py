"""The dense CRF on the network's device, for a batch of images: the presets of crf.py, exact like pydensecrf."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pplfast.arrays import UInt8Array
from pplfast.data.handover import to_device
from pplfast.kernels import CrfTerms, mean_field
from pplfast.recipe import LabelConfig
from pplfast.recipe.crf_presets import PRESETS, CrfPreset

CLIP = 1e-5  # of probabilities, as pydensecrf's users have it
UNSURE = 255


class DeviceLabeller:
    """CAMs of a batch -> labels. unsure: (low, high) thresholds, see `rules.label_scores`."""

    def __init__(self, config: LabelConfig, unsure: tuple[float, float] | None, device: torch.device) -> None:
        self._config, self._unsure, self.device = config, unsure, device
        self._preset = PRESETS[config.crf]

    def __call__(self, pixels: Sequence[UInt8Array], maps: Tensor, labels: UInt8Array) -> list[UInt8Array]:
        """pixels: B times uint8 (H, W, 3); maps float32 (B, n, H, W), each image's own classes first; labels uint8
        (B, classes). Returns B times uint8 (H, W): 0 background, 1 + position of the class, 255 unsure."""
        if not maps.shape[1]:
            return [np.zeros(image.shape[:2], np.uint8) for image in pixels]
        images = to_device(torch.from_numpy(np.stack(pixels)), self.device)
        counts = to_device(torch.from_numpy(labels.astype(np.int64).sum(axis=1)), self.device)
        with torch.inference_mode():
            if self._unsure is None:
                result = self._argmax(images, maps, counts, self._config.background, self._config.value)
            else:
                low, high = self._unsure
                sure = self._argmax(images, maps, counts, "threshold", high)
                nothing = self._argmax(images, maps, counts, "threshold", low) == 0
                result = torch.where(sure > 0, sure, torch.where(nothing, 0, UNSURE))
        return list(result.to(torch.uint8).cpu().numpy())

    def _argmax(self, images: Tensor, maps: Tensor, counts: Tensor, background: str, value: float) -> Tensor:
        present = torch.arange(maps.shape[1], device=maps.device) < counts[:, None]  # (B, n)
        maps = maps.masked_fill(~present[:, :, None, None], 0)
        scores = torch.cat(
            (
                torch.full_like(maps[:, :1], value) if background == "threshold" else (1 - maps.amax(1, True)) ** value,
                maps,
            ),
            1,
        )
        if background == "threshold":
            scores = scores / scores.sum(1, keepdim=True)
        energy = unary(scores, counts + 1, self._preset)
        return mean_field(images, energy, crf_terms(self._preset)).argmax(1)


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
