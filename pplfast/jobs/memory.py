"""The memory budget of a rank: what the network takes of it, and how many images may be under way.

All of a rank's memory that grows with the images stays within one number of bytes. On a CPU a quarter of it is for the
network's activations; the rest is for images between decoding and their files on the disk, with the CRF's lattices as
the largest part. A GPU's memory is apart: there the network takes a share of what is free.
"""

import math
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pplfast.data.images import BadImage
from pplfast.errors import UserError

if TYPE_CHECKING:
    import torch

LEAST_MEMORY, MOST_MEMORY = 0.25, float(2**20)  # GiB
SHARE = 0.5  # of what is free, where no budget is given
CONTROL_GROUPS = (  # version 2, and 1: the limit, and what is used
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
NETWORK_SHARE, GPU_SHARE = 0.25, 0.6
DECODED = 3 + 6  # bytes of a pixel: uint8 RGB; while it is decoded, the coefficients of a progressive JPEG
SCALED = 3 * 4 * 2  # one scale in float32, and the next one being made
# Measured with pydensecrf: 286 bytes a pixel for 3 labels, 368 for 6. The rest: decoded image, scores, marginals and
# their copies on the way to a worker.
CRF_PIXEL, CRF_LABEL = 230, 60
USUAL_CLASSES = 4  # of an image at most, where they are not known beforehand


def crf_bytes(classes: int) -> int:
    """What a pixel of an image takes in the CRF, background not counted among the classes."""
    return CRF_PIXEL + CRF_LABEL * (classes + 1)


def budget_bytes(memory: float | None, ranks_here: int = 1) -> int:
    """Of a budget in GiB, as --memory gives it for each rank. Raises UserError for what is none."""
    if memory is None:
        return int(max(LEAST_MEMORY * 2**30, SHARE * free_bytes() / ranks_here))
    if not LEAST_MEMORY <= memory <= MOST_MEMORY:  # of a NaN both are false
        bound = f"{LEAST_MEMORY:g} GiB or more" if not memory > MOST_MEMORY else f"at most {MOST_MEMORY:g} GiB"
        raise UserError(f"--memory {memory:g}: must be {bound}")
    return int(memory * 2**30)


def free_bytes() -> int:
    """Host memory that this process could still get: the machine's, or what its control group leaves of it."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    for limit, used in CONTROL_GROUPS:
        with suppress(OSError, ValueError):  # "max": no limit
            free = min(free, int(Path(limit).read_text("ascii")) - int(Path(used).read_text("ascii")))
    return max(0, free)


def split_budget(budget: int, device: "torch.device") -> tuple[int, int]:
    """Bytes for the network and for the images under way."""
    if device.type == "cuda":
        import torch

        return int(GPU_SHARE * torch.cuda.mem_get_info(device)[0]), budget
    return int(NETWORK_SHARE * budget), budget - int(NETWORK_SHARE * budget)


def too_large(width: int, height: int, most: float) -> BadImage:
    """most: pixels."""
    return BadImage(
        "too-large",
        f"{width} x {height} pixels, and the memory budget allows {math.floor(most / 1e5) / 10:.1f} megapixels; "
        "raise --memory, or make it smaller",
    )


class Room:
    """Bytes that may be taken at once. A single taker larger than all of it is let in when nobody else is there."""

    def __init__(self, size: int) -> None:
        self.size, self.taken = size, 0
        self._changed = threading.Condition()

    def take(self, size: int, stop: Callable[[], bool] = lambda: False) -> bool:
        """Wait until there is room; False when `stop` says that it is no longer wanted."""
        with self._changed:
            while self.taken and self.taken + size > self.size:
                if stop():
                    return False
                self._changed.wait(0.2)
            self.taken += size
            return True

    def give(self, size: int) -> None:
        with self._changed:
            self.taken -= size
            self._changed.notify_all()
