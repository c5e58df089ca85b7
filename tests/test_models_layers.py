"""Folded convolutions, their cache, the fused pre-activation, and TensorFlow's padding."""

import contextlib
import copy

import pytest
import torch
import torch.nn.functional as F

from pplfast.kernels import backend
from pplfast.kernels.native import library
from pplfast.models.layers import Conv, FrozenBatchNorm, folded_once, same_padding


def random_norm(channels, eps=1e-5):
    bn = FrozenBatchNorm(channels, eps)
    bn.weight.uniform_(-1.5, 1.5)
    bn.running_var.uniform_(0.1, 2)
    bn.bias.normal_()
    bn.running_mean.normal_()
    return bn


def unfused(conv, bn, x):
    y = F.conv2d(x, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
    return F.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias, False, 0.0, bn.eps)


@pytest.mark.parametrize(("kernel", "stride", "dilation", "groups"), [
    (1, 1, 1, 1), (1, 2, 1, 1), (3, 1, 1, 1), (3, 2, 1, 1), (3, 1, 4, 1), (3, 2, 1, 6), (5, 1, 1, 6), (7, 2, 1, 1)])
def test_folding_equals_batch_norm_with_gradients(kernel, stride, dilation, groups):
    torch.manual_seed(0)
    conv = Conv(6, 6, kernel, stride, dilation, groups).double()
    bn = random_norm(6, 1e-3).double()
    x = torch.randn(2, 6, 9, 11, dtype=torch.float64, requires_grad=True)
    results = []
    for y in (conv(x, bn), unfused(conv, bn, x)):
        results.append((y, *torch.autograd.grad(y.square().sum(), (x, conv.weight))))
    for fused, plain in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("stride", (2, 3))
@pytest.mark.parametrize("inputs", (3, 4, 7, 12, 16))
def test_strided_pointwise_convolutions_of_few_channels(inputs, stride):
    """oneDNN's own gradient of the weights is wrong, now and then, or never comes: layers.ONEDNN_BLOCK."""
    torch.manual_seed(0)
    conv = Conv(inputs, 8, 1, stride)
    x = torch.randn(8, inputs, 18, 21).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = conv(x)
    factor = torch.randn(y.shape)
    y_double = F.conv2d(x.double(), conv.weight.double(), stride=stride)
    expected = torch.autograd.grad(y_double, (x, conv.weight), factor.double())
    for _ in range(20):
        for gradient, wanted in zip(torch.autograd.grad(conv(x), (x, conv.weight), factor), expected, strict=True):
            torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-4)


def test_weights_rest_in_nchw_and_channels_last_inputs_stay_so():
    conv, bn = Conv(8, 16, 3), random_norm(16)
    x = torch.randn(2, 8, 5, 7).contiguous(memory_format=torch.channels_last)
    assert conv(x, bn).is_contiguous(memory_format=torch.channels_last)
    conv(x, bn).sum().backward()
    assert conv.weight.is_contiguous()
    assert conv.weight.grad.is_contiguous()


def test_inference_folds_once_and_never_serves_stale_weights():
    torch.manual_seed(0)
    conv, bn = Conv(4, 4, 3).eval(), random_norm(4)
    x = torch.randn(1, 4, 5, 5)

    def folded():
        with torch.no_grad():
            torch.testing.assert_close(conv(x, bn), unfused(conv, bn, x))
            return conv._folded[1]

    first = folded()
    assert folded() is first
    conv.load_state_dict({"weight": torch.randn(4, 4, 3, 3)})
    second = folded()
    assert second is not first
    bn.running_var.mul_(2)
    third = folded()
    assert third is not second
    conv.train()
    conv.weight.data.add_(1)  # as optimizers with flat buffers do: without a trace in the version
    conv.eval()
    assert folded() is not third
    twin, twin_bn = copy.deepcopy((conv, bn))
    with torch.no_grad():
        twin.weight.mul_(3)
        twin_bn.bias.add_(1)
        torch.testing.assert_close(twin(x, twin_bn), unfused(twin, twin_bn, x))
        conv.double()
        bn.double()
        torch.testing.assert_close(conv(x.double(), bn), unfused(conv, bn, x.double()))


def test_training_weights_are_folded_anew_even_without_gradient():
    conv, bn = Conv(4, 4, 3).train(), random_norm(4)
    x = torch.randn(1, 4, 5, 5)
    with torch.no_grad():
        conv(x, bn)
        conv.weight.data.mul_(2)
        torch.testing.assert_close(conv(x, bn), unfused(conv, bn, x))


