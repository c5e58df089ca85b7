"""The depthwise convolution against PyTorch's own, through Triton's interpreter."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_helpers import BACKENDS, needs_interpreter, tiny

from pplfast.kernels import backend, depthwise
from pplfast.models import layers
from pplfast.models.layers import Conv, FrozenBatchNorm, same_padding

ACTS = ("none", "relu", "relu6")


def tensors(batch, channels, height, width, kernel, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels, height, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(channels, 1, kernel, kernel, generator=generator, dtype=torch.float64)
    return x, weight, torch.randn(channels, generator=generator, dtype=torch.float64)


def by_loops(x, weight, stride, padding):
    """Every output number as the sum that it is defined as; float64."""
    left, right, top, bottom = padding
    kernel = weight.shape[2]
    padded = x.new_zeros(*x.shape[:2], x.shape[2] + top + bottom, x.shape[3] + left + right)
    padded[:, :, top : top + x.shape[2], left : left + x.shape[3]] = x
    rows, columns = ((size - kernel) // stride + 1 for size in padded.shape[2:])
    y = x.new_zeros(*x.shape[:2], rows, columns)
    for ky in range(kernel):
        for kx in range(kernel):
            window = padded[:, :, ky : ky + stride * rows : stride, kx : kx + stride * columns : stride]
            y[:] += window[:, :, :rows, :columns] * weight[:, 0, ky, kx, None, None]
    return y


@pytest.mark.parametrize("name", BACKENDS)
@tiny
@given(
    batch=st.integers(1, 2), channels=st.sampled_from([1, 3, 16, 37]), height=st.integers(1, 9),
    width=st.integers(1, 9), kernel=st.sampled_from([3, 5]), stride=st.integers(1, 2), act=st.sampled_from(ACTS),
    seed=st.integers(0, 2**31 - 1),
)  # fmt: skip
def test_values(name, batch, channels, height, width, kernel, stride, act, seed):
    x, weight, shift = tensors(batch, channels, height, width, kernel, seed)
    padding = (*same_padding(width, kernel, stride), *same_padding(height, kernel, stride))
    wanted = by_loops(x, weight, stride, padding)
    with backend.force(name), torch.no_grad():
        found = depthwise(x.float(), weight.float(), stride, padding)
        with_act = depthwise(x.float(), weight.float(), stride, padding, shift.float(), act)
    torch.testing.assert_close(found, wanted.float(), rtol=2e-5, atol=2e-5)
    whole = wanted + shift[:, None, None]
    whole = whole.relu() if act == "relu" else whole.clamp(0, 6) if act == "relu6" else whole
    torch.testing.assert_close(with_act, whole.float(), rtol=2e-5, atol=2e-5)


@needs_interpreter
def test_half_precision_is_rounded_once():
    x, weight, shift = tensors(2, 16, 6, 7, 3, 5)
    x, weight = (t.to(torch.bfloat16) for t in (x, weight))
    with backend.force("triton"), torch.no_grad():
        found = depthwise(x, weight, 1, (1, 1, 1, 1), shift.float(), "relu")
    exact = (by_loops(x.double(), weight.double(), 1, (1, 1, 1, 1)) + shift[:, None, None]).relu()
    assert found.dtype == torch.bfloat16
    assert ((found.double() - exact).abs() <= exact.abs() * 2**-7 + 1e-6).all()  # the interpreter cuts digits off


@needs_interpreter
def test_any_layout_of_the_operands():
    x, weight, _ = (t.float() for t in tensors(2, 8, 5, 6, 3, 1))
    results = []
    for layout in (torch.channels_last, torch.contiguous_format):
        with backend.force("triton"):
            results.append(depthwise(*(t.clone(memory_format=layout) for t in (x, weight)), 2, (0, 1, 0, 1)))
    torch.testing.assert_close(*results, rtol=0, atol=0)
    assert results[0].is_contiguous(memory_format=torch.channels_last)


@needs_interpreter
@pytest.mark.parametrize("grad", (True, False))
def test_the_layer_of_the_networks(grad, monkeypatch):
    """Conv with BatchNorm and activation: the same through the kernel, which is used where no gradient is wanted."""
    torch.manual_seed(0)
    conv, bn, x = Conv(16, 16, 5, 2, groups=16, same=True), FrozenBatchNorm(16), torch.randn(2, 16, 7, 10)
    bn.weight.uniform_(0.5, 2)
    bn.bias.uniform_(-1, 1)
    calls, results = [], []
    monkeypatch.setattr(layers, "depthwise", lambda *a: calls.append(1) or depthwise(*a))
    for name in ("plain", "triton"):
        with backend.force(name), torch.set_grad_enabled(grad):
            results.append(conv(x, bn, "relu6"))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
    assert len(calls) == (0 if grad else 1) and results[1].requires_grad == grad


def test_a_weight_that_does_not_fit_and_a_gradient_are_refused():
    with pytest.raises(ValueError, match=r"must be \(4, 1, k, k\)"):
        depthwise(torch.zeros(1, 4, 5, 5), torch.zeros(4, 2, 3, 3), 1, (1, 1, 1, 1))
    with pytest.raises(RuntimeError, match="no gradient"):
        depthwise(torch.zeros(1, 4, 5, 5, requires_grad=True), torch.zeros(4, 1, 3, 3), 1, (1, 1, 1, 1))
