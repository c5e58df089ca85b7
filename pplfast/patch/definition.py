"""The plain definition of patch learning: pad, split, run every branch, merge, concatenate, classify, pool.

It is the documentation of pplfast.patch.classifier and the oracle of its tests; it calls no kernel.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pplfast.patch.branches import Cut, remaining_stride
from pplfast.patch.classifier import PatchClassifier


def split(x: Tensor, grid: int, stride: int) -> Tensor:
    """P: (B, C, H, W) -> (B*K*K, C, h, w), patches in row-major order; h, w the smallest multiples of `stride` with
    K*h >= H, K*w >= W; zeros at the bottom and right."""
    height, width = x.shape[2:]
    h = -(-height // (grid * stride)) * stride
    w = -(-width // (grid * stride)) * stride
    x = F.pad(x, (0, grid * w - width, 0, grid * h - height))
    patches = [row.chunk(grid, dim=3) for row in x.chunk(grid, dim=2)]
    return torch.stack([cell for row in patches for cell in row], dim=1).flatten(0, 1)


def merge(patches: Tensor, grid: int, height: int, width: int) -> Tensor:
    """M: (B*K*K, C, h, w) -> (B, C, height, width), the padding cropped."""
    cells = patches.unflatten(0, (-1, grid, grid))
    rows = [torch.cat(list(cells[:, i].unbind(1)), dim=3) for i in range(grid)]
    return torch.cat(rows, dim=2)[:, :, :height, :width]


def concatenated(model: PatchClassifier, images: Tensor) -> Tensor:
    """C: images -> [M_1 ; ... ; M_S ; global] after the tail, (B, (S+1)*C, H, W)."""
    backbone = model.backbone
    height, width = images.shape[2:]
    stride = remaining_stride(backbone, 0)
    x_i = [F.pad(images, (0, -width % stride, 0, -height % stride))]
    for i in range(len(backbone.specs)):
        x_i.append(backbone.run(x_i[-1], i, i + 1))
    global_map = _tail(model, x_i[-1])
    cuts = model.cuts
    if model.variant == "ppl" and not cuts:
        cuts = (Cut(len(backbone.specs), 1),)
    merged = []
    for cut in cuts:
        x = x_i[cut.position].detach() if model.variant == "explicit" else x_i[cut.position]
        x = split(x, cut.grid, remaining_stride(backbone, cut.position))
        for i in range(cut.position, len(backbone.specs)):
            x = backbone.run(x, i, i + 1)
        merged.append(merge(_tail(model, x), cut.grid, *global_map.shape[2:]))
    return torch.cat([*merged, global_map], dim=1)


def maps(model: PatchClassifier, images: Tensor) -> Tensor:
    """images -> ReLU of the classifier's maps (B, classes, H, W)."""
    return F.relu(F.conv2d(concatenated(model, images), model.classifier.weight))


def logits(model: PatchClassifier, images: Tensor) -> Tensor:
    """images -> (B, classes): global average pooling of the classifier's maps."""
    x = F.dropout2d(concatenated(model, images), model.dropout, model.training)
    return F.conv2d(x, model.classifier.weight).mean(dim=(2, 3))


def _tail(model: PatchClassifier, x: Tensor) -> Tensor:
    tail = model.backbone.tail
    if tail.scale is not None and tail.shift is not None:
        x = x * tail.scale.to(x.dtype).view(1, -1, 1, 1) + tail.shift.to(x.dtype).view(1, -1, 1, 1)
    return {"none": lambda y: y, "relu": F.relu, "relu6": F.relu6}[tail.act](x)
