"""Multi-scale CAMs one image at a time, as the field's `make_cam` scripts do it, and the dense CRF in sequence."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pplfast.benchmarks.reference.backbone import ReferenceBackbone
from pplfast.benchmarks.reference.classifier import ReferenceClassifier


def load_scales(path: str, scales: Sequence[float], mean: Sequence[float], std: Sequence[float]) -> list[Tensor]:
    """Per scale the image and its mirror image, normalised, as float32 (2, 3, h, w); mean and std in 0..255 units."""
    image = Image.open(path).convert("RGB")
    mean_3, std_3 = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    pairs = []
    for scale in scales:
        size = round(image.width * scale), round(image.height * scale)
        pixels = (np.asarray(image.resize(size, Image.Resampling.BICUBIC), np.float32) - mean_3) / std_3
        pair = np.stack([pixels, pixels[:, ::-1]]).transpose(0, 3, 1, 2)
        pairs.append(torch.from_numpy(np.ascontiguousarray(pair)))
    return pairs


@torch.no_grad()
def image_cam(
    model: ReferenceClassifier, pairs: list[Tensor], height: int, width: int, classes: Sequence[int]
) -> Tensor:
    """CAMs of one image (classes, height, width) in 0..1: map + unflipped map, summed over scales, by its maximum.

    `pairs`: per scale the image and its mirror image, (2, 3, h, w).
    """
    total = torch.zeros(len(classes), height, width, device=pairs[0].device)
    for pair in pairs:
        maps = at_pixels(model.maps(pair).float(), model.backbone, pair.shape[2:], (height, width))
        total += (maps[0] + maps[1].flip(2))[list(classes)]
    return total / (F.adaptive_max_pool2d(total, 1) + 1e-5)


def at_pixels(maps: Tensor, backbone: ReferenceBackbone, scaled: Sequence[int], size: Sequence[int]) -> Tensor:
    """Maps (B, C, h, w) of images of `scaled` (height, width) at the pixels of the unscaled images: (B, C, *size)."""
    stride, axes = math.prod(backbone.strides), []
    for cells, pixels, length in zip(maps.shape[2:], scaled, size):
        pixel = (torch.arange(length, device=maps.device) + 0.5) * pixels / length - 0.5
        first = (stride - 1) / 2 + backbone.shift
        axes.append((pixel - first) / stride / max(cells - 1, 1) * 2 - 1)  # -1 and 1: the outer cells
    y, x = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack((x, y), 2).expand(len(maps), -1, -1, -1)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=True)


def dense_crf(image: npt.NDArray[np.uint8], probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Label per pixel (H, W) after 10 mean-field steps; image uint8 (H, W, 3), probabilities float32 (L, H, W)."""
    import pydensecrf.densecrf as densecrf

    labels, height, width = probabilities.shape
    crf = densecrf.DenseCRF2D(width, height, labels)
    unary = -np.log(np.clip(probabilities, 1e-5, 1)).reshape(labels, -1)
    crf.setUnaryEnergy(np.ascontiguousarray(unary, np.float32))
    crf.addPairwiseGaussian(sxy=3, compat=3)
    crf.addPairwiseBilateral(sxy=80, srgb=13, rgbim=np.ascontiguousarray(image), compat=10)
    return np.asarray(crf.inference(10)).reshape(labels, height, width).argmax(0).astype(np.uint8)


def image_label(path: str, cam: Tensor, classes: Sequence[int], threshold: float) -> npt.NDArray[np.uint8]:
    """Pseudo label (H, W) of class ids, 0 background, from one image's CAMs (present classes, H, W)."""
    scores = np.concatenate([np.full((1, *cam.shape[1:]), threshold, np.float32), cam.cpu().numpy()])
    labels = dense_crf(np.array(Image.open(path).convert("RGB")), scores / scores.sum(0, keepdims=True))
    return np.asarray([0, *(c + 1 for c in classes)], np.uint8)[labels]
