"""The operations of a training step against formulas and sums by hand, and what GPUs could do."""

import pytest
import torch
from torch import nn
from training_parts import classifier

from pplfast import cpu
from pplfast.benchmarks.flops import step_flops
from pplfast.benchmarks.models import Case
from pplfast.cluster.ranks import Ranks
from pplfast.flops import device_peak, peak_flops, training_flops
from pplfast.models import create
from pplfast.models.boundary import BoundaryNet

CPU = torch.device("cpu")
ONE = Ranks(0, 1, 1, CPU)
SIZE = 64


@pytest.mark.slow
@pytest.mark.parametrize("frozen", (0, 3))
@pytest.mark.parametrize(
    "variant, cuts",
    (
        ("plain", ()),
        ("ppl", (("layer3", 2),)),
        ("explicit", (("layer2", 4), ("layer3", 2))),
    ),
)
def test_operations_are_those_of_the_method(variant, cuts, frozen):
    """Counted independently: on the plain reference, which classifies a map before it is pooled."""
    model = classifier("resnet50", variant, cuts, frozen)
    cells = (SIZE // 16) ** 2
    late = 3 * 2 * 20 * 2048 * (len(cuts) + 1) * (cells - 1)  # operations of the classifier on all cells but one
    case = Case("resnet50", 20, cuts, explicit=variant == "explicit", output_stride=16)
    assert training_flops(model, SIZE, CPU) == step_flops(case, 1, SIZE, frozen) - late


@pytest.mark.slow
def test_operations_of_the_cpus_own_layers_are_the_same():
    """Depthwise convolutions run in an operator that torch's counter does not know."""
    model = classifier("efficientnet_lite0", "ppl", (("group5", 2),), 3)
    expected = training_flops(model, SIZE, CPU)
    cpu.install(model, CPU)
    assert training_flops(model, SIZE, CPU) == expected


def test_operations_of_simple_layers():
    """By hand: 2 per weight and place; three passes where both gradients are wanted, two without the image's."""
    places = SIZE**2
    dense, depthwise = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
    up = nn.ConvTranspose2d(8, 4, 2, stride=2)
    model = nn.Sequential(dense, depthwise, up)
    expected = 2 * 2 * places * 8 * 27 + 3 * 2 * places * 8 * 9 + 3 * 2 * places * 8 * 4 * 4
    assert training_flops(model, SIZE, CPU) == expected
    dense.requires_grad_(False)  # then the gradient stops at the depthwise convolution
    depthwise_passes = 2
    expected = 2 * places * 8 * 27 + depthwise_passes * 2 * places * 8 * 9 + 3 * 2 * places * 8 * 4 * 4
    assert training_flops(model, SIZE, CPU) == expected


def test_counting_leaves_a_network_as_it_is():
    class Plain(nn.Sequential):
        pass

    model = Plain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    search = torch.backends.cudnn.benchmark
    training_flops(model, 8, CPU)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.backends.cudnn.benchmark == search


@pytest.mark.slow
def test_a_boundary_network_has_no_backward_pass_in_its_backbone():
    backbone, _ = create("efficientnet_lite0", weights="none")
    model = BoundaryNet(backbone).train()
    total = training_flops(model, SIZE, CPU)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.edge.bias.requires_grad_(True)
    assert total < 1.5 * training_flops(model, SIZE, CPU)


def test_peaks_are_those_of_a_gpu_by_its_whole_name():
    assert peak_flops("NVIDIA H100 80GB HBM3", "bf16") == pytest.approx(989.4e12)
    assert peak_flops("NVIDIA A100-SXM4-80GB", "fp32") == pytest.approx(19.5e12)
    assert peak_flops("NVIDIA A100 80GB PCIe", "fp16") == pytest.approx(312e12)
    assert peak_flops("Tesla T4", "fp16") == pytest.approx(65e12) and peak_flops("Tesla T4", "bf16") is None
    for name in (
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA L400",
        "Radeon",
    ):
        assert peak_flops(name, "bf16") is None, name
    assert device_peak(CPU, "fp32") is None
