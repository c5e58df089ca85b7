"""The loss of each image: the multi-label soft margin loss, or an own one."""

import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from pplfast.errors import UserError
from pplfast.extend import Registry

Loss = Callable[[Tensor, Tensor], Tensor]  # logits float32 (B, C), labels (B, C) of 0 and 1 -> losses (B,)


def soft_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over classes of the binary cross-entropy."""
    return F.multilabel_soft_margin_loss(logits, labels, reduction="none")


def _check(name: str, part: Any) -> Loss:
    try:
        parameters = list(inspect.signature(part).parameters)
    except (TypeError, ValueError):
        parameters = []
    if isinstance(part, type) or parameters != ["logits", "labels"]:
        raise UserError(f"loss '{name}': must be a function `def name(logits, labels)`: float32 (B, C) twice -> (B,)")
    return cast(Loss, part)


LOSSES: Registry[Loss] = Registry("loss", {"soft_margin": soft_margin}, _check)


def register_loss(name: str, part: Loss) -> None:
    """Let `loss` of recipes in this process call `part` by `name`.

    part: `def name(logits, labels)`, logits float32 (B, C), labels float32 (B, C) of 0 and 1 -> the loss of each
    image, float32 (B,): no mean over the batch, whose images may lie on several ranks. Other processes, as the command
    line, know it as "package.module:name" alone. Raises UserError for a name that comes with pplfast and for a
    function of other parameters.
    """
    LOSSES.register(name, part)


def check_loss(name: str, loss: Loss, classes: int) -> None:
    """Try it on two images. Raises UserError where the result is not one finite value per image, with a gradient."""
    logits = torch.zeros(2, classes, requires_grad=True)
    labels = torch.stack((torch.ones(classes), torch.zeros(classes)))
    with torch.enable_grad():
        try:
            losses = loss(logits, labels)
        except Exception as error:
            raise UserError(f"loss '{name}': fails on logits and labels (2, {classes}): {error!r}") from error
    if isinstance(losses, Tensor) and losses.shape == (2,) and not losses.isfinite().all():
        raise UserError(
            f"loss '{name}': is {losses.tolist()} for logits of 0, of an image with all classes and one with none; "
            "must be finite"
        )
    if not isinstance(losses, Tensor) or losses.shape != (2,) or not losses.requires_grad:
        found = f"{tuple(losses.shape)}" if isinstance(losses, Tensor) else f"{type(losses).__name__}"
        raise UserError(
            f"loss '{name}': makes {found} of 2 images; must be (2,), the loss of each image (reduction='none', then "
            "the mean over classes), with a gradient"
        )


def image_losses(logits: Tensor, labels: Tensor, weights: Tensor, loss: Loss = soft_margin) -> Tensor:
    """logits float32 (B, C), labels (B, C) of 0 and 1, weights (B,) of 0 and 1 -> weighted losses float32 (B,).

    Weight 0 marks an image that is only there because a batch cannot be empty.
    """
    return weights * loss(logits, labels)
