"""scale_act and add_scale_act: each backend against the plain definition, values and gradients."""

import sys

import pytest
import torch
from hypothesis import given
from kernel_helpers import BACKENDS, Problem, problems, tiny

from pplfast.kernels import add_scale_act, backend, scale_act
from pplfast.kernels.scale_act import VECTOR, add_scale_act_plain, flat_launch

EXAMPLE = Problem(2, 40, 7, 5, 1, 1, "relu6", True, True, 1)
ACTS = ("none", "relu", "relu6")


def single(x, residual, scale, shift, act):
    return (scale_act(x, scale, shift, act, residual),)


def single_plain(*arguments):
    return add_scale_act_plain(*arguments)[1:]


def eighths(x):
    """Sums of two such numbers and their products with 1/2 have no more digits than bf16, up to 8 at least."""
    return (x * 8).round() / 8


def run(function, x, residual, tail, used=(True, True)):
    """Outputs, and the gradients of x and residual for fixed random gradients of the outputs `used`."""
    leaves = [t if t is None else t.detach().clone().requires_grad_() for t in (x, residual)]
    outputs = function(*leaves, *tail)
    generator = torch.Generator().manual_seed(3)
    grads = [eighths(torch.randn(y.shape, generator=generator)).to(y) for y in outputs]
    pairs = [(y, g) for y, g, wanted in zip(outputs, grads, used, strict=False) if wanted]
    torch.autograd.backward(*zip(*pairs, strict=True))
    return [y.detach() for y in outputs], [t.grad for t in leaves if t is not None]


def compare(name, function, definition, x, residual, tail, **used):
    with backend.force(name):
        found = run(function, x, residual, tail, **used)
    wanted = run(definition, x, residual, tail, **used)
    torch.testing.assert_close(found, wanted, rtol=2e-5, atol=2e-5)


def inputs(problem, dtype=torch.float32):
    x, scale, shift = problem.tensors(dtype)
    return x, x.flip(0, 2).roll(1, 3) * 0.5, (scale, shift, problem.act)


@pytest.mark.parametrize("name", BACKENDS)
@tiny
@given(problem=problems)
def test_against_the_definition(name, problem):
    x, residual, tail = inputs(problem)
    compare(name, single, single_plain, x, None, tail)
    compare(name, single, single_plain, x, residual, tail)
    compare(name, add_scale_act, add_scale_act_plain, x, residual, tail)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_all_types_over_several_programs(name, act, dtype):
    """10,080 numbers of 40 channels: programs begin in the middle of a pixel, and the last one is not full."""
    x, scale, shift = (eighths(t) for t in Problem(3, 40, 12, 7, 1, 1, act, True, True, 2).tensors())
    residual, scale = eighths(torch.randn(x.shape)), scale.sign() / 2
    assert flat_launch(x.numel(), 40, dtype)[0][0] > 1 and x.numel() % (8 * flat_launch(8, 40, dtype)[2]["BR"])
    for function, definition, tail in (
        (add_scale_act, add_scale_act_plain, (scale, shift, act)),
        (single, single_plain, (None, shift, act)),
    ):
        with backend.force(name):
            found = run(function, x.to(dtype), residual.to(dtype), tail)
        for values, wanted in zip(found, run(definition, x, residual, tail), strict=True):
            torch.testing.assert_close(values, [t.to(dtype) for t in wanted], rtol=0, atol=0)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("used", [(True, False), (False, True), (True, True)], ids=str)
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("act", ACTS)
def test_only_one_output_is_used(name, used, scaled, act):
    x, residual, (scale, shift, _) = inputs(EXAMPLE)
    tail = (scale if scaled else None, shift, act)
    compare(name, add_scale_act, add_scale_act_plain, x, residual, tail, used=used)


def test_a_gradient_that_passes_through_needs_no_kernel(monkeypatch):
    x, residual, (_, shift, _) = inputs(EXAMPLE)
    x.requires_grad_(), residual.requires_grad_()
    grad = torch.randn_like(x)

    def refused(*arguments):
        raise AssertionError("a pass over the gradient")

    monkeypatch.setattr(sys.modules["pplfast.kernels.scale_act"], "_backward", refused)
    scale_act(x, None, shift, "none", residual).backward(grad)
    torch.testing.assert_close((x.grad, residual.grad), (grad, grad), rtol=0, atol=0)
    x.grad = residual.grad = None
    add_scale_act(x, residual, None, shift, "relu")[0].backward(grad)
    torch.testing.assert_close((x.grad, residual.grad), (grad, grad), rtol=0, atol=0)


@pytest.mark.parametrize("act, kept", [("none", 0), ("relu", 1)])
def test_keeps_the_result_alone_and_nothing_without_activation(act, kept):
    x, residual, (scale, shift, _) = inputs(EXAMPLE)
    maps = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: maps.append(t.dim() == 4) or t, lambda t: t):
        scale_act(x.requires_grad_(), scale, shift, act, residual)
        add_scale_act(x, residual, scale, shift, act)
    assert sum(maps) == 2 * kept


def test_gradient_of_the_residual_alone():
    x, residual, tail = inputs(EXAMPLE)
    for function in (single, add_scale_act):
        leaf = residual.clone().requires_grad_()
        function(x, leaf, *tail)[-1].sum().backward()
        wanted = residual.clone().requires_grad_()
        add_scale_act_plain(x, wanted, *tail)[1].sum().backward()
        torch.testing.assert_close(leaf.grad, wanted.grad)


