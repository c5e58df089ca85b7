"""Tensors from one thread to another without waiting for the device's whole queue.

What torch is told to do on a GPU waits in the queue of a stream. The training step and the network of the CAMs use one,
and their threads are far ahead of the device. So a loader's thread that copies on the same stream would wait for the
step in work, and memory that torch did not allocate may be reused by its owner while the queue has still to read it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor


class Handover:
    """From one loader's thread, and from DALI, to the thread that makes this object.

    On a CPU nothing is copied. On a GPU every tensor is a copy, made on a stream of the loader's own and complete when
    it is returned. DALI gives a buffer back to its pool with the last reference, and knows nothing of torch's streams:
    the copy is what nobody else writes to. Its memory in turn is not reused before the consumer's queue has read it.
    The consumer's stream is the one that is current where this object is made.
    """

    def __init__(self, device: torch.device) -> None:
        """device: with its index, see `pipelines.resolve_device`."""
        self.device = device
        self._gpu = device.type == "cuda"
        if self._gpu:
            self._own, self._consumer = torch.cuda.Stream(device), torch.cuda.current_stream(device)

    def from_dali(self, batch: Any, dtype: torch.dtype | None = None) -> Tensor:
        """A DALI batch of equal shapes. On a CPU it is DALI's memory, kept alive."""
        with self._queue():
            shared = torch.from_dlpack(batch.as_tensor())  # held until the copy is complete
            tensor = shared.clone() if self._gpu else shared
            return self._complete(tensor if dtype is None else tensor.to(dtype))

    def from_host(self, tensor: Tensor) -> Tensor:
        with self._queue():
            return self._complete(to_device(tensor, self.device))

    @contextmanager
    def _queue(self) -> Iterator[None]:
        if not self._gpu:
            yield
            return
        with torch.cuda.stream(self._own):
            yield

    def _complete(self, tensor: Tensor) -> Tensor:
        if self._gpu:
            self._own.synchronize()  # with this thread's copies alone
            tensor.record_stream(self._consumer)
        return tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """From host memory. On a GPU through pinned memory, in the current stream's queue: the host does not wait."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class HostCopy:
    """A tensor's values on their way to host memory; any thread may ask for them. On a CPU the tensor's own memory."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor, self._ready = tensor, None
        if tensor.device.type == "cuda":
            self._tensor = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._tensor.copy_(tensor, non_blocking=True)
            self._ready = torch.cuda.Event(blocking=True)  # threads that wait for it sleep
            self._ready.record(torch.cuda.current_stream(tensor.device))

    def numpy(self) -> npt.NDArray[Any]:
        """Waits for the copy, and for what was queued before it."""
        if self._ready is not None:
            self._ready.synchronize()
        return self._tensor.numpy()
