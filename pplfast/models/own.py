"""Whether an own backbone is what it says: its blocks are run once on a small image, before anything is trained."""

from typing import NoReturn

import torch
from torch import nn

from pplfast.errors import UserError
from pplfast.models.backbone import Backbone, BlockSpec

SIZE = (67, 101)  # odd, so that rounding shows


def check_blocks(backbone: Backbone) -> None:
    """Raises UserError where `specs`, `block_modules` and what the blocks do to an image disagree."""
    specs = getattr(backbone, "specs", ())
    names = [spec.name for spec in specs if isinstance(spec, BlockSpec)] if isinstance(specs, list | tuple) else []
    if len(names) < 2 or len(names) < len(specs) or len(set(names)) < len(names):
        _refuse(backbone, "specs must be two or more BlockSpec of different names")
    owned = {id(parameter) for index in range(len(specs)) for parameter in _parameters(backbone, index)}
    stray = [name for name, parameter in backbone.named_parameters() if id(parameter) not in owned]
    if stray:
        _refuse(backbone, f"its parameter {stray[0]} is in no block's block_modules")
    if not owned:
        _refuse(backbone, "it has no parameters, so nothing can be trained")
    _run(backbone)


def _parameters(backbone: Backbone, index: int) -> list[nn.Parameter]:
    try:
        return [parameter for module in backbone.block_modules(index) for parameter in module.parameters()]
    except Exception as error:
        _refuse(backbone, f"block_modules({index}) must be a list of modules, and fails: {error!r}")


@torch.no_grad()
def _run(backbone: Backbone) -> None:
    training = backbone.training
    backbone.eval()
    x = torch.zeros(1, 3, *SIZE, device=next(backbone.parameters()).device)
    for index, spec in enumerate(backbone.specs):
        expected = (1, spec.channels, *(-(-side // spec.stride) for side in x.shape[2:]))
        try:
            y = backbone.run(x, index, index + 1)
            made = tuple(y.shape)
        except Exception as error:
            _refuse(backbone, f"block {spec.name} fails on {tuple(x.shape)}: {error!r}")
        if made != expected:
            _refuse(
                backbone,
                f"block {spec.name} makes {made} of {tuple(x.shape)}, and its spec of {spec.channels} "
                f"channels at stride {spec.stride} says {expected}",
            )
        x = y
    backbone.train(training)


def _refuse(backbone: Backbone, reason: str) -> NoReturn:
    raise UserError(f"backbone '{backbone.name}': {reason}; mend {type(backbone).__name__}")
