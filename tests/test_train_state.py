"""What an engine's state becomes in a checkpoint and is again afterwards, and fp16's loss scale; a tiny network, one
rank. Several ranks: test_train_runs.py and multinode.py."""

import pytest
import torch
from restored_state import restore_and_compare
from torch import nn

from pplfast.cluster.ranks import start_ranks
from pplfast.recipe import OptimConfig
from pplfast.train.engine import start_engine
from pplfast.train.state import (
    MOMENTUM,
    collect_state,
    loss_scaler,
    lower_loss_scale,
    restore_weights,
)

pytestmark = pytest.mark.slow


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5).eval(), nn.ReLU(), nn.Conv2d(5, 7, 1))
        self.head = nn.Linear(7, 2)
        self.backbone[0].requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(images).mean((2, 3)).float())


def steps(engine, count: int, scale: float = 1.0) -> None:
    for seed in range(count):
        images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) * scale
        engine.backward(engine(images).square().sum())
        engine.step()
        lower_loss_scale(engine)


@pytest.mark.parametrize("zero", (0, 1, 2))
@pytest.mark.parametrize("precision", ("fp32", "bf16", "fp16"))
def test_a_restored_engine_goes_on_as_the_saved_one(zero, precision):
    ranks = start_ranks()
    optim = OptimConfig(lr=1e-3, batch=2, precision=precision, zero=zero)
    torch.manual_seed(0)
    model = Tiny()
    engine = start_engine(model, optim, ranks)
    frozen = model.backbone[0].weight.detach().clone()
    steps(engine, 3)
    saved = collect_state(engine, ranks, momentum=True)  # a copy: the next steps do not reach it
    assert sum(name.startswith(MOMENTUM) for name in saved.tensors) == 6
    steps(engine, 2)
    expected = collect_state(engine, ranks, momentum=True)
    engine.destroy()
    assert torch.equal(model.backbone[0].weight, frozen)

    torch.manual_seed(1)
    again = Tiny()
    restore_weights(again, saved, ranks)
    engine = start_engine(again, optim, ranks)
    found = restore_and_compare(engine, saved, ranks)
    assert found["identical"] == found["tensors"] == len(saved.tensors) and found["same_names"]
    assert collect_state(engine, ranks, momentum=True).loss_scale == saved.loss_scale
    assert bool(saved.loss_scale) == (precision == "fp16")
    steps(engine, 2)
    state = collect_state(engine, ranks, momentum=True)
    engine.destroy()
    assert all(torch.equal(state.tensors[name], tensor) for name, tensor in expected.tensors.items())
    assert state.loss_scale == expected.loss_scale


@pytest.mark.parametrize("zero", (0, 1, 2))
def test_an_overflow_halves_the_loss_scale_and_changes_no_weight(zero):
    ranks = start_ranks()
    model = Tiny()
    engine = start_engine(model, OptimConfig(lr=1e-3, batch=2, precision="fp16", zero=zero), ranks)
    steps(engine, 1)
    before, scale = model.head.weight.detach().clone(), loss_scaler(engine).get_scale()
    steps(engine, 2, scale=1e4)
    assert loss_scaler(engine).get_scale() == scale / 4 and torch.equal(model.head.weight, before)
    steps(engine, 1)
    assert loss_scaler(engine).get_scale() == scale / 4 and not torch.equal(model.head.weight, before)
    engine.destroy()


@pytest.mark.parametrize("precision", ("fp32", "bf16"))
@pytest.mark.parametrize("reduction, dtype", (("fp32", torch.float32), ("bf16", torch.bfloat16)))
@pytest.mark.parametrize("zero", (0, 2))
def test_gradients_travel_in_the_type_asked_for(zero, precision, reduction, dtype):
    optim = OptimConfig(lr=1e-3, batch=2, precision=precision, zero=zero, reduction=reduction)
    engine = start_engine(Tiny(), optim, start_ranks())
    travelling = set(engine.optimizer.ipg_buckets) if zero else {engine.communication_data_type}
    assert travelling == {dtype}
    if zero:
        assert engine.optimizer.overlap_comm and engine.optimizer.reduce_bucket_size == 8_000_000
    steps(engine, 1)
    engine.destroy()
