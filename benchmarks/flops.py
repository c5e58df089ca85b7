"""Operations of a training step: the method's, counted on the meta device, and those that a call runs."""

from collections.abc import Callable, Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from pplfast.benchmarks.models import Case
from pplfast.benchmarks.reference import ReferenceClassifier, create_backbone
from pplfast.flops import BACKWARD


def step_flops(case: Case, batch: int, size: int, frozen: int) -> int:
    """Multiplications and additions of the convolutions and products in one forward and backward pass.

    Model operations: those of the method itself, the same for every implementation; recomputation would not count.
    """
    with torch.device("meta"):
        backbone = create_backbone(case.backbone, case.output_stride)
        cuts = [(_position(backbone.names, name), grid) for name, grid in case.cuts]
        model = ReferenceClassifier(backbone, case.classes, cuts, case.explicit)
        model.freeze(frozen)
        images = torch.empty(batch, 3, size, size)
        with FlopCounterMode(display=False, custom_mapping=BACKWARD) as counter:
            model(images).sum().backward()
    return int(counter.get_total_flops())


def dense_flops(step: Callable[[], object]) -> int:
    """Of the dense convolutions and products that a call runs, those that pplfast saves left out. Depthwise
    convolutions run in an operation of their own and are not among them.
    """
    with FlopCounterMode(display=False, custom_mapping=BACKWARD) as counter:
        step()
    return int(counter.get_total_flops())


def _position(names: Sequence[str], name: str) -> int:
    """Index of the block, or of the last block of the group of that name."""
    return max(i for i, block in enumerate(names) if block == name or block.startswith(f"{name}."))
