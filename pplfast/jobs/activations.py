"""What a network's activations take: counted once, on a small image."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PROBE = 256  # pixels on a side of that image
MARGIN = 1.5  # on the count, for what the operators take for themselves


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
