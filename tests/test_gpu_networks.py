"""On a CUDA device: the networks against themselves on the CPU, and a training step that never waits."""

import copy
from types import SimpleNamespace

import pytest
import torch
from dry_gpu.table import BACKBONES, VARIANTS

from pplfast.models import create
from pplfast.patch.branches import Cut
from pplfast.patch.classifier import PatchClassifier

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

DEVICE = torch.device("cuda")
CLASSES, WARM, WATCHED = 5, 3, 3
POSITIONS = {"wrn38": ("b3_2", "b4_5"), "resnet50": ("layer2", "layer3"), "efficientnet_lite0": ("group3", "group5")}
STAGES = {"plain": 0, "ppl": 1, "explicit": 2}


@pytest.fixture(autouse=True)
def exact():
    """No TF32: what is compared is float32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def classifier(name: str, variant: str) -> PatchClassifier:
    """In eval mode: WideResNet-38 has dropout inside. Gradients are those of training, since BatchNorm is frozen."""
    torch.manual_seed(0)
    backbone, _ = create(name, "none")
    model = PatchClassifier(backbone, CLASSES, variant, branches=STAGES[variant] or 1)
    model.set_cuts([Cut(backbone.position(name) + 1, 2) for name in POSITIONS[name][: STAGES[variant]]])
    backbone.freeze(backbone.frozen_default)
    return model.eval()


def batch(count: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, height, width, 3, generator=generator).permute(0, 3, 1, 2)
    return images, torch.randint(0, 2, (count, CLASSES), generator=generator).float()


def losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.multilabel_soft_margin_loss(logits, labels, reduction="none")


def forward_backward(model, images, labels, precision=None):
    device = next(model.parameters()).device
    with torch.autocast(device.type, precision or torch.bfloat16, enabled=precision is not None):
        logits = model(images.to(device))
    losses(logits, labels.to(device)).sum().backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return logits.detach().cpu(), grads


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-12))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", BACKBONES)
def test_classifier_equals_the_one_on_the_cpu(name, variant):
    reference, (images, labels) = classifier(name, variant), batch(2, 80, 112)  # grids and strides leave remainders
    model = copy.deepcopy(reference).to(DEVICE)
    wanted, wanted_grads = forward_backward(reference, images, labels)
    found, grads = forward_backward(model, images, labels)
    assert relative(found, wanted) < 1e-4
    # A ReLU whose input rounds to the other side of 0 opens or closes: over WideResNet-38's depth 2.3e-3 was seen.
    for key, wanted_grad in wanted_grads.items():
        assert relative(grads[key].cpu(), wanted_grad) < 5e-3, key
    assert relative(model.maps(images.to(DEVICE)).cpu(), reference.maps(images)) < 1e-3


@pytest.mark.parametrize("precision", (torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", BACKBONES)
def test_half_precision_is_near_and_its_gradients_are_float32(name, variant, precision):
    single, (images, labels) = classifier(name, variant).to(DEVICE), batch(2, 64, 96)
    half = copy.deepcopy(single)
    wanted, wanted_grads = forward_backward(single, images, labels)
    found, grads = forward_backward(half, images, labels, precision)
    assert relative(found, wanted) < 0.1 and found.dtype == torch.float32
    for key, grad in grads.items():
        assert grad.dtype == torch.float32 and torch.isfinite(grad).all(), key
    assert relative(grads["classifier.weight"], wanted_grads["classifier.weight"]) < 0.1


@pytest.mark.parametrize("zero", (0, 1))
@pytest.mark.parametrize("precision", ("bf16", "fp32"))
def test_a_training_step_falls_and_never_waits(zero, precision):
    pytest.importorskip("deepspeed")
    pytest.importorskip("nvidia.dali")  # pplfast.train imports the loader
    from pplfast.cluster.ranks import start_ranks
    from pplfast.recipe import OptimConfig
    from pplfast.train.engine import start_engine
    from pplfast.train.step import train_step

    ranks = start_ranks()
    optim = OptimConfig(lr=1e-3, batch=4, precision=precision, zero=zero)
    model = classifier("efficientnet_lite0", "ppl").train()
    model.dropout = 0.2
    engine = start_engine(model, optim, ranks)
    images, labels = (tensor.to(DEVICE) for tensor in batch(4, 96, 96))
    step_batch, seen = SimpleNamespace(images=images, total=4, indices=torch.arange(4)), []

    def step() -> None:
        _, own = train_step(engine, [step_batch], lambda logits, _: losses(logits, labels), 1, lambda _: None, ranks)
        seen.append(own)

    for _ in range(WARM):
        step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(WATCHED):
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    engine.destroy()
    means = torch.stack(seen).mean(1).tolist()
    assert all(torch.isfinite(torch.tensor(means))) and means[-1] < means[0], means
