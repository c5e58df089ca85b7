"""The fast path of patch learning against its plain definition, in float64."""

import pytest
import torch
import torch.nn.functional as F
from patch_backbones import TinyBackbone

from pplfast.kernels import native
from pplfast.models import efficientnet
from pplfast.models.registry import create
from pplfast.patch import definition
from pplfast.patch.borders import SharedPatches
from pplfast.patch.branches import PatchStage, remaining_stride, run_branches
from pplfast.patch.classifier import PatchClassifier

FAMILIES = ("effnet", "resnet", "preact")
SIZE = (37, 51)  # odd: no K divides any map of it


def make_model(family: str, mode: str, branches: int = 1, dropout: float = 0.0, *layout: tuple) -> PatchClassifier:
    torch.manual_seed(0)
    backbone = TinyBackbone(family, *layout)
    model = PatchClassifier(backbone, classes=3, mode=mode, dropout=dropout, branches=branches).double()
    torch.nn.init.normal_(model.classifier.weight)
    return model


def make_batch(size: tuple[int, int] = SIZE) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, 3, *size, dtype=torch.float64), torch.randint(0, 2, (2, 3)).double()


def loss_and_gradients(model, logits, labels):
    loss = F.multilabel_soft_margin_loss(logits, labels)
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return loss, dict(zip(names, gradients, strict=True))


