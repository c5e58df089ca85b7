"""What the kernels' tests share: inputs, strategies and the three ways to run a kernel."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor

from pplfast.kernels import backend

# The interpreter takes about a millisecond a program: few, tiny examples, the same ones in every run.
tiny = settings(max_examples=6, deadline=None, derandomize=True, database=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])  # fmt: skip


def _why_no_triton() -> str:
    """Triton on CPU tensors; test_kernels_gpu.py and test_gpu_networks.py have those on CUDA."""
    if not backend.INTERPRETED:
        return "Triton on CPU tensors needs a process started with TRITON_INTERPRET=1 (the default without CUDA)"
    if backend.triton.__version__.startswith("3.6.") and tuple(map(int, np.__version__.split(".")[:2])) >= (2, 4):
        return "the interpreter of Triton 3.6 fails in loops with NumPy 2.4 (int() of a 1-element array)"
    return ""


BACKENDS = ("plain",) if _why_no_triton() else ("plain", "triton")  # that run on CPU tensors in this process
needs_interpreter = pytest.mark.skipif(bool(_why_no_triton()), reason=_why_no_triton())


@dataclass(frozen=True)
class Problem:
    batch: int
    channels: int
    height: int
    width: int
    grid: int
    stride: int
    act: str
    scale: bool
    shift: bool
    seed: int

    def tensors(self, dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
        """x, scale and shift (None where absent)."""
        generator = torch.Generator().manual_seed(self.seed)
        x = 3 * torch.randn(self.batch, self.channels, self.height, self.width, generator=generator)
        scale, shift = torch.randn(2, self.channels, generator=generator).to(device)
        return x.to(device, dtype), scale if self.scale else None, shift if self.shift else None


problems = st.builds(
    Problem, batch=st.integers(1, 2), channels=st.sampled_from([1, 3, 16, 37]), height=st.integers(1, 7),
    width=st.integers(1, 7), grid=st.integers(1, 3), stride=st.integers(1, 3),
    act=st.sampled_from(["none", "relu", "relu6"]), scale=st.booleans(), shift=st.booleans(),
    seed=st.integers(0, 2**31 - 1),
)  # fmt: skip


def gradient(function: Callable, x: Tensor, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    """Outputs of function(x), and the gradient of x for fixed random gradients of them."""
    x = x.detach().clone().requires_grad_()
    outputs = function(x)
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    generator = torch.Generator().manual_seed(seed)
    grads = [torch.randn(y.shape, generator=generator).to(y) for y in outputs]
    torch.autograd.backward(outputs, grads)
    return [y.detach() for y in outputs], x.grad


def assert_same(found: tuple[list[Tensor], Tensor], wanted: tuple[list[Tensor], Tensor], dtype: torch.dtype) -> None:
    """Outputs and gradient: within a rounding of the output's dtype."""
    rtol, atol = (2e-5, 2e-5) if dtype == torch.float32 else (2e-3, 2e-3)
    torch.testing.assert_close([*found[0], found[1]], [*wanted[0], wanted[1]], rtol=rtol, atol=atol)
