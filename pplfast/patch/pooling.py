"""How a branch's features become the vector that is classified: one value per channel of an image."""

import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from pplfast.errors import UserError
from pplfast.extend import Registry
from pplfast.kernels import patch_pool
from pplfast.kernels.patch_merge import patch_merge_plain
from pplfast.models.backbone import Tail

Pooling = str | Callable[[Tensor], Tensor]  # a mode of kernels.patch_pool, or float32 (B, C, H, W) -> (B, C)


def _check(name: str, part: Any) -> Pooling:
    try:
        parameters = list(inspect.signature(part).parameters)
    except (TypeError, ValueError):
        parameters = []
    if isinstance(part, type) or parameters != ["features"]:
        raise UserError(f"pooling '{name}': must be a function `def name(features)`: float32 (B, C, H, W) -> (B, C)")
    return cast(Pooling, part)


POOLINGS: Registry[Pooling] = Registry("pooling", {name: name for name in ("mean", "max", "lse")}, _check)


def register_pooling(name: str, part: Callable[[Tensor], Tensor]) -> None:
    """Let `model.pooling` of recipes in this process call `part` by `name`.

    part: `def name(features)`, float32 (B, C, H, W), a branch's features behind the last activation with its patches
    merged, -> float32 (B, C); differentiable. Other processes, as the command line, know it as "package.module:name"
    alone. Raises UserError for a name that comes with pplfast and for a function of other parameters.
    """
    POOLINGS.register(name, part)


def check_pooling(name: str, pooling: Pooling) -> None:
    """Try an own pooling on a small map. Raises UserError where the result is not (B, C) with a gradient."""
    if isinstance(pooling, str):
        return
    with torch.enable_grad():
        features = torch.linspace(0, 1, 120).reshape(2, 5, 3, 4).requires_grad_()  # no random number is drawn for it
        try:
            pooled = pooling(features)
        except Exception as error:
            raise UserError(f"pooling '{name}': fails on features (2, 5, 3, 4): {error!r}") from error
    if not isinstance(pooled, Tensor) or pooled.shape != (2, 5) or not pooled.requires_grad:
        found = f"{tuple(pooled.shape)}" if isinstance(pooled, Tensor) else f"{type(pooled).__name__}"
        raise UserError(f"pooling '{name}': makes {found} of features (2, 5, 3, 4); must be (2, 5), with a gradient")


def pool(pooling: Pooling, patches: Tensor, grid: int, height: int, width: int, tail: Tail) -> Tensor:
    """patches (B*K*K, C, h, w) of a map of height x width cells, before `tail` -> float32 (B, C)."""
    if isinstance(pooling, str):
        pooled: Tensor = patch_pool(patches, grid, height, width, tail.scale, tail.shift, tail.act, pooling)[1]
        return pooled
    return pooling(tail(patch_merge_plain(patches, grid, height, width)).float())