def test_inference_mode_does_not_spoil_later_training():
    conv, bn = Conv(4, 4, 3).eval(), random_norm(4)
    x = torch.randn(1, 4, 5, 5)
    with torch.inference_mode():
        conv(x, bn)
        inner, inner_bn = Conv(4, 4, 3).eval(), FrozenBatchNorm(4)
        inner(x, inner_bn)  # tensors born in inference mode carry no version
    conv.train()
    conv(x, bn).sum().backward()
    assert conv.weight.grad is not None


@pytest.mark.parametrize("choice", (None, "plain"))
def test_autocast_on_cpus(choice):
    """Dense convolutions run in bf16; depthwise ones in bf16 only where the C++ kernel takes them."""
    x, bn = torch.randn(1, 8, 6, 6), random_norm(8)
    dense, depthwise = Conv(8, 8, 3), Conv(8, 8, 3, groups=8)
    compiled = choice is None and library().functions is not None
    expected = unfused(depthwise, bn, x.relu()).relu()
    for grad in (True, False):
        forced = backend.force(choice) if choice else contextlib.nullcontext()
        with forced, torch.set_grad_enabled(grad), torch.autocast("cpu", torch.bfloat16):
            assert dense.eval()(x, bn).dtype == torch.bfloat16
            torch.testing.assert_close(dense(x, bn).float(), unfused(dense, bn, x).float(), rtol=0.03, atol=0.06)
            y = depthwise.eval().depthwise(x.bfloat16(), bn, "relu", "relu")
            assert y.dtype == (torch.bfloat16 if compiled else torch.float32)
            torch.testing.assert_close(y.float(), expected, rtol=0.03, atol=0.06)


def test_fused_activation_has_the_gradient_of_batch_norm_and_relu():
    torch.manual_seed(0)
    bn = random_norm(5).double()
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64, requires_grad=True)
    plain = F.relu(F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps))
    torch.testing.assert_close(bn.relu(x), plain, rtol=1e-12, atol=1e-12)
    scale, shift = bn.affine()
    torch.testing.assert_close(F.relu(x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)), plain)
    assert torch.autograd.gradcheck(bn.relu, x)
    assert bn.float().relu(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(("size", "kernel", "stride", "expected"), [
    (224, 3, 2, (0, 1)), (225, 3, 2, (1, 1)), (112, 5, 2, (1, 2)), (113, 5, 2, (2, 2)), (7, 3, 1, (1, 1)),
    (7, 5, 1, (2, 2)), (1, 3, 2, (1, 1)), (2, 3, 2, (0, 1)), (1, 5, 2, (2, 2)), (8, 1, 2, (0, 0))])
def test_same_padding_against_known_values(size, kernel, stride, expected):
    assert same_padding(size, kernel, stride) == expected


@pytest.mark.parametrize("kernel", (3, 5))
@pytest.mark.parametrize("height", (7, 8))
@pytest.mark.parametrize("width", (9, 10))
def test_same_convolution_places_its_windows_as_tensorflow_does(kernel, height, width):
    """With a kernel of ones and an input of ones, an output counts the cells of its window inside the map."""
    conv = Conv(1, 1, kernel, 2, same=True)
    torch.nn.init.ones_(conv.weight)
    y = conv(torch.ones(1, 1, height, width))[0, 0]

    def counts(size):
        total = max(kernel - 2, 0) if size % 2 == 0 else kernel - 1
        starts = [2 * i - total // 2 for i in range((size + 1) // 2)]
        return torch.tensor([sum(0 <= start + j < size for j in range(kernel)) for start in starts])

    assert torch.equal(y, torch.outer(counts(height), counts(width)).float())


def test_one_forward_pass_folds_once_and_adds_up_the_gradients():
    torch.manual_seed(0)
    conv, bn = Conv(4, 6, 3).double(), random_norm(6).double()
    x, z = torch.randn(2, 1, 4, 5, 5, dtype=torch.float64)
    (expected,) = torch.autograd.grad((conv(x, bn) * conv(z, bn)).sum(), conv.weight)
    with folded_once():
        assert conv._operands(bn, conv.weight.dtype)[0] is conv._operands(bn, conv.weight.dtype)[0]
        y = (conv(x, bn) * conv(z, bn)).sum()
    torch.testing.assert_close(torch.autograd.grad(y, conv.weight)[0], expected)
    assert conv._operands(bn, conv.weight.dtype)[0] is not conv._operands(bn, conv.weight.dtype)[0]
