"""The CPU's own implementations give what the networks give without them, at less cost."""

import copy

import pytest
import torch
import torch.nn.functional as F
from models_reference import FEWEST_STRIDED, TINY, tiny_efficientnet

from pplfast import cpu
from pplfast.cpu import native, strips
from pplfast.cpu.convolution import CpuConv, CpuMBConv
from pplfast.cpu.winograd import winograd_conv, winograd_weight
from pplfast.models import create
from pplfast.models.layers import Conv, FrozenBatchNorm
from pplfast.models.registry import NAMES
from pplfast.patch import definition
from pplfast.patch.branches import Cut, remaining_stride
from pplfast.patch.classifier import PatchClassifier

CPU = torch.device("cpu")


def classifier(name, monkeypatch, variant="ppl"):
    make, cut = TINY[name]
    backbone = make(monkeypatch)
    backbone.freeze(2)
    model = PatchClassifier(backbone, 3, variant)
    model.set_cuts([] if variant == "plain" else [Cut(backbone.position(cut) + 1, 2)])
    torch.nn.init.normal_(model.classifier.weight)
    return model


@pytest.mark.parametrize("variant", ("plain", "ppl", "explicit"))
@pytest.mark.parametrize("name", TINY)
def test_training_and_maps_are_the_same_once_installed(name, variant, monkeypatch, one_thread):
    model = classifier(name, monkeypatch, variant)
    other = copy.deepcopy(model)
    cpu.install(other, CPU)
    assert list(other.state_dict()) == list(model.state_dict())
    kinds = {type(module) for module in other.modules()}
    assert CpuConv in kinds and Conv not in kinds and (CpuMBConv in kinds) == (name == "efficientnet_lite0")
    images = torch.randn(2, 3, 96, 128).contiguous(memory_format=torch.channels_last)
    labels = torch.tensor([[1.0, 0, 0], [0, 1, 1]])
    results = []
    for one in (model, other):
        one.train()
        torch.manual_seed(1)
        loss = F.multilabel_soft_margin_loss(one(images), labels)
        trained = [parameter for parameter in one.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(loss, trained)
        one.eval()
        with torch.inference_mode():
            results.append((loss.detach(), *gradients, one.maps(images)))
    for found, wanted in zip(*results, strict=True):
        assert (found - wanted).norm() <= 2e-3 * wanted.norm() + 1e-6  # rounding turns some cells at a ReLU's kink


@pytest.mark.skipif(native.library().functions is None, reason=native.library().reason)
def test_depthwise_convolutions_train_in_bf16_with_maps_in_bf16(monkeypatch, one_thread):
    """Where PyTorch's own would have to be in float32."""
    block = next(module for module in tiny_efficientnet(monkeypatch).modules() if hasattr(module, "_depthwise_conv"))
    cpu.install(block, CPU)
    seen = []
    monkeypatch.setattr("pplfast.cpu.convolution.depthwise_act", lambda x, *args: seen.append(x.dtype) or x)
    with torch.autocast("cpu", torch.bfloat16):
        block._depthwise_conv.depthwise(
            torch.zeros(1, block._depthwise_conv.in_channels, 4, 4).bfloat16(), block._bn1, "none", "relu6"
        )
    assert seen == [torch.bfloat16]


def test_nothing_is_installed_for_another_device(monkeypatch):
    model = classifier("resnet50", monkeypatch)
    cpu.install(model, torch.device("cuda"))
    assert type(model) is PatchClassifier and not any(isinstance(module, CpuConv) for module in model.modules())


@pytest.mark.slow
@pytest.mark.parametrize(
    "grid, size",
    (
        (2, (512, 640)),
        (3, (768, 672)),  # that K divides
        (2, (520, 648)),
        (3, (856, 696)),
    ),
)  # that it does not: strips along the padding too
@pytest.mark.parametrize("name, cut", (("resnet50", "layer3"), ("wrn38", "b4_5")))
def test_shared_cells_equal_the_definition(name, cut, grid, size, monkeypatch):
    taken = []
    step = strips.SharedPatches.step
    monkeypatch.setattr(strips.SharedPatches, "step", lambda *args: taken.append(step(*args)) or taken[-1])
    model = classifier(name, monkeypatch).eval().double()
    model.set_cuts([Cut(model.backbone.position(cut) + 1, grid)])
    expected = definition.maps(model, images := torch.randn(1, 3, *size, dtype=torch.float64)).detach()
    cpu.install(model, CPU)
    torch.testing.assert_close(model.maps(images).double(), expected, rtol=1e-6, atol=1e-6)
    assert taken[0], "nothing was shared"
    before = len(taken)
    model.train()(images)
    assert len(taken) == before, "training shares nothing"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, output_stride, position, size, blocks",
    (
        ("resnet50", 16, "layer2", (32, 48), 2),
        ("resnet50", 8, "layer3", (32, 48), 2),
        ("wrn38", 8, "b4_5", (32, 28), 2),
        ("resnet50", 16, "layer3", (35, 47), 3),
        ("wrn38", 8, "b4_5", (41, 30), 2),
    ),
)
def test_reach_and_stride_of_real_blocks(name, output_stride, position, size, blocks, monkeypatch):
    """Of the blocks behind the cut, on a random map in place of the blocks before it."""
    backbone, _ = create(name, weights="none", output_stride=output_stride)
    first = backbone.position(position) + 1
    x = torch.randn(1, backbone.specs[first - 1].channels, *size)
    run = backbone.run
    monkeypatch.setattr(backbone, "specs", backbone.specs[: first + blocks])
    monkeypatch.setattr(backbone, "run", lambda y, a, b, *more: x if a == 0 else run(y, a, b, *more))
    with torch.no_grad():
        patches, whole = strips.run_shared(backbone, x, Cut(first, 2))
        expected = run(definition.split(x, 2, remaining_stride(backbone, first)), first, first + blocks)
        torch.testing.assert_close(whole, run(x, first, first + blocks), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(patches, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 5, 9, 14), (1, 3, 4, 4), (3, 4, 1, 7)])
