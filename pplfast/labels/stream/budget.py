"""Memory: how many pixels may be under way at once in each part of the pipeline; what one costs: labels/memory.py.

All of a rank's memory that grows with the images stays within one number of bytes. On a CPU a quarter of it is for the
network's activations; the rest is for images between decoding and their label on the disk, with the CRF's lattices as
the largest part. A GPU's memory is apart: there the network takes a share of what is free.
"""

import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PROBE = 256  # pixels on a side of the image whose activations are counted
MARGIN = 1.5  # on the count, for what the operators take for themselves
NETWORK_SHARE, GPU_SHARE = 0.25, 0.6


def split_budget(budget: int, device: torch.device) -> tuple[int, int]:
    """Bytes for the network and for the images under way."""
    if device.type == "cuda":
        return int(GPU_SHARE * torch.cuda.mem_get_info(device)[0]), budget
    return int(NETWORK_SHARE * budget), budget - int(NETWORK_SHARE * budget)


def activation_bytes(run: Callable[[torch.Tensor], object], device: torch.device) -> float:
    """Peak bytes of the tensors alive at once in `run(image (1, 3, h, w))`, per pixel of its input, with a margin."""
    counter = _PeakBytes()
    image = torch.zeros(1, 3, PROBE, PROBE, device=device).to(memory_format=torch.channels_last)
    with torch.inference_mode(False), torch.no_grad():  # inference tensors pass modes by
        run(image)  # folds and keeps the weights: not of the activations
        with counter:
            run(image)
    return MARGIN * counter.peak / PROBE**2


class _PeakBytes(TorchDispatchMode):
    """Adds up the storages that operators return, until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no annotations
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, storage.nbytes())

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


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
