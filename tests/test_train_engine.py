"""What the engine of a stage is told, and that the host does not wait for the device in its steps; one rank."""

import gc
import shutil
from types import SimpleNamespace

import pytest
import torch
from test_train_state import Tiny, steps
from torch import nn
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from pplfast.cluster.ranks import start_ranks
from pplfast.recipe import OptimConfig
from pplfast.train import engine as engines
from pplfast.train.engine import compile_network, start_engine
from pplfast.train.state import BUFFER, MOMENTUM, collect_state, restore_optimizer, restore_weights

GPU = torch.device("cuda")


class ReadValues(TorchDispatchMode):
    """Counts the tensors whose value the host asks for: each would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize("zero", (0, 1, 2))
@pytest.mark.parametrize("precision", ("fp32", "bf16"))
def test_the_host_does_not_wait_for_the_device_in_a_step(zero, precision, monkeypatch):
    from deepspeed.accelerator import get_accelerator

    gc.collect()  # an engine waits when it is collected
    waits = []
    monkeypatch.setattr(get_accelerator(), "synchronize", lambda *_: waits.append(1))
    engine = start_engine(Tiny(), OptimConfig(lr=1e-3, batch=2, precision=precision, zero=zero), start_ranks())
    assert not engine.tput_timer.config.enabled and not engine.wall_clock_breakdown()
    steps(engine, 3)  # DeepSpeed's timer sets in with the third
    with ReadValues() as values:
        steps(engine, 3)
    assert not waits and values.count == 0
    engine.destroy()


def test_fused_sgd_on_gpus_but_for_fp16():
    for device, precision, fused in (
        (GPU, "bf16", True),
        (GPU, "fp32", True),
        (GPU, "fp16", False),
        (torch.device("cpu"), "fp32", False),
    ):
        optimizer = engines._optimizer(Tiny(), OptimConfig(precision=precision), device)
        assert [group["fused"] for group in optimizer.param_groups] == [fused, fused]


@pytest.mark.slow
@pytest.mark.parametrize("zero", (0, 1, 2))
def test_fused_sgd_trains_as_plain_sgd_also_when_restored(zero, monkeypatch):
    """torch has the same fused update for CPUs."""
    ranks, optim = start_ranks(), OptimConfig(lr=1e-2, batch=2, precision="fp32", zero=zero)
    plain, results = engines._optimizer, []
    for device in (torch.device("cpu"), GPU):
        monkeypatch.setattr(engines, "_optimizer", lambda model, optim, _, device=device: plain(model, optim, device))
        torch.manual_seed(0)
        engine = start_engine(Tiny(), optim, ranks)
        steps(engine, 3)
        saved = collect_state(engine, ranks, momentum=True)
        engine.destroy()
        again = Tiny()
        restore_weights(again, saved, ranks)
        engine = start_engine(again, optim, ranks)
        restore_optimizer(engine, saved, ranks)
        steps(engine, 3)
        results.append(collect_state(engine, ranks, momentum=True).tensors)
        engine.destroy()
    assert results[0].keys() == results[1].keys() and any(name.startswith(MOMENTUM) for name in results[0])
    for name, tensor in results[0].items():
        torch.testing.assert_close(results[1][name], tensor, rtol=1e-5, atol=1e-7)


def test_restored_momentum_has_the_strides_of_its_parameter():
    """Fused SGD refuses others on a GPU. A stand-in for the engine: only its optimizer's state is written to."""
    ranks, model = start_ranks(), nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    engine = SimpleNamespace(
        module=model, optimizer=optimizer, zero_optimization=lambda: False, torch_autocast_z0_gradscaler=None
    )
    model(torch.randn(1, 3, 6, 6)).sum().backward()
    optimizer.step()
    saved = collect_state(engine, ranks, momentum=True)
    optimizer.state.clear()
    restore_optimizer(engine, saved, ranks)
    momentum = optimizer.state[model.weight][BUFFER]
    assert momentum.stride() == model.weight.stride() and torch.equal(momentum, saved.tensors[MOMENTUM + "weight"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*[Dd]istutils")
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler (g++) on the CPU")
@pytest.mark.parametrize("zero", (0, 2))
def test_a_compiled_network_trains_as_it_does_uncompiled(zero):
    """In one graph, DeepSpeed's hooks included, that is compiled once; under the same names."""
    ranks, optim, results = start_ranks(), OptimConfig(lr=1e-2, batch=2, precision="fp32", zero=zero), []
    for mode in ("", "default"):
        torch.manual_seed(0)
        model = Tiny()
        counters.clear()
        compile_network(model, mode)
        engine = start_engine(model, optim, ranks)
        steps(engine, 4)
        assert counters["stats"]["unique_graphs"] == (1 if mode else 0) and not counters["graph_break"]
        results.append(collect_state(engine, ranks, momentum=True).tensors)
        engine.destroy()
    assert results[0].keys() == results[1].keys()
    for name, tensor in results[0].items():
        torch.testing.assert_close(results[1][name], tensor, rtol=1e-4, atol=1e-6)
