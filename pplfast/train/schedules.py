"""Learning rates and lengths of stages, as plain numbers indexed by the step."""

import math
from collections.abc import Sequence

import numpy as np

from pplfast.arrays import Float64Array
from pplfast.recipe import Length, OptimConfig


def steps_per_epoch(micro_batches: int, accumulation: int) -> int:
    """Optimizer steps of an epoch; the last one may accumulate fewer micro-batches."""
    return math.ceil(micro_batches / accumulation)


def steps_of_stage(lengths: Sequence[Length], steps_per_epoch: int) -> int:
    """Optimizer steps of one stage that is as long as all of `lengths` together, 1 or more.

    Epochs are added up before they become steps, unless one of the lengths is in steps: then it has as many as stages
    of their own would have.
    """
    if any(length.steps for length in lengths):
        return sum(length.steps or _whole(length.epochs * steps_per_epoch) for length in lengths)
    return _whole(sum(length.epochs for length in lengths) * steps_per_epoch)


def _whole(steps: float) -> int:
    return max(1, round(steps))


def learning_rates(optim: OptimConfig, factor: float, steps: int, warmup: int) -> Float64Array:
    """float64 (steps,): lr * factor * (1 - t / steps)^poly, times (t + 1) / warmup in the first `warmup`."""
    t = np.arange(steps)
    rates = optim.lr * factor * (1 - t / steps) ** optim.poly
    if warmup:
        rates *= np.minimum(1.0, (t + 1) / warmup)
    return rates
