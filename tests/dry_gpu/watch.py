"""What a GPU would punish: looked for in every operator, those inside the kernels' wrappers included."""

import sys
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
from table import Limits
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pplfast.models import layers

ROOT = Path(__file__).resolve().parents[2]
# Which of their arguments are maps.
CONVOLUTIONS = {"aten::convolution": (0,), "aten::conv2d": (0,), "aten::convolution_backward": (0, 1)}
TRANSFERS = {"aten::_to_copy", "aten::copy_", "aten::to"}
GRID_LIMITS = (2**31 - 1, 65_535, 65_535)  # CUDA's, of the three axes of a launch
MADE_UP = 50  # the value of what only the device knows
SHARE_OF_UNIQUE = 8  # one value of so many is taken to be another


class Watch(TorchDispatchMode):
    """Counts waits, copies between devices, launches and bytes alive; keeps everything that is wrong in `findings`.

    What existed before (weights, images) is not counted in `peak`. The outputs of the project's operators are those
    of their real wrappers, with the kernels' launches left out, and have to agree with their `register_fake`.
    fault: one of faults.py, put back on the way.
    """

    def __init__(self, fault: Any = None) -> None:
        super().__init__()
        self.findings: Counter[str] = Counter()
        self.nchw: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.operators = self.launches = self.now = self.peak = 0
        self._fault = fault
        self._alive: dict[int, weakref.finalize] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function._schema.name
        if self._fault is not None and name in self._fault.operators:
            args = self._fault.change(self, args)
        self.operators += 1
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if name == "aten::to":
            inputs[0].constant = None  # a remembered number would be copied for real
        known = self._made_up(name, args, inputs)
        if known is not None:
            result = known
        elif name in OPDEFS:
            result = self._wrapper(name, function, args, kwargs)
        else:
            result = function(*args, **kwargs)
        outputs = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        self._check_devices(function, name, inputs, outputs)
        if name in CONVOLUTIONS:
            self._check_convolution(name, args)
        self._count_bytes(inputs, outputs)
        return result

    def wait(self, what: str) -> None:
        self.waits[f"{what} at {_where()}"] += 1

    def report(self, limits: Limits) -> list[str]:
        """What is wrong, with what is over the limits."""
        counted = (
            ("waits", self.waits, limits.waits),
            ("copies", self.copies, limits.copies),
            ("NCHW tensors", self.nchw, limits.nchw),
        )
        over = [
            f"{found.total()} {what}, {allowed} allowed: {', '.join(found)}"
            for what, found, allowed in counted
            if found.total() > allowed
        ]
        if self.peak > limits.mib * 2**20:
            over.append(f"{self.peak / 2**20:.0f} MiB alive at once, {limits.mib} allowed")
        return [f"{what} ({count} times)" for what, count in self.findings.items()] + over

    def _made_up(self, name: str, args: tuple, inputs: list[Tensor]) -> Any:
        """The answer of an operator that the host waits for, or that a CPU build lacks; None for any other."""
        if name in ("aten::_pin_memory", "aten::pin_memory"):
            return args[0]
        if not any(x.is_cuda for x in inputs):
            return None
        if name in ("aten::_local_scalar_dense", "aten::item"):
            self.wait("item")
            return {torch.bool: True}.get(args[0].dtype, MADE_UP if not args[0].is_floating_point() else 0.5)
        if name == "aten::_unique2":
            self.wait("unique")
            x, count = args[0], -(-args[0].numel() // SHARE_OF_UNIQUE)
            return x.new_empty(count), x.new_empty(x.shape, dtype=torch.int64), x.new_empty(count, dtype=torch.int64)
        if name == "aten::bincount":
            self.wait("bincount")
            return args[0].new_empty(args[2] if len(args) > 2 else MADE_UP, dtype=torch.int64)
        return None

    def _wrapper(self, name: str, function: Any, args: tuple, kwargs: dict) -> Any:
        promised = function(*args, **kwargs)
        with self:
            result = OPDEFS[name]._init_fn(*args, **kwargs)
        for found, said in zip(tree_leaves(result), tree_leaves(promised), strict=True):
            if isinstance(found, Tensor) and _kind(found) != _kind(said):
                self.findings[f"{name} gives {_kind(found)}, its register_fake {_kind(said)}"] += 1
        return result

    def _check_devices(self, function: Any, name: str, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        devices = {x.device.type for x in inputs}
        if name in TRANSFERS:
            devices |= {x.device.type for x in outputs}
            if len(devices) > 1:
                self.copies[f"{name} {tuple(outputs[0].shape)} to {outputs[0].device.type} at {_where()}"] += 1
        elif len(devices) > 1:
            # A CPU scalar becomes an argument of an elementwise kernel; every other operator would copy it first.
            scalars = torch.Tag.pointwise in function.tags and all(x.dim() == 0 for x in inputs if not x.is_cuda)
            if not scalars:
                self.findings[f"CPU and CUDA tensors in {name} at {_where()}"] += 1

    def _check_convolution(self, name: str, args: tuple) -> None:
        # conv2d refuses this, but a fake convolution below it does not.
        dtypes = {str(x.dtype) for x in args[:3] if isinstance(x, Tensor)}
        if len(dtypes) > 1:
            self.findings[f"dtypes in {name} should be the same: {', '.join(sorted(dtypes))} at {_where()}"] += 1
        for x in (args[index] for index in CONVOLUTIONS[name]):
            if x.dim() == 4 and x.shape[1] > 1 and x.shape[2] * x.shape[3] > 1 and x.stride(1) != 1:
                self.nchw[f"{tuple(x.shape)} in {name} at {_where()}"] += 1

    def _count_bytes(self, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        given = None
        for x in outputs:
            if not x.is_cuda:
                continue
            storage = x.untyped_storage()
            key = storage._cdata
            if key in self._alive:
                continue
            if given is None:
                given = {y.untyped_storage()._cdata for y in inputs}
            if key not in given:
                size = storage.nbytes()
                self._alive[key] = weakref.finalize(storage, self._free, key, size)
                self.now += size
                self.peak = max(self.peak, self.now)

    def _free(self, key: int, size: int) -> None:
        self._alive.pop(key, None)
        self.now -= size


class Current:
    """The watch that the patched functions below report to."""

    watch: Watch | None = None


def on_wait(what: str) -> None:
    if Current.watch is not None:
        Current.watch.wait(what)


def patch_fake_tensors() -> None:
    """Values of fake tensors, where the host asks for them; launches of Triton's kernels."""
    FakeTensor.tolist = _tolist
    FakeTensor.numpy = _numpy
    triton.runtime.jit.JITFunction.run = _launch
    # Fake tensors have no address to know them again by.
    if hasattr(layers, "fingerprint"):
        layers.fingerprint = lambda *tensors: tuple(map(id, tensors))


def _tolist(self: Tensor) -> list:
    """One wait for the whole tensor, where FakeTensor.tolist asks for value after value."""
    if self.is_cuda:
        on_wait("tolist")
    values: Any = MADE_UP
    for size in reversed(self.shape):
        values = [values] * size
    return values


def _numpy(self: Tensor) -> Any:
    if self.is_cuda:
        raise TypeError("numpy() of a CUDA tensor")
    return np.zeros(tuple(self.shape), str(self.dtype).removeprefix("torch."))


def _launch(kernel: Any, *args: Any, grid: Any, warmup: bool = False, **options: Any) -> None:
    watch = Current.watch
    if watch is None:
        return
    watch.launches += 1
    name = kernel.fn.__name__
    for x in tree_leaves((args, options)):
        if isinstance(x, Tensor) and not x.is_cuda:
            watch.findings[f"CPU tensor {tuple(x.shape)} given to {name} at {_where()}"] += 1
    for axis, (size, limit) in enumerate(zip(grid, GRID_LIMITS, strict=False)):
        if size > limit:
            watch.findings[f"{name} launched with {size} programs on axis {axis}, above CUDA's {limit}"] += 1


def _kind(x: Tensor) -> tuple:
    return tuple(x.shape), x.dtype, x.device.type, x.stride()


def _where() -> str:
    """file:line of the innermost frame in the project."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and path.parent != Path(__file__).parent and "site-packages" not in path.parts:
            return f"{path.relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "torch itself"
