"""Values that no training can have left: in a trained network's file, and in a checkpoint."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pplfast.cluster.ranks import Ranks
from pplfast.errors import UserError
from pplfast.train.model_file import load_state
from pplfast.train.state import MODEL, MOMENTUM, TrainState, restore_optimizer, restore_weights

ALONE = Ranks(0, 1, 1, torch.device("cpu"))
BAD = ((float("nan"), "NaN"), (float("inf"), "infinity"), (6e30, "values as large as 6e\\+30"))


@pytest.mark.parametrize("value, text", BAD)
def test_a_trained_network_of_absurd_weights_is_not_loaded(value, text, tmp_path):
    model, path = nn.Linear(2, 3), tmp_path / "classifier.safetensors"
    before = model.weight.detach().clone()
    save_file({"weight": torch.full((3, 2), value), "bias": torch.zeros(3)}, path)
    with pytest.raises(UserError, match=f"classifier.safetensors: weight holds {text}; the file is damaged, or the"):
        load_state(model, path)
    assert torch.equal(model.weight, before)
    save_file({"weight": torch.ones(3, 2, dtype=torch.int32), "bias": torch.zeros(3)}, path)
    with pytest.raises(UserError, match=r"weight is of torch.int32, not of plain torch.float32"):
        load_state(model, path)


@pytest.mark.parametrize("value, text", BAD)
def test_a_checkpoint_of_absurd_weights_is_not_continued(value, text):
    tensors = {f"{MODEL}weight": torch.full((3, 2), value), f"{MODEL}bias": torch.zeros(3)}
    with pytest.raises(UserError, match=f"checkpoint: weight holds {text}; the training diverged"):
        restore_weights(nn.Linear(2, 3), TrainState(tensors), ALONE)


@pytest.mark.parametrize(
    "momentum",
    (
        {"weight": torch.ones(3, 2)},
        {"weight": torch.ones(3, 2), "bias": torch.ones(4)},
        {"weight": torch.ones(3, 2), "bias": torch.full((3,), float("nan"))},
    ),
)
def test_a_momentum_that_does_not_fit_is_not_continued(momentum):
    engine = SimpleNamespace(module=nn.Linear(2, 3))
    state = TrainState({MOMENTUM + name: tensor for name, tensor in momentum.items()})
    with pytest.raises(UserError, match="checkpoint: holds no momentum for bias that can be"):
        restore_optimizer(engine, state, ALONE)