def assert_equals_definition(model, size=SIZE):
    images, labels = make_batch(size)
    torch.manual_seed(2)
    loss, gradients = loss_and_gradients(model, model(images), labels)
    torch.manual_seed(2)
    expected_loss, expected = loss_and_gradients(model, definition.logits(model, images), labels)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-12, atol=0)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert (gradient is None) == (expected[name] is None), name
        if gradient is not None:
            torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12,
                                       msg=lambda text, name=name: f"{name}: {text}")
    expected_maps = definition.maps(model, images).detach()
    torch.testing.assert_close(model.maps(images).double(), expected_maps, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("grid", (1, 2, 3, 4))
@pytest.mark.parametrize("position", (1, 2, 3, 4))
@pytest.mark.parametrize("family", FAMILIES)
def test_progressive_equals_definition(family, position, grid):
    model = make_model(family, "progressive")
    model.set_stage([PatchStage(position, grid)])
    assert_equals_definition(model)


@pytest.mark.parametrize("grid, size", ((2, (128, 160)), (3, (144, 192)), (4, (256, 128))))
@pytest.mark.parametrize("position", (1, 2, 3))
@pytest.mark.parametrize("family", FAMILIES)
def test_shared_cells_equal_definition(family, position, grid, size, monkeypatch):
    """Sizes that K divides: as long as it pays, only strips along the cuts are computed."""
    assert_shares(family, position, grid, size, monkeypatch)


@pytest.mark.parametrize("grid, size", ((2, (200, 248)), (2, (200, 256)), (3, (592, 600)), (4, (856, 440))))
@pytest.mark.parametrize("family", FAMILIES)
def test_shared_cells_beside_padding_equal_definition(family, grid, size, monkeypatch):
    """Sizes that K does not divide, and no stride to come: strips along the padding too."""
    assert_shares(family, 3, grid, size, monkeypatch, ((4, 2), (4, 2), (6, 2), (6, 1), (5, 1)))


def assert_shares(family, position, grid, size, monkeypatch, *layout):
    taken = []
    step = SharedPatches.step
    monkeypatch.setattr(SharedPatches, "step", lambda *args: taken.append(step(*args)) or taken[-1])
    model = make_model(family, "progressive", 1, 0.0, *layout)
    model.set_stage([PatchStage(position, grid)])
    assert_equals_definition(model, size)
    assert taken[0], "nothing was shared"


def test_sharing_sends_no_gradient_below_a_detached_cut():
    """It may share with frozen blocks below the cut, and with others not."""
    for frozen in (True, False):
        model = make_model("effnet", "explicit", branches=2)
        model.set_stage([PatchStage(1, 2), PatchStage(3, 2)])
        model.backbone.blocks[0].requires_grad_(not frozen)
        assert_equals_definition(model, (128, 128))


@pytest.mark.parametrize("name, position, size, blocks", (
    ("efficientnet_lite0", "group1", (64, 96), 7), ("efficientnet_lite0", "group4", (24, 28), 4),
    ("resnet50", "layer2", (32, 48), 2), ("wrn38", "b4_5", (32, 28), 2),
    ("resnet50", "layer3", (35, 47), 3), ("wrn38", "b4_5", (41, 30), 2)))
def test_reach_and_stride_of_real_backbones(name, position, size, blocks, monkeypatch):
    """Of the blocks behind the cut, on a random map in place of the blocks before it."""
    backbone, _ = create(name, weights="none")
    first = backbone.position(position) + 1
    x = torch.randn(1, backbone.specs[first - 1].channels, *size)
    run, specs = backbone.run, backbone.specs
    backbone.specs = specs[:first + blocks]
    monkeypatch.setattr(backbone, "run", lambda y, a, b, **more: x if a == 0 else run(y, a, b, **more))
    with torch.no_grad():
        [(patches, _)], whole = run_branches(backbone, x, [PatchStage(first, 2)], detach=False)
        stride = remaining_stride(backbone, first)
        expected = run(definition.split(x, 2, stride), first, first + blocks)
        torch.testing.assert_close(whole, run(x, first, first + blocks), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(patches, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(native.library().functions is None, reason=native.library().reason)
@pytest.mark.parametrize("mode, stages", (
    ("progressive", [(2, 2)]), ("progressive", [(5, 3)]), ("explicit", [(2, 2), (4, 2), (6, 3)])))
def test_maps_trained_as_rows_equal_maps_one_by_one(mode, stages, monkeypatch):
    """The small maps of all branches together, in float32: logits and every gradient; without gradients, never."""
    torch.manual_seed(0)
    backbone, _ = create("efficientnet_lite0", "none", 32)
    backbone.freeze(2)
    model = PatchClassifier(backbone, 3, mode, branches=len(stages))
    model.set_stage([PatchStage(*stage) for stage in stages])
    images = torch.randn(2, 3, 200, 256).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 2, (2, 3)).float()
    taken, run_rows = [], backbone._run_rows
    monkeypatch.setattr(backbone, "_run_rows", lambda *args: taken.append(args[1:]) or run_rows(*args))
    logits = model(images)
    _, gradients = loss_and_gradients(model, logits, labels)
    calls = list(taken)
    assert calls[-1][1] == len(backbone.specs), "the last blocks were not run as rows"
    with torch.no_grad():
        model(images)
    monkeypatch.setattr(efficientnet, "LARGEST_AS_ROWS", 0)
    expected_logits = model(images)
    _, expected = loss_and_gradients(model, expected_logits, labels)
    assert taken == calls
    torch.testing.assert_close(logits, expected_logits, rtol=1e-4, atol=1e-4)
    for name, gradient in gradients.items():
        error = float((gradient - expected[name]).norm() / expected[name].norm())
        assert error <= 1e-2, f"{name}: {error}"  # rounding turns some cells at the kink of a ReLU6


def test_dropped_channels_are_not_shared():
    backbone, _ = create("wrn38", weights="none")
    reaches = [unit.reach for name in ("b5", "b5_2", "b6") for unit in backbone.train().units(backbone.position(name))]
    assert reaches == [3, 4, None]
    assert backbone.eval().units(backbone.position("b6"))[0].reach == 4


@pytest.mark.parametrize("stages", (
    [(1, 2), (3, 2), (4, 2)],  # all batched
    [(2, 3), (3, 3)],
    [(3, 4), (1, 2), (2, 4)],  # out of order, two grids
    [(2, 2), (2, 3)],  # one position twice
))
@pytest.mark.parametrize("family", FAMILIES)
def test_explicit_equals_definition(family, stages):
    model = make_model(family, "explicit", branches=len(stages))
    model.set_stage([PatchStage(*stage) for stage in stages])
    assert_equals_definition(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_patches_equals_definition(family):
    assert_equals_definition(make_model(family, "plain"))
    assert_equals_definition(make_model(family, "progressive"))


def test_dropout_drops_whole_channels_as_the_definition_does():
    model = make_model("resnet", "progressive", dropout=0.5)
    model.set_stage([PatchStage(2, 2)])
    images, labels = make_batch()
    torch.manual_seed(3)
    fast = model.train()(images)
    torch.manual_seed(3)
    torch.testing.assert_close(fast, definition.logits(model, images), rtol=1e-12, atol=0)
    assert not torch.equal(fast, model(images)), "dropout drew nothing"
    assert torch.equal(model.eval()(images), model(images))


@pytest.mark.parametrize("family", FAMILIES)
def test_one_patch_equals_the_global_branch(family):
    """K = 1 on a size that needs no padding: the patched branch is the global one."""
    backbone = TinyBackbone(family).double()
    images, _ = make_batch((32, 48))
    for position in (1, 2, 3, 4):
        [(patches, grid)], whole = run_branches(backbone, images, [PatchStage(position, 1)], detach=False)
        assert grid == 1
        torch.testing.assert_close(patches, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_patches_do_not_see_each_other(family):
    """The cut is after block 1: a change of x_1 in one patch changes that patch's features and no other's."""
    backbone = TinyBackbone(family).double()
    x_1 = torch.randn(2, 4, 19, 26, dtype=torch.float64)
    original = backbone.run

    def features(x):
        backbone.run = lambda y, first, last, **more: x if (first, last) == (0, 1) else original(y, first, last, **more)
        return run_branches(backbone, torch.zeros(2, 3, 1, 1), [PatchStage(1, 3)], detach=False)[0][0][0]

    changed = x_1.clone()
    changed[1, :, 10, 12] += 1.0  # image 1, patch row 1, column 1 of a 3 x 3 grid with 8 x 12 cells each
    different = (features(x_1) != features(changed)).flatten(1).any(1).nonzero().flatten().tolist()
    assert different == [9 + 1 * 3 + 1]


def test_prefix_runs_once_and_equal_branches_run_as_one_batch():
    model = make_model("effnet", "explicit", branches=3)
    model.set_stage([PatchStage(1, 2), PatchStage(2, 2), PatchStage(4, 3)])
    model(make_batch()[0])
    batches = {}
    for first, last, size in model.backbone.runs:
        for block in range(first, last):
            batches.setdefault(block, []).append(size)
    assert batches == {0: [2], 1: [8, 2], 2: [16, 2], 3: [16, 2], 4: [16, 18, 2]}


def test_explicit_branches_send_no_gradient_below_their_cut():
    model = make_model("resnet", "explicit", branches=1)
    model.set_stage([PatchStage(3, 2)])
    with torch.no_grad():
        model.classifier.weight[:, model.backbone.channels:] = 0  # silence the global branch
    model(make_batch()[0]).sum().backward()
    blocks = model.backbone.blocks
    assert all(p.grad.abs().max() == 0 for p in blocks[:3].parameters())
    assert all(p.grad.abs().max() > 0 for p in blocks[3].parameters())


def test_maps_of_chosen_classes():
    model = make_model("preact", "progressive")
    model.set_stage([PatchStage(2, 2)])
    images, _ = make_batch()
    chosen = model.maps(images, classes=torch.tensor([[2], [0]]))
    every = model.maps(images)
    torch.testing.assert_close(chosen[:, 0], torch.stack([every[0, 2], every[1, 0]]))


def test_stages_that_cannot_be():
    model = make_model("effnet", "progressive")
    for stages, word in (([PatchStage(0, 2)], "outside"), ([PatchStage(5, 2)], "outside"), ([PatchStage(2, 0)], "grid"),
                         ([PatchStage(1, 2), PatchStage(2, 2)], "2")):
        with pytest.raises(ValueError, match=word):
            model.set_stage(stages)
    with pytest.raises(ValueError, match="plain"):
        make_model("effnet", "plain").set_stage([PatchStage(2, 2)])
    with pytest.raises(RuntimeError, match="set_stage"):
        make_model("effnet", "explicit", branches=2)(make_batch()[0])


@pytest.mark.parametrize("mode, names", (("progressive", ["group3"]), ("explicit", ["group2", "group4"])))
def test_efficientnet_equals_definition(mode, names, one_thread):
    backbone, _ = create("efficientnet_lite0", weights="none")
    backbone.freeze(2)
    model = PatchClassifier(backbone, 3, mode, branches=len(names)).double()
    model.set_stage([PatchStage(backbone.position(name) + 1, 2) for name in names])
    assert_equals_definition(model)
