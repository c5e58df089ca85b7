"""The same classifier three times: pplfast's, the reference, and the reference tuned by the usual switches."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pplfast import cpu
from pplfast.benchmarks.reference import ReferenceClassifier, create_backbone, load_published
from pplfast.models.registry import create
from pplfast.patch.branches import Cut
from pplfast.patch.classifier import PatchClassifier
from pplfast.precision import cpu_has_bf16

SEED = 0


@dataclass(frozen=True)
class Case:
    """A classifier: the cuts are (name of the block after which the patches are cut, grid)."""

    backbone: str
    classes: int
    cuts: tuple[tuple[str, int], ...]
    explicit: bool = False
    output_stride: int = 16
    weights: str = "none"  # as in recipes

    @property
    def variant(self) -> str:
        return "explicit" if self.explicit else "ppl" if self.cuts else "plain"


def make_pplfast(case: Case, device: str = "cpu") -> PatchClassifier:
    """The same weights each time; the classifier's are random."""
    torch.manual_seed(SEED)
    backbone, _ = create(case.backbone, case.weights, case.output_stride)
    model = PatchClassifier(backbone, case.classes, case.variant, branches=max(len(case.cuts), 1))
    model.set_cuts([Cut(backbone.position(name) + 1, grid) for name, grid in case.cuts])
    cpu.install(model, torch.device(device))
    return model.to(device)


def compile_pplfast(case: Case, device: str, mode: str) -> PatchClassifier:
    """As `pplfast train --compile mode` does."""
    model = make_pplfast(case, device)
    model.compile(mode=mode, dynamic=False)
    return model


def make_reference(case: Case, source: PatchClassifier, device: str = "cpu") -> ReferenceClassifier:
    """The reference with the weights of `source`."""
    backbone = create_backbone(case.backbone, case.output_stride)
    load_published(backbone, source.backbone.state_dict())
    # Blocks are found by their number: both lists have the same blocks.
    cuts = [(source.backbone.position(name), grid) for name, grid in case.cuts]
    model = ReferenceClassifier(backbone, case.classes, cuts, case.explicit)
    model.classifier.load_state_dict(source.classifier.state_dict())
    return model.to(device)


def let_classes_respond(model: PatchClassifier, images: Tensor, classes: Tensor) -> None:
    """Shift a random classifier, for inference, until the classes of each image respond to it as a trained one's do.

    images (B, 3, H, W), classes int64 (B, n): their mean logits become one standard deviation of all mean logits, by
    the smallest change of the weights. A random classifier leaves some classes a map that is zero almost everywhere,
    and normalising it by its own maximum magnifies all rounding: with convolutions rounded to bf16, CAMs of a ResNet-50
    differed by 0.05 there, by 0.01 elsewhere.
    """
    model.backbone.requires_grad_(False)
    weight = model.classifier.weight
    logits = model(images)
    # The logits are linear in the weights: the gradient is what is pooled.
    pooled = torch.stack([torch.autograd.grad(row[0], weight, retain_graph=True)[0][0].flatten() for row in logits])
    with torch.no_grad():
        missing = logits.std() - logits
        for number in classes.unique().tolist():
            rows = (classes == number).any(dim=1)
            change = torch.linalg.pinv(pooled[rows].double()) @ missing[rows, number].double()
            weight[number] += change.to(weight.dtype).view(weight[number].shape)


def compiler_missing() -> str | None:
    """Why torch.compile cannot work here, or None."""
    if torch.cuda.is_available() or any(map(shutil.which, ("c++", "g++", "clang++"))):
        return None
    return "torch.compile needs a C++ compiler on the CPU, and there is none"


def tune(model: ReferenceClassifier, compiled: bool) -> ReferenceClassifier:
    """channels_last and torch.compile, in place; bf16 comes from `autocast` around the calls."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs leave it out
    if compiled:
        model.forward = torch.compile(model.forward)  # type: ignore[method-assign]  # this object's alone
        model.maps = torch.compile(model.maps)  # type: ignore[method-assign]
    return model


def has_bf16(device: str) -> bool:
    """Whether bf16 can be measured there: a CPU without the instructions emulates it, hundreds of times slower."""
    return device != "cpu" or cpu_has_bf16()


def autocast(device: str, bf16: bool) -> torch.autocast:
    return torch.autocast(device, torch.bfloat16, enabled=bf16)


def no_dropout(model: nn.Module) -> None:
    """So that two models compute the same in training mode."""
    for module in model.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0  # type: ignore[assignment]  # to torch an attribute is a tensor or a module


def freeze(model: PatchClassifier | ReferenceClassifier, count: int) -> None:
    """No training of the first `count` blocks nor of any BN."""
    (model if isinstance(model, ReferenceClassifier) else model.backbone).freeze(count)


def training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, bf16: bool
) -> Callable[[], Tensor]:
    """Forward, loss, backward, SGD step: returns the loss, detached."""
    device = images.device.type

    def step() -> Tensor:
        with autocast(device, bf16):
            logits = model(images)
        loss = nn.functional.multilabel_soft_margin_loss(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def sgd(model: nn.Module, fused: bool = False) -> torch.optim.Optimizer:
    """By default with torch's own choice of implementation."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.SGD(trained, lr=1e-4, momentum=0.9, weight_decay=5e-4, fused=fused or None)
