"""torch.compile takes every network whole, in one graph, and computes the same."""

import pytest
import torch
from models_reference import TINY

from pplfast.patch.branches import Cut
from pplfast.patch.classifier import PatchClassifier

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", TINY)
def test_one_graph_with_the_same_loss_and_gradients(name, monkeypatch, one_thread):
    make, cut = TINY[name]
    backbone = make(monkeypatch)
    backbone.freeze(2)
    model = PatchClassifier(backbone, 3, "ppl").train()
    model.set_cuts([Cut(backbone.position(cut) + 1, 2)])
    for module in model.modules():
        if hasattr(module, "dropout"):
            module.dropout = 0.0
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    images = torch.randn(2, 3, 32, 48).contiguous(memory_format=torch.channels_last)
    results = []
    for run in (model, torch.compile(model, backend="eager", fullgraph=True, dynamic=False)):
        with torch.autocast("cpu", torch.bfloat16):
            logits = run(images)
        results.append((logits.detach(), *torch.autograd.grad(logits.square().sum(), trained)))
    torch.compiler.reset()
    for eager, compiled in zip(*results, strict=True):
        assert (eager - compiled).norm() <= 0.05 * eager.norm() + 1e-6  # bf16, rounded at other places
