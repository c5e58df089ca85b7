"""Learning rates and lengths of stages, as plain numbers indexed by the step."""

import math

import numpy as np

from pplfast.arrays import Float64Array
from pplfast.recipe import OptimConfig


def steps_per_epoch(micro_batches: int, accumulation: int) -> int:
    """Optimizer steps of an epoch; the last one may accumulate fewer micro-batches."""
    return math.ceil(micro_batches / accumulation)


def steps_of_stage(epochs: float, steps_per_epoch: int) -> int:
    return max(1, round(epochs * steps_per_epoch))


def learning_rates(optim: OptimConfig, factor: float, steps: int, warmup: int) -> Float64Array:
    """float64 (steps,): lr * factor * (1 - t / steps)^poly, times (t + 1) / warmup in the first `warmup`."""
    t = np.arange(steps)
    rates = optim.lr * factor * (1 - t / steps) ** optim.poly
    if warmup:
        rates *= np.minimum(1.0, (t + 1) / warmup)
    return rates