@pytest.mark.parametrize("name", BACKENDS)
def test_nan_and_infinity(name):
    """NaN passes; an infinite gradient of a closed unit vanishes."""
    x = torch.tensor([float("nan"), -1.0, 7.0, 2.0]).view(1, 4, 1, 1).requires_grad_()
    with backend.force(name):
        y = scale_act(x, torch.ones(4), None, "relu6")
        y.backward(torch.full_like(y, float("inf")))
    torch.testing.assert_close(y.detach().flatten(), torch.tensor([float("nan"), 0, 6, 2]), equal_nan=True)
    torch.testing.assert_close(x.grad.flatten()[1:], torch.tensor([0, 0, float("inf")]))


@pytest.mark.parametrize("name", BACKENDS)
def test_the_sum_is_rounded_as_if_stored(name):
    x, small = torch.ones(1, 8, 2, 2, dtype=torch.bfloat16), torch.full((1, 8, 2, 2), 2.0**-9, dtype=torch.bfloat16)
    with backend.force(name):
        z, y = add_scale_act(x, small, None, torch.full((8,), -1.0), "none")
    assert torch.equal(z, x) and torch.equal(y, torch.zeros_like(x))


def test_float64_gradients():
    x, residual, tail = inputs(Problem(1, 3, 2, 3, 1, 1, "relu6", True, True, 4), torch.float64)
    tail = (tail[0].double(), tail[1].double(), tail[2])
    x.requires_grad_(), residual.requires_grad_()
    torch.autograd.gradcheck(lambda x, r: add_scale_act(x, r, *tail), (x, residual))


def test_inside_torch_compile_it_is_the_plain_definition():
    """Inductor then fuses it with its neighbours: no operator of ours may stand in the graph."""
    x, residual, tail = inputs(EXAMPLE)
    graphs = []

    def recorded(graph, _):
        graphs.append(graph.code)
        return graph.forward

    def block(x, residual):
        z, y = add_scale_act(x, residual, *tail)
        return scale_act(y, None, tail[1], "relu", z)

    found = torch.compile(block, backend=recorded, fullgraph=True)(x, residual)
    torch.testing.assert_close(found, block(x, residual))
    assert "relu" in graphs[0] and "pplfast" not in graphs[0]


def test_output_is_channels_last():
    x, residual, tail = inputs(EXAMPLE)
    for y in (*add_scale_act(x, residual, *tail), scale_act(x.requires_grad_(), *tail)):
        assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels, vector", [(4096, VECTOR), (24, VECTOR), (20, 4), (6, 2), (3, 1)])
def test_launch_covers_every_number(channels, vector):
    (programs,), (rows, groups), blocks = flat_launch(11 * channels, channels, torch.bfloat16)
    assert blocks["V"] == vector and rows * vector == 11 * channels and groups * vector == channels
    assert (programs - 1) * blocks["BR"] < rows <= programs * blocks["BR"]


def test_refuses_what_does_not_fit():
    x, residual, (scale, shift, act) = inputs(EXAMPLE)
    with pytest.raises(ValueError, match=r"residual is torch.float32 \(2, 40, 7, 4\), x torch.float32 \(2, 40, 7, 5\)"):
        scale_act(x, scale, shift, act, residual[..., 1:])
    with pytest.raises(ValueError, match="residual is torch.float16"):
        add_scale_act(x, residual.half(), scale, shift, act)
    with pytest.raises(ValueError, match="known: none, relu, relu6"):
        scale_act(x, scale, shift, "gelu")
    with pytest.raises(ValueError, match="scale has shape"):
        scale_act(x, scale[1:], shift, act)


def test_plain_version_passes_batch_norm_an_eps_that_every_version_takes(monkeypatch):
    """PyTorch 2.11, which is supported, refuses the 0 that later versions take."""
    original = torch.nn.functional.batch_norm

    def strict(*arguments, eps, **options):
        assert eps > 0
        return original(*arguments, eps=eps, **options)

    monkeypatch.setattr(torch.nn.functional, "batch_norm", strict)
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(2, 3, 4, 5, dtype=dtype)
        assert torch.equal(scale_act(x, torch.full((3,), 2.0), None, "none"), 2 * x)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("with_residual", (True, False))
def test_in_place_where_no_gradient_is_wanted(name, with_residual):
    x, scale, shift = EXAMPLE.tensors()
    x = x.contiguous(memory_format=torch.channels_last)
    residual = torch.randn_like(x) if with_residual else None
    z, y = add_scale_act_plain(x, residual, scale, shift, "relu6")
    with backend.force(name):
        own = x.clone(memory_format=torch.preserve_format)
        assert scale_act(own, scale, shift, "relu6", residual, inplace=True) is own
        torch.testing.assert_close(own, y)
        if with_residual:
            own = x.clone(memory_format=torch.preserve_format)
            total, result = add_scale_act(own, residual, scale, shift, "relu6", inplace=True)
            assert total is own
            torch.testing.assert_close((total, result), (z, y))
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        for wanted in (leaf * 1, x.transpose(2, 3)):  # a gradient, and another layout: x stays as it is
            before = wanted.detach().clone()
            scale_act(wanted, scale, shift, "relu6", None, inplace=True)
            assert torch.equal(wanted.detach(), before)
