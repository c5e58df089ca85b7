"""Dropout of whole channels as a function of the seed, the step and the image: however the images of a step are shared
among ranks and accumulation steps, each loses the same channels, and a resumed run drops what it would have dropped."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pplfast.arrays import Int64Array

# splitmix64 (Steele, Lea, Flood, OOPSLA 2014), in int64 whose products wrap around.
GOLDEN, MIX_A, MIX_B = (value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
BITS = 24  # of a uniform number: a probability is met to 6e-8
MOST_PATCHES = 2**16  # of an image in one branch


class _Drawing:
    images: Tensor | None = None  # int64 (B,): a key of each image in this step; None: torch's own generator draws
    branches: Sequence[tuple[int, int]] = ()  # number and rows of what a batch is made of; none: one branch, number 0


_drawing = _Drawing()


@contextmanager
def drawn_by(seed: int, step: int, images: Int64Array, device: torch.device) -> Iterator[None]:
    """Draw for the images (B,) of a batch by their numbers in the data set. seed, step: 0 to 2**63 - 1."""
    key = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64).view(np.int64)
    keys = torch.from_numpy(np.concatenate([key, images]))
    if device.type == "cuda":
        keys = keys.pin_memory().to(device, non_blocking=True)  # the host does not wait
    _drawing.images = _mix(keys[:1] + keys[1:] * GOLDEN)
    try:
        yield
    finally:
        _drawing.images = None


@contextmanager
def branches(parts: Sequence[tuple[int, int]]) -> Iterator[None]:
    """A batch is made of branches one after the other, each with the same number of rows for every image, which lie
    together. parts: a branch's number, 1 or more, and its rows."""
    _drawing.branches = parts
    try:
        yield
    finally:
        _drawing.branches = ()


def dropout(x: Tensor, probability: float, layer: int, training: bool) -> Tensor:
    """F.dropout of x (N, C), or F.dropout2d of x (N, C, H, W): whole channels, each with `probability`.

    Within `drawn_by` the rows are those of its images. layer: different for every place in a network, else the channels
    that an image loses there are the same.
    """
    if not training or probability == 0:
        return x
    if _drawing.images is None:
        return (F.dropout if x.ndim == 2 else F.dropout2d)(x, probability)
    numbers, rows = zip(*(_drawing.branches or ((0, len(x)),)), strict=True)
    kept = kept_channels(_drawing.images, numbers, rows, x.shape[1], layer, probability).to(x.dtype) / (1 - probability)
    return x * kept.view(*kept.shape, *(1,) * (x.ndim - 2))


# Opaque to compilers: in their generated code a product that leaves int64 is an error.
@torch.library.custom_op("pplfast::kept_channels", mutates_args=())
def kept_channels(
    images: Tensor, numbers: Sequence[int], rows: Sequence[int], channels: int, layer: int, probability: float
) -> Tensor:
    """bool (N, channels). images: int64 (B,), their keys. numbers, rows: of the branches that make up the N rows."""
    keys = []
    for number, count in zip(numbers, rows, strict=True):
        patches = torch.arange(count // len(images), device=images.device) + number * MOST_PATCHES
        keys.append(_mix(images[:, None] + patches * GOLDEN).flatten())
    places = torch.arange(channels, device=images.device) + layer * 2**32
    uniform = _mix(torch.cat(keys)[:, None] + places * GOLDEN) & (2**BITS - 1)
    return uniform >= round(probability * 2**BITS)


@kept_channels.register_fake
def _(
    images: Tensor, numbers: Sequence[int], rows: Sequence[int], channels: int, layer: int, probability: float
) -> Tensor:
    return images.new_empty(sum(rows), channels, dtype=torch.bool)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * MIX_A
    x = (x ^ _shifted(x, 27)) * MIX_B
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """To the right, with zeros from the left."""
    return (x >> bits) & (2 ** (64 - bits) - 1)
