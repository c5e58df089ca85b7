"""Tensors that cannot be the weights of a network, by name: NaN, infinite, of absurd size, or no plain numbers."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

# Trained weights are below 100. The statistics of BatchNorm grow with the square of what a network is shown.
LARGEST, LARGEST_STATISTIC = 1e6, 1e12
STATISTICS = ("running_mean", "running_var")


def bad_weight(tensors: Mapping[str, Tensor]) -> str:
    """What is wrong with the first tensor whose values cannot be, "layer.weight holds NaN"; "" where all are good.

    One pass over the values where they are; the host waits for it once. Tensors of whole numbers pass.
    """
    floats = {name: _comparable(tensor.detach()) for name, tensor in tensors.items() if _holds_floats(tensor)}
    if not floats:
        return ""
    ends = [torch.stack(torch.aminmax(tensor)).double() for tensor in floats.values()]  # a NaN is in both
    device = ends[0].device
    found = torch.stack([end.to(device) for end in ends]).cpu().tolist()
    for name, (low, high) in zip(floats, found, strict=True):
        most = LARGEST_STATISTIC if name.endswith(STATISTICS) else LARGEST
        if math.isnan(low) or math.isnan(high):
            return f"{name} holds NaN"
        largest = max(-low, high)
        if largest > most:
            return f"{name} holds {'infinity' if math.isinf(largest) else f'values as large as {largest:.2g}'}"
    return ""


def _holds_floats(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.numel() > 0


def _comparable(tensor: Tensor) -> Tensor:
    return tensor if tensor.element_size() > 1 else tensor.float()  # 8 bits have no order in torch


def bad_kind(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> str:
    """What is wrong with the first of `tensors` that cannot be copied into the one of its name in `like`; "" if none.

    A file may say that a tensor is sparse, quantized, complex or without storage.
    """
    for name, tensor in tensors.items():
        usual = like[name]
        if tensor.device.type == "meta":
            kind = "without values"
        elif tensor.layout != torch.strided:
            kind = f"in the layout {tensor.layout}"
        elif tensor.is_quantized or tensor.is_complex() or tensor.is_floating_point() != usual.is_floating_point():
            kind = f"of {tensor.dtype}"
        else:
            continue
        return f"{name} is {kind}, not of plain {usual.dtype}"
    return ""
