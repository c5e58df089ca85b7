"""What PyTorch expects of the operators, which backend runs, and outputs that are written whole."""

import os
import subprocess
import sys

import pytest
import torch
from kernel_helpers import BACKENDS, needs_interpreter

from pplfast import kernels
from pplfast.benchmarks import kernel_cost as model
from pplfast.kernels import backend
from pplfast.kernels.patch_merge import patch_merge

SCALE, SHIFT = torch.tensor([0.5, -1.5, 2.0]), torch.tensor([0.1, 0.2, -0.3])


def operators():
    """(operator, arguments) of each, on inputs that grids do not divide."""
    x = torch.randn(1, 3, 5, 4, requires_grad=True)
    patches = torch.randn(4, 3, 4, 2, requires_grad=True)
    tail = (SCALE, SHIFT, "relu")
    return {
        "patch_split": (x, 2, 2),
        "patch_split_act": (x, 2, 2, *tail),
        "patch_split_act_backward": (patches.detach(), patches.detach(), x.detach(), 2, *tail),
        "patch_merge": (patches.detach(), 2, 5, 4),
        "patch_pool": (patches, 2, 5, 4, *tail, "max", 1.0),
        "patch_pool_backward": (torch.randn(1, 4, 3), None, patches.detach(), torch.randn(1, 4, 3), torch.randn(1, 3),
                                torch.zeros(1, 5, 3, dtype=torch.int32), 2, 5, 4, *tail, "max", 1.0),
        "cam_head": ([patches.detach(), x.detach()], [2, 1], torch.randn(4, 6), 5, 4, *tail, torch.tensor([[1, -1]])),
        "cam_fuse": ([torch.rand(2, 3, 4, 4), torch.rand(2, 3, 2, 5)], [0.0, 0.6, -0.2, 0.5] * 2, 6, 7, True, True),
        "random_walk": (torch.rand(1, 2, 5, 6), torch.rand(1, 5, 6), 2, 10.0, 3),
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", list(operators()))
def test_opcheck(name):
    torch.library.opcheck(getattr(torch.ops.pplfast, name).default, operators()[name])


def step(x: torch.Tensor) -> torch.Tensor:
    raw, activated = kernels.patch_split_act(x, 2, 1, SCALE, SHIFT, "relu")
    z, y = kernels.add_scale_act(raw, activated, SCALE, SHIFT, "relu6")
    return kernels.patch_pool(y, 2, 5, 4, act="relu")[1].sum() + kernels.patch_pool(z, 2, 5, 4)[0].square().sum()


def test_compiles_without_graph_breaks():
    x = torch.randn(2, 3, 5, 4)
    results = []
    for function in (step, torch.compile(step, backend="aot_eager", fullgraph=True)):
        leaf = x.clone().requires_grad_()
        value = function(leaf)
        value.backward()
        results.append((value.detach(), leaf.grad))
    torch.testing.assert_close(*results)


@needs_interpreter
@pytest.mark.parametrize("choice", BACKENDS)
@pytest.mark.parametrize("name", list(operators()))
def test_outputs_are_written_whole(name, choice):
    """Fresh memory is NaN: what a kernel leaves unwritten shows."""
    torch.use_deterministic_algorithms(True)  # with fill_uninitialized_memory, on by default
    try:
        with backend.force(choice), torch.no_grad():
            arguments = operators()[name]
            outputs = getattr(torch.ops.pplfast, name)(*arguments)
            assert torch.empty(3).isnan().all()
    finally:
        torch.use_deterministic_algorithms(False)
    outputs = arguments[0] if outputs is None else outputs
    for output in [outputs] if isinstance(outputs, torch.Tensor) else outputs:
        assert torch.isfinite(output).all()


def test_outputs_are_channels_last():
    x = torch.randn(2, 3, 5, 4)
    patches = kernels.patch_split(x, 2, 1)
    assert patches.is_contiguous(memory_format=torch.channels_last)
    assert patch_merge(patches, 2, 5, 4).is_contiguous(memory_format=torch.channels_last)


def test_backend_is_automatic_and_can_be_forced():
    x = torch.zeros(1)
    assert not backend.use_triton(x)
    assert {row[1] for row in backend.describe()} == {"triton" if torch.cuda.is_available() else "plain"}
    with backend.force("plain"):
        assert backend.describe()[0][1:] == ("plain", "forced")
        with pytest.raises(ValueError, match="known: plain, triton"), backend.force("cuda"):
            pass
    with backend.force("triton"), pytest.raises(RuntimeError, match="does not take torch.float64"):
        backend.use_triton(x.double())
    assert not backend.use_triton(x)


@pytest.mark.slow
@pytest.mark.parametrize("value, code, text", [("plain", 0, "forced"), ("cuda", 1, "must be plain or triton")])
def test_environment_forces_a_backend(value, code, text):
    program = "from pplfast.kernels import backend; print(backend.describe()[0])"
    run = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PPLFAST_KERNELS": value},
                         capture_output=True, text=True)  # fmt: skip
    assert run.returncode == code and text in run.stdout + run.stderr


def test_model_counts_what_the_tensors_hold():
    x = torch.zeros(2, 16, 11, 9, dtype=torch.bfloat16)
    cut = kernels.PatchGrid(11, 9, 3, 2)
    raw, activated = kernels.patch_split_act(x, 3, 2, None, None, "relu")
    cost = model.patch_split_act(2, 16, cut, 2)
    assert (cost.read, cost.written) == (x.nbytes, raw.nbytes + activated.nbytes)
    assert model.patch_split(2, 16, cut, 2).bytes == x.nbytes + raw.nbytes
    even = kernels.PatchGrid(12, 12, 3)
    per_patch, pooled = kernels.patch_pool(torch.zeros(18, 16, 4, 4), 3, 12, 12)
    cost = model.patch_pool(2, 16, even, 4)
    assert (cost.read, cost.written) == (2 * 16 * 144 * 4, per_patch.nbytes + pooled.nbytes)
    y = kernels.scale_act(x, None, None, "relu")
    assert model.scale_act(x.numel(), 2, residual=True, keep_sum=True).bytes == 2 * x.nbytes + 2 * y.nbytes
    head = model.cam_head(1, 4096, 56, 56, 1, 20, 2)
    assert head.seconds(model.H100.bandwidth, model.H100.matrix_rate) == head.bytes / 3.35e12  # memory-bound
    fuse = model.cam_fuse(1, 2, 8, 8, [(2, 2), (4, 4)], True)
    assert (fuse + fuse).bytes == 2 * 4 * (2 * 2 * 20 + 3 * 2 * 64)
