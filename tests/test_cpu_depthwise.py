"""The depthwise convolution between two activations: C++ against its definition, and what PyTorch expects of it."""

import time

import pytest
import torch

from pplfast import probes
from pplfast.cpu import native
from pplfast.cpu.depthwise import depthwise_act, depthwise_act_plain, is_native
from pplfast.kernels import backend

compiled = pytest.mark.skipif(native.library().functions is None, reason=native.library().reason)
CASES = [  # batch, channels, height, width, kernel, stride, padding, before, after
    (2, 35, 9, 14, 3, 1, (1, 1, 1, 1), "relu6", "relu6"),
    (1, 16, 13, 8, 5, 1, (2, 2, 2, 2), "none", "relu6"),
    (3, 20, 11, 6, 3, 2, (0, 1, 1, 1), "relu", "none"),
    (2, 48, 12, 17, 5, 2, (2, 2, 1, 2), "relu6", "relu"),
    (1, 3, 1, 2, 5, 2, (1, 2, 2, 2), "relu6", "relu6"),
    (2, 1, 4, 4, 3, 1, (0, 0, 0, 0), "none", "none"),
    # Planes of which the cache holds two vectors of channels at once, or one (AVX2), instead of all four.
    (2, 71, 40, 40, 5, 1, (2, 2, 2, 2), "relu6", "relu6"),
    (1, 41, 70, 75, 5, 2, (1, 2, 2, 2), "none", "relu6"),
]


def inputs(case, dtype=torch.float32, seed=0):
    batch, channels, height, width, kernel, *_ = case
    generator = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(batch, channels, height, width, generator=generator)
    weight = torch.randn(channels, 1, kernel, kernel, generator=generator)
    return x.to(dtype), weight, torch.randn(channels, generator=generator)


def run(function, case, tensors, grad=None):
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    y = function(leaves[0] * 1, *leaves[1:], case[5], list(case[6]), *case[7:])
    grad = torch.ones_like(y) if grad is None else grad.to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


@compiled
@pytest.mark.parametrize("threads", (1, 2))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(case, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        tensors = inputs(case)
        assert is_native(tensors[0], tensors[1], case[5])
        expected = run(depthwise_act_plain, case, [tensor.double() for tensor in tensors])
        grad = torch.randn(expected[0].shape)
        expected = run(depthwise_act_plain, case, [tensor.double() for tensor in tensors], grad)
        for result, truth in zip(run(depthwise_act, case, tensors, grad), expected, strict=True):
            atol = max(2e-5, 1e-6 * float(truth.abs().max()))  # of sums over thousands of cells
            torch.testing.assert_close(result.double(), truth, rtol=1e-5, atol=atol)
    finally:
        torch.set_num_threads(before)


@compiled
def test_takes_less_time_than_pytorch(one_thread):
    """A quarter, with AVX2; loops whose sums did not fit the registers took up to twice as long as PyTorch."""
    case = (8, 240, 16, 16, 5, 1, (2, 2, 2, 2), "relu6", "relu6")
    tensors = [tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor for tensor in inputs(case)]
    seconds = {depthwise_act: [], depthwise_act_plain: []}
    for _ in range(7):
        for function, times in seconds.items():
            start = time.thread_time()
            run(function, case, tensors)
            times.append(time.thread_time() - start)
    assert min(seconds[depthwise_act]) < min(seconds[depthwise_act_plain])


@compiled
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bf16_errs_no_more_than_plain_bf16(case):
    """Maps in bf16, weights and sums in float32: at most twice the error of PyTorch with everything in bf16."""
    tensors = inputs(case, torch.bfloat16)
    half = [tensor.bfloat16() for tensor in tensors]
    truth = run(depthwise_act_plain, case, [tensor.double() for tensor in half])
    ours = run(depthwise_act, case, [half[0], *(tensor.float() for tensor in half[1:])])
    theirs = run(depthwise_act_plain, case, half)
    for own, their, exact in zip(ours, theirs, truth, strict=True):
        limit = 2 * (their - exact).abs().max() + 0.02 * exact.abs().max()
        assert (own - exact).abs().max() <= limit


@compiled
def test_nan_and_infinity_pass():
    x = torch.zeros(1, 16, 5, 5)
    x[0, 3, 2, 2] = float("nan")
    for dtype in (torch.float32, torch.bfloat16):
        y = depthwise_act(x.to(dtype), torch.ones(16, 1, 3, 3), None, 1, (1, 1, 1, 1), "relu6", "relu6")
        assert y[0, 3, 1:4, 1:4].isnan().all() and y.isnan().sum() == 9


@compiled
def test_the_gradient_of_x_alone_or_of_the_weight_alone():
    case = CASES[0]
    x, weight, bias = inputs(case)
    _, grad_x, grad_weight, _ = run(depthwise_act, case, (x, weight, bias))
    for wanted, expected in ((0, grad_x), (1, grad_weight)):
        leaves = [x, weight]
        leaves[wanted] = leaves[wanted].clone().requires_grad_()
        y = depthwise_act(leaves[0] * 1, leaves[1], bias, *case[5:])
        torch.testing.assert_close(torch.autograd.grad(y.sum(), leaves[wanted])[0], expected)


@pytest.mark.slow
@compiled
def test_opcheck():
    x, weight, bias = inputs(CASES[2])
    options = (2, list(CASES[2][6]), "relu6", "relu6")
    torch.library.opcheck(
        torch.ops.pplfast.depthwise_act.default, (x.requires_grad_(), weight.requires_grad_(), bias, *options)
    )
    y = depthwise_act_plain(x, weight, bias, *options).detach()
    torch.library.opcheck(
        torch.ops.pplfast.depthwise_act_backward.default,
        (torch.randn_like(y), x.detach(), y, weight.detach(), *options, True),
    )


def test_without_the_compiled_kernel(monkeypatch):
    case = CASES[3]
    expected = run(depthwise_act_plain, case, inputs(case))
    with backend.force("plain"):
        assert not is_native(*inputs(case)[:2], 2)
        for result, truth in zip(run(depthwise_act, case, inputs(case)), expected, strict=True):
            torch.testing.assert_close(result, truth)
    monkeypatch.setattr(native, "library", lambda: native.Library(None, "no C++ compiler"))
    assert probes.examine_depthwise() == probes.Finding("depthwise convolution", "PyTorch", "no C++ compiler")
    with pytest.raises(ValueError, match="'gelu'"):
        depthwise_act(*inputs(case), 2, case[6], "gelu", "none")


@pytest.mark.slow
def test_a_missing_or_failing_compiler_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(native, "SECONDS", 1)
    for name, text in (("no_program", "\x7fELF"), ("hangs", "#!/bin/sh\nexec sleep 60\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    for compiler, text in (
        ("no-such-compiler", "no C++ compiler"),
        ("false", "false failed"),
        ("g++ '", "CXX in the environment is no command: No closing quotation"),
        (str(tmp_path / "no_program"), "no_program failed: [Errno 8] Exec format error"),
        (str(tmp_path / "hangs"), "hangs failed: Command '["),
    ):
        monkeypatch.setenv("CXX", compiler)
        found = native.library.__wrapped__()
        assert found.functions is None and text in found.reason
    assert not list(tmp_path.rglob("*.so")) and not list(tmp_path.rglob("*.tmp"))
