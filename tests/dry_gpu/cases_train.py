"""The training steps: name -> a function that is run under a Watch, on fake tensors on CUDA."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pplfast.models import create
from pplfast.models.boundary import BoundaryNet
from pplfast.models.segmentation import SegmentationNet
from pplfast.patch.branches import Cut
from pplfast.patch.classifier import PatchClassifier
from pplfast.train.affinity import affinity_losses
from pplfast.train.loss import image_losses
from pplfast.train.segmentation import pixel_losses

CLASSES, RADIUS = 20, 5
STAGES = {"plain": 0, "ppl": 1, "explicit": 2}
POSITIONS = {"wrn38": ("b3_2", "b4_5"), "resnet50": ("layer2", "layer3"), "efficientnet_lite0": ("group3", "group5")}
SIZES = {"wrn38": (4, 448), "resnet50": (4, 448), "efficientnet_lite0": (8, 256)}  # batch, side
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def classifier(backbone_name: str, variant: str) -> PatchClassifier:
    with torch.device("cuda"):
        backbone, _ = create(backbone_name, "none")
        model = PatchClassifier(backbone, CLASSES, variant, dropout=0.5, branches=STAGES[variant] or 1)
    positions = POSITIONS[backbone_name][: STAGES[variant]]
    model.set_cuts([Cut(backbone.position(name) + 1, 2) for name in positions])
    backbone.freeze(backbone.frozen_default)
    return model


def segmentation_net(backbone_name: str) -> SegmentationNet:
    with torch.device("cuda"):
        backbone, _ = create(backbone_name, "none")
        backbone.freeze(backbone.frozen_default)
        return SegmentationNet(backbone, CLASSES + 1)


def autocast(precision: str) -> torch.autocast:
    return torch.autocast("cuda", HALF.get(precision, torch.bfloat16), enabled=precision in HALF)


def images(batch: int, height: int, width: int) -> Tensor:
    """As the loaders give them: channels_last."""
    return torch.empty(batch, height, width, 3, device="cuda").permute(0, 3, 1, 2)


def train_classifier(backbone: str, variant: str, precision: str) -> Callable[[], None]:
    batch, side = SIZES[backbone]
    model = classifier(backbone, variant).train()
    labels, weights = torch.zeros(batch, CLASSES, device="cuda"), torch.ones(batch, device="cuda")
    return _step(model, images(batch, side, side), lambda logits: image_losses(logits, labels, weights), precision)


def train_segmentation(backbone_name: str, precision: str) -> Callable[[], None]:
    model = segmentation_net(backbone_name).train()
    rows = torch.zeros(2, 320, 320, dtype=torch.int64, device="cuda")
    return _step(model, images(2, 320, 320), lambda logits: pixel_losses(logits, model.cells, rows, True), precision)


def train_boundary(backbone_name: str, precision: str) -> Callable[[], None]:
    with torch.device("cuda"):
        model = BoundaryNet(create(backbone_name, "none")[0]).train()
    labels = torch.zeros(2, 320, 320, dtype=torch.int64, device="cuda")
    return _step(model, images(2, 320, 320), lambda logits: affinity_losses(logits, labels, RADIUS), precision)


def _step(model: nn.Module, inputs: Tensor, losses: Callable[[Tensor], Tensor], precision: str) -> Callable[[], None]:
    """Forward, loss, backward and the optimizer's step."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr=0.1, momentum=0.9, weight_decay=1e-4, foreach=True)
    scaler = torch.amp.GradScaler("cuda", enabled=precision == "fp16")

    def step() -> None:
        with autocast(precision):
            outputs = model(inputs)
        scaler.scale(losses(outputs).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        for name, parameter in trained.items():
            _check_gradient(name, parameter)

    return step


def _check_gradient(name: str, parameter: Tensor) -> None:
    grad = parameter.grad
    if grad is None:
        raise AssertionError(f"{name} has no gradient")
    if (grad.dtype, grad.device) != (torch.float32, parameter.device):
        raise AssertionError(f"the gradient of {name} is {grad.dtype} on {grad.device}")


KINDS = {"train": train_classifier, "segmentation": train_segmentation, "boundary": train_boundary}