def test_winograd_equals_the_convolution(shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(memory_format=torch.channels_last)
    weight, bias = torch.randn(6, shape[1], 3, 3, generator=generator), torch.randn(6, generator=generator)
    expected = F.conv2d(x, weight, bias, padding=1)
    found = winograd_conv(x, winograd_weight(weight), bias)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_wide_convolutions_run_by_winograd_without_gradients_only(monkeypatch):
    conv, bn = Conv(256, 256, 3).eval(), FrozenBatchNorm(256)
    bn.running_mean.normal_(generator=torch.Generator().manual_seed(1))
    x = torch.randn(1, 256, 29, 29, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        direct = conv(x, bn)
        cpu.install(conv, CPU)
        calls = []
        monkeypatch.setattr(
            "pplfast.cpu.convolution.winograd_conv", lambda *args: calls.append(1) or winograd_conv(*args)
        )
        torch.testing.assert_close(conv(x, bn), direct, atol=1e-4, rtol=1e-4)
        assert len(calls) == 1
        conv(x[:, :, :8, :8], bn)  # too few tiles
        assert len(calls) == 1
        conv.weight.mul_(2)
        assert not torch.allclose(conv(x, bn), direct, atol=1e-2)
    assert len(calls) == 2
    assert conv(x.requires_grad_(), bn).requires_grad and len(calls) == 2


def test_no_network_has_a_strided_pointwise_convolution_of_few_channels():
    """models_reference.FEWEST_STRIDED says what would happen."""
    with torch.device("meta"):
        for name in NAMES:
            backbone, _ = create(name, weights="none")
            for module in backbone.modules():
                if isinstance(module, Conv) and module.kernel_size == (1, 1) and module.stride != (1, 1):
                    assert module.in_channels >= FEWEST_STRIDED
