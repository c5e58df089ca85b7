"""The networks once more, in plain PyTorch on a state dict, with BatchNorm as a pass of its own."""

import torch
import torch.nn.functional as F

from pplfast.models import efficientnet, resnet, wideresnet
from pplfast.models.efficientnet import EfficientNetLite
from pplfast.models.layers import FrozenBatchNorm
from pplfast.models.resnet import ResNet
from pplfast.models.wideresnet import UnitRow, WideResNet38


def conv(state, name, x, stride=1, dilation=1, groups=1):
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, None, stride, dilation * (weight.shape[-1] // 2), dilation, groups)


def norm(state, name, x, eps=1e-5):
    weight, bias, mean, var = (
        state[f"{name}.{last}"].view(1, -1, 1, 1) for last in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / torch.sqrt(var + eps) * weight + bias


def same_conv(state, name, x, stride, groups=1):
    """TensorFlow's rule, as its documentation words it."""
    weight = state[f"{name}.weight"]
    pads = []
    for size, kernel in reversed(list(zip(x.shape[2:], weight.shape[2:], strict=True))):
        total = max(kernel - stride, 0) if size % stride == 0 else max(kernel - size % stride, 0)
        pads += [total // 2, total - total // 2]
    return F.conv2d(F.pad(x, pads), weight, None, stride, 0, 1, groups)


def efficientnet_features(state, x, output_stride):
    def bn(name, y):
        return norm(state, name, y, 1e-3)

    x = F.relu6(bn("_bn0", same_conv(state, "_conv_stem", x, 2)))
    number = 0
    for group, (repeats, _, stride, expansion, _) in enumerate(efficientnet.GROUPS, start=1):
        stride = 1 if group == 6 and output_stride == 16 else stride
        for repeat in range(repeats):
            p, y = f"_blocks.{number}.", x
            if expansion > 1:
                y = F.relu6(bn(p + "_bn0", conv(state, p + "_expand_conv", y)))
            y = same_conv(state, p + "_depthwise_conv", y, 1 if repeat else stride, groups=y.shape[1])
            y = bn(p + "_bn2", conv(state, p + "_project_conv", F.relu6(bn(p + "_bn1", y))))
            x = x + y if repeat else y
            number += 1
    return conv(state, "_conv_head", x)


def resnet_features(state, x, output_stride):
    x = F.max_pool2d(F.relu(norm(state, "bn1", conv(state, "conv1", x, 2))), 3, 2, 1)
    for layer, stride in enumerate((1, 2, 2, 2 if output_stride == 32 else 1), start=1):
        unit = 0
        while f"layer{layer}.{unit}.conv1.weight" in state:
            p, s = f"layer{layer}.{unit}.", 1 if unit else stride
            y = F.relu(norm(state, p + "bn1", conv(state, p + "conv1", x)))
            y = F.relu(norm(state, p + "bn2", conv(state, p + "conv2", y, s)))
            y = norm(state, p + "bn3", conv(state, p + "conv3", y))
            if p + "downsample.0.weight" in state:
                x = norm(state, p + "downsample.1", conv(state, p + "downsample.0", x, s))
            x = F.relu(x + y)
            unit += 1
    return x


WRN_UNITS = {"b2": (2, 1, 1), "b3": (2, 1, 1), "b4": (2, 1, 1), "b5": (1, 1, 2)}  # stride, dilations of the first unit


def wideresnet_features(state, x):
    """Features of the whole network without dropout, before bn7."""
    x = conv(state, "conv1a", x)
    names = dict.fromkeys(name.split(".")[0] for name in state)
    for name in names:
        if name in ("conv1a", "bn7"):
            continue
        p, group = f"{name}.", name[:2]
        a = F.relu(norm(state, p + "bn_branch2a", x))
        if group in ("b6", "b7"):
            stride = 1
            y = F.relu(norm(state, p + "bn_branch2b1", conv(state, p + "conv_branch2a", a)))
            y = F.relu(norm(state, p + "bn_branch2b2", conv(state, p + "conv_branch2b1", y, dilation=4)))
            y = conv(state, p + "conv_branch2b2", y)
        else:
            stride, first_dilation, dilation = WRN_UNITS[group]
            if name != group:
                stride, first_dilation = 1, dilation
            y = conv(state, p + "conv_branch2a", a, stride, first_dilation)
            y = conv(state, p + "conv_branch2b1", F.relu(norm(state, p + "bn_branch2b1", y)), dilation=dilation)
        x = y + (conv(state, p + "conv_branch1", a, stride) if p + "conv_branch1.weight" in state else x)
    return x


# oneDNN's weight gradient of a strided 1x1 convolution of few channels writes past its workspace: wrong, or it hangs.
# Seen
# below 8 channels with AVX2, its issue 6035 says below 16 with AVX-512; no network of the registry has one below 64.
FEWEST_STRIDED = 16


def tiny_wideresnet(monkeypatch):
    """Every unit of WideResNet-38 with few channels."""
    torch.manual_seed(0)
    monkeypatch.setattr(
        wideresnet,
        "UNITS",
        tuple(
            UnitRow(*row)
            for row in (
                ("b2", 3, 6, 16, 2, 1, 1),
                ("b3", 3, 8, 16, 2, 1, 1),
                ("b4", 6, 10, 10, 2, 1, 1),
                ("b5", 3, 10, 12, 1, 1, 2),
            )
        ),
    )
    monkeypatch.setattr(wideresnet, "BOTTLENECKS", (("b6", 16, 0.3), ("b7", 24, 0.5)))
    monkeypatch.setattr(wideresnet, "STEM_CHANNELS", 16)
    return randomise(WideResNet38())


def tiny_resnet(monkeypatch, name="resnet50", output_stride=16):
    torch.manual_seed(0)
    monkeypatch.setattr(resnet, "PLANES", (4, 4, 4, 5))
    monkeypatch.setattr(resnet, "STEM_CHANNELS", 6)
    return randomise(ResNet(name, output_stride))


def tiny_efficientnet(monkeypatch, output_stride=16):
    torch.manual_seed(0)
    channels = iter((4, 5, 6, 7, 8, 10, 12))
    monkeypatch.setattr(
        efficientnet,
        "GROUPS",
        tuple(
            (repeats, kernel, stride, min(expansion, 2), next(channels))
            for repeats, kernel, stride, expansion, _ in efficientnet.GROUPS
        ),
    )
    monkeypatch.setattr(efficientnet, "STEM_CHANNELS", 4)
    monkeypatch.setattr(efficientnet, "HEAD_CHANNELS", 16)
    return randomise(EfficientNetLite(output_stride=output_stride))


def randomise(backbone):
    """A BatchNorm that is no identity, on top of random weights."""
    for module in backbone.modules():
        if isinstance(module, FrozenBatchNorm):
            module.weight.uniform_(0.5, 1.5)
            module.running_var.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.2)
            module.running_mean.normal_(0, 0.2)
    return backbone.eval()


# A small network of each kind, and a block to cut patches behind.
TINY = {
    "efficientnet_lite0": (tiny_efficientnet, "group3"),
    "resnet50": (tiny_resnet, "layer2"),
    "wrn38": (tiny_wideresnet, "b3_2"),
}
