"""How fast a run trains and how much memory it takes, from figures that the host has anyway: it never waits for the
device."""

import re
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pplfast.cluster.ranks import Ranks
from pplfast.flops import TERA, device_peak, training_flops

GIB = 2**30


@dataclass(frozen=True)
class Rates:
    """Of an interval of steps; waiting for images and checkpoints is part of its time."""

    images_per_s: float  # of all ranks; repeats that fill a step are not counted
    seconds_per_step: float
    tflops: float | None  # 1e12 operations per second and device, those of `training_flops`; None: not counted
    mfu: float | None  # tflops over the device's peak, 0 to 1; None: the peak is not known
    memory_peak_gib: float  # of rank 0. GPU: tensors, in this interval. CPU: the process, since it started


class Meter:
    """Counts from interval to interval. precision: "bf16", "fp16" or "fp32"."""

    def __init__(self, ranks: Ranks, precision: str) -> None:
        self._ranks = ranks
        self._peak = device_peak(ranks.device, precision)
        self._flops: dict[int, int] = {}  # of one image, by stage
        self._stage = 0
        self._images = self._steps = self._session_images = 0
        self._start = self._session_seconds = 0.0

    def count(self, stage: int, model: nn.Module, size: int) -> str:
        """Count the operations of a stage, which `model` is set to, for images of size x size; for rank 0, which shows
        them. Returns why that cannot be done, or ""."""
        try:
            self._flops[stage] = training_flops(model, size, self._ranks.device)
        except Exception as error:  # whatever a network of the user's raises, or a full device: training goes on
            reason = next(iter(str(error).splitlines()), "")
            return f"operations are not counted, so there are no TFLOP/s: {type(error).__name__}: {reason}"
        finally:
            if self._ranks.device.type == "cuda":
                torch.cuda.empty_cache()  # blocks of a size that does not come again
        return ""

    def start(self, stage: int) -> None:
        """The first step of a stage is about to begin."""
        self._stage = stage
        self._open_interval(time.monotonic())

    def add(self, images: int) -> None:
        """images: of a step, over all ranks."""
        self._images += images
        self._steps += 1

    def interval(self) -> Rates:
        """Of the steps since the last call, or since the start of the stage; one or more."""
        now = time.monotonic()
        seconds = max(now - self._start, 1e-9)
        images_per_s = self._images / seconds
        of_image = self._flops.get(self._stage)
        flops = None if of_image is None else of_image * images_per_s / self._ranks.world
        rates = Rates(
            images_per_s,
            seconds / self._steps,
            None if flops is None else flops / TERA,
            None if flops is None or self._peak is None else flops / self._peak,
            _memory_peak(self._ranks.device) / GIB,
        )
        self._session_images += self._images
        self._session_seconds += seconds
        self._open_interval(now)
        return rates

    @property
    def images_per_s(self) -> float:
        """Of all intervals; 0 where there was none."""
        return self._session_images / self._session_seconds if self._session_seconds else 0.0

    def _open_interval(self, now: float) -> None:
        self._start, self._images, self._steps = now, 0, 0
        if self._ranks.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._ranks.device)


def _memory_peak(device: torch.device) -> int:
    """Bytes. Not getrusage's figure, which a process takes over from the one that started it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None, "Linux has had it since 2.6"
    return int(found[1]) * 1024
