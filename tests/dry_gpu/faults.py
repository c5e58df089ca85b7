"""Defects put back on purpose, each at the operator that it came through: the run has to find it.

A fault looks at an operator and its arguments, with no watch on, and gives the arguments to go on with.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from unittest.mock import patch

import torch
from watch import Watch

from pplfast.models.backbone import Backbone

FORWARD = {"aten::convolution", "aten::conv2d"}
COUNTING = {"aten::scatter_add_", "aten::scatter_add", "aten::index_add_", "aten::index_add"}


@dataclass(frozen=True)
class Fault:
    case: str  # where it has to show
    operators: set[str]
    change: Callable[[Watch, tuple], tuple]
    setup: Callable[[], AbstractContextManager] = nullcontext  # around building the network


def _float_operand(watch: Watch, args: tuple) -> tuple:
    """Of a depthwise convolution in half precision, the bias (or the weight, if there is none) is float32 again."""
    x, weight, bias, *rest = args
    if rest[-1] == 1 or x.dtype == torch.float32:
        return args
    return (x, weight, bias.float(), *rest) if bias is not None else (x, weight.float(), bias, *rest)


def _counted_by_bincount(watch: Watch, args: tuple) -> tuple:
    with watch:
        torch.bincount(args[2].flatten(), minlength=args[0].numel())
    return args


def _nchw(watch: Watch, args: tuple) -> tuple:
    return (args[0].contiguous(), *args[1:])


def _copied(watch: Watch, args: tuple) -> tuple:
    with watch:
        args[0].cpu()
    return args


def _read(watch: Watch, args: tuple) -> tuple:
    with watch:
        args[0].sum().item()
    return args


def _mixed(watch: Watch, args: tuple) -> tuple:
    return (args[0], args[1].cpu(), *args[2:])


def _kept(watch: Watch, args: tuple) -> tuple:
    with watch:
        watch.kept = [*getattr(watch, "kept", []), args[0].clone()]
    return args


def _unchanged(watch: Watch, args: tuple) -> tuple:
    return args


def _a_block_without_gradient() -> AbstractContextManager:
    """One block more than the frozen ones runs under no_grad."""
    freeze = Backbone.freeze

    def too_far(backbone: Backbone, count: int) -> None:
        freeze(backbone, count)
        backbone.frozen += 1

    return patch.object(Backbone, "freeze", too_far)


CASE = "train/resnet50/plain/bf16"
FAULTS = {
    "D1": Fault("train/efficientnet_lite0/ppl/bf16", FORWARD, _float_operand),
    "D12": Fault("boundary/resnet50/bf16", COUNTING, _counted_by_bincount),
    "nchw": Fault(CASE, FORWARD, _nchw),
    "copy": Fault(CASE, FORWARD, _copied),
    "item": Fault(CASE, FORWARD, _read),
    "mix": Fault(CASE, FORWARD, _mixed),
    "gradient": Fault(CASE, set(), _unchanged, _a_block_without_gradient),
    "memory": Fault(CASE, FORWARD, _kept),
}
