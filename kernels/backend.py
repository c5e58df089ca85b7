"""Which implementation runs: Triton kernels on CUDA tensors, vectorised PyTorch elsewhere.

PPLFAST_KERNELS=plain|triton in the environment forces one for the process, `force(...)` for a block of code. Triton
on CPU tensors needs Triton's interpreter (TRITON_INTERPRET=1 before the first import): slow, for tests.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

# Triton 3.10 changes the default; the kernels' tolerances assume fused multiply-add, as in PyTorch's own kernels.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

try:
    import triton
    import triton.language as tl

    INTERPRETED = bool(triton.knobs.runtime.interpret)
except ImportError:  # no Triton for this platform: the kernels' sources are defined but never compiled
    triton = SimpleNamespace(jit=lambda function=None, **_: function or (lambda later: later))
    tl = SimpleNamespace(constexpr=None)
    INTERPRETED = False

KERNELS = ("scale_act", "depthwise", "patch_split", "patch_pool", "cam_head", "cam_fuse", "random_walk", "dense_crf")
CHOICES = ("plain", "triton")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # what the Triton kernels take

# Process-wide rather than per thread: autograd runs the backward of CUDA tensors in threads of its own.
_forced: str | None = os.environ.get("PPLFAST_KERNELS") or None
if _forced not in (None, *CHOICES):
    raise ValueError(f"PPLFAST_KERNELS={_forced}: must be plain or triton")


@contextmanager
def force(choice: str) -> Iterator[None]:
    """Run every kernel with `choice` ("plain" or "triton") inside the block, in all threads."""
    global _forced
    if choice not in CHOICES:
        raise ValueError(f"backend is {choice!r}; known: {', '.join(CHOICES)}")
    previous, _forced = _forced, choice
    try:
        yield
    finally:
        _forced = previous


def available() -> bool:
    """Whether Triton is installed."""
    return hasattr(triton, "compile")


def use_triton(x: Tensor) -> bool:
    """Whether the kernel for `x` is the Triton one. Raises RuntimeError where it is forced and cannot run."""
    if _forced == "plain":
        return False
    if _forced == "triton":
        if not available():
            raise RuntimeError("the triton backend is forced, but Triton is not installed")
        if x.dtype not in DTYPES:
            raise RuntimeError(f"the triton backend is forced, but it does not take {x.dtype}")
        if not (x.is_cuda or INTERPRETED):
            raise RuntimeError("the triton backend is forced on a CPU tensor: start with TRITON_INTERPRET=1")
        return True
    return x.is_cuda and available() and x.dtype in DTYPES


def forced_plain() -> bool:
    return _forced == "plain"


def needs_no_operator(x: Tensor) -> bool:
    """Whether a function may be called without its registered operator, whose dispatch costs 0.1 ms, as much as
    copying a megabyte: a plain tensor on the CPU, without gradient, outside any tracing."""
    traced = torch.compiler.is_compiling() or type(x) is not Tensor
    return x.device.type == "cpu" and not traced and not (torch.is_grad_enabled() and x.requires_grad)


def run(kernel: Any, launch: tuple[int, ...], x: Tensor, *arguments: Any, **options: Any) -> None:
    """Launch a kernel on the device of `x`, which need not be the current one."""
    with torch.cuda.device_of(x):
        kernel[launch](*arguments, **options)


def describe() -> list[tuple[str, str, str]]:
    """(kernel, backend, reason) of each kernel, for the tensors of this machine's default device."""
    if _forced is not None:
        backend, reason = _forced, "forced"
        if _forced == "triton" and INTERPRETED:
            reason = "forced; CPU tensors go through Triton's interpreter"
    elif not available():
        backend, reason = "plain", "Triton is not installed"
    elif not torch.cuda.is_available():
        backend, reason = "plain", "no CUDA device"
    else:
        backend, reason = "triton", f"Triton {triton.__version__} on {torch.cuda.get_device_name()}"
    return [(kernel, backend, reason) for kernel in KERNELS]
