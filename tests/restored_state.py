"""Is a restored engine what the checkpoint says, bit by bit?"""

from typing import Any

import torch

from pplfast.cluster.ranks import Ranks
from pplfast.train import state


def restore_and_compare(engine: Any, saved: state.TrainState, ranks: Ranks) -> dict[str, Any]:
    """Instead of state.restore_optimizer: restores, collects again, counts the identical tensors (rank 0)."""
    state.restore_optimizer(engine, saved, ranks)
    again = state.collect_state(engine, ranks, momentum=True)
    same = [
        name
        for name, tensor in saved.tensors.items()
        if torch.equal(tensor.flatten().view(torch.uint8), again.tensors[name].flatten().view(torch.uint8))
    ]
    return {
        "world": ranks.world,
        "zero": engine.zero_optimization_stage(),
        "tensors": len(saved.tensors),
        "momentum": sum(name.startswith(state.MOMENTUM) for name in saved.tensors),
        "identical": len(same),
        "same_names": again.tensors.keys() == saved.tensors.keys(),
    }
