"""Folded convolutions and their cache, what follows them in one pass, and TensorFlow's padding."""

import copy

import pytest
import torch
import torch.nn.functional as F

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


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "groups"),
    [(1, 1, 1, 1), (1, 2, 1, 1), (3, 1, 1, 1), (3, 2, 1, 1), (3, 1, 4, 1), (3, 2, 1, 6), (5, 1, 1, 6), (7, 2, 1, 1)],
)
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
            return conv.operands(bn, torch.float32)[0]

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


@pytest.mark.parametrize("groups", (1, 8))
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_under_autocast_weights_are_folded_in_its_dtype(groups, dtype):
    """One fold, in the convolution's dtype, whose gradient arrives in float32; a depthwise bias is no exception."""
    conv, bn = Conv(8, 8, 3, groups=groups).train(), random_norm(8)
    x = torch.randn(2, 8, 6, 6)
    expected = unfused(conv, bn, x).relu()
    (wanted,) = torch.autograd.grad(expected.sum(), conv.weight)
    with torch.autocast("cpu", dtype), folded_once():
        assert conv.operands(bn, dtype)[0].dtype == dtype
        y = conv(x, bn, "relu")
        assert conv.operands(bn, dtype)[0] is conv.operands(bn, dtype)[0]
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), expected, rtol=0.03, atol=0.06)
    (gradient,) = torch.autograd.grad(y.float().sum(), conv.weight)
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(gradient, wanted, rtol=0.05, atol=0.5)


@pytest.mark.parametrize("act", ("none", "relu", "relu6"))
@pytest.mark.parametrize("norm", (True, False))
@pytest.mark.parametrize("with_residual", (True, False))
def test_residual_and_activation_equal_plain_operations(act, norm, with_residual):
    torch.manual_seed(0)
    conv, bn = Conv(5, 6, 3).double(), random_norm(6).double() if norm else None
    x, residual = torch.randn(2, 5, 7, 9).double().requires_grad_(), torch.randn(2, 6, 7, 9).double().requires_grad_()
    y = conv(x, bn, act, residual if with_residual else None)
    plain = unfused(conv, bn, x) if norm else F.conv2d(x, conv.weight, padding=1)
    plain = plain + residual if with_residual else plain
    plain = {"none": lambda z: z, "relu": F.relu, "relu6": F.relu6}[act](plain)
    leaves = (x, conv.weight, residual)[: 2 + with_residual]
    torch.testing.assert_close(y, plain, rtol=1e-11, atol=1e-11)
    for found, wanted in zip(*(torch.autograd.grad(z.square().sum(), leaves) for z in (y, plain)), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [
        (224, 3, 2, (0, 1)),
        (225, 3, 2, (1, 1)),
        (112, 5, 2, (1, 2)),
        (113, 5, 2, (2, 2)),
        (7, 3, 1, (1, 1)),
        (7, 5, 1, (2, 2)),
        (1, 3, 2, (1, 1)),
        (2, 3, 2, (0, 1)),
        (1, 5, 2, (2, 2)),
        (8, 1, 2, (0, 0)),
    ],
)
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
        assert conv.operands(bn, conv.weight.dtype)[0] is conv.operands(bn, conv.weight.dtype)[0]
        y = (conv(x, bn) * conv(z, bn)).sum()
    torch.testing.assert_close(torch.autograd.grad(y, conv.weight)[0], expected)
    assert conv.operands(bn, conv.weight.dtype)[0] is not conv.operands(bn, conv.weight.dtype)[0]
