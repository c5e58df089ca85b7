"""The fast path of patch learning against its plain definition, in float64."""

import pytest
import torch
import torch.nn.functional as F
from patch_backbones import TinyBackbone

from pplfast.models.registry import create
from pplfast.patch import definition
from pplfast.patch.branches import Cut, run_branches
from pplfast.patch.classifier import PatchClassifier

FAMILIES = ("effnet", "resnet", "preact")
SIZE = (37, 51)  # odd: no K divides any map of it


def make_model(family: str, variant: str, branches: int = 1, dropout: float = 0.0, *layout: tuple) -> PatchClassifier:
    torch.manual_seed(0)
    backbone = TinyBackbone(family, *layout)
    model = PatchClassifier(backbone, classes=3, variant=variant, dropout=dropout, branches=branches).double()
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
            torch.testing.assert_close(
                gradient, expected[name], rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}"
            )
    expected_maps = definition.maps(model, images).detach()
    torch.testing.assert_close(model.maps(images).double(), expected_maps, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("grid", (1, 2, 3, 4))
@pytest.mark.parametrize("position", (1, 2, 3, 4))
@pytest.mark.parametrize("family", FAMILIES)
def test_progressive_equals_definition(family, position, grid):
    model = make_model(family, "ppl")
    model.set_cuts([Cut(position, grid)])
    assert_equals_definition(model)


@pytest.mark.slow
@pytest.mark.parametrize(
    "cuts",
    (
        [(1, 2), (3, 2), (4, 2)],  # all batched
        [(2, 3), (3, 3)],
        [(3, 4), (1, 2), (2, 4)],  # out of order, two grids
        [(2, 2), (2, 3)],  # one position twice
    ),
)
@pytest.mark.parametrize("family", FAMILIES)
def test_explicit_equals_definition(family, cuts):
    model = make_model(family, "explicit", branches=len(cuts))
    model.set_cuts([Cut(*cut) for cut in cuts])
    assert_equals_definition(model)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_without_patches_equals_definition(family):
    assert_equals_definition(make_model(family, "plain"))
    assert_equals_definition(make_model(family, "ppl"))


def test_dropout_drops_whole_channels_as_the_definition_does():
    model = make_model("resnet", "ppl", dropout=0.5)
    model.set_cuts([Cut(2, 2)])
    images, _labels = make_batch()
    torch.manual_seed(3)
    fast = model.train()(images)
    torch.manual_seed(3)
    torch.testing.assert_close(fast, definition.logits(model, images), rtol=1e-12, atol=0)
    assert not torch.equal(fast, model(images)), "dropout drew nothing"
    assert torch.equal(model.eval()(images), model(images))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_one_patch_equals_the_global_branch(family):
    """K = 1 on a size that needs no padding: the patched branch is the global one."""
    backbone = TinyBackbone(family).double()
    images, _ = make_batch((32, 48))
    for position in (1, 2, 3, 4):
        [(patches, grid)], whole = run_branches(backbone, images, [Cut(position, 1)], detach=False)
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
        return run_branches(backbone, torch.zeros(2, 3, 1, 1), [Cut(1, 3)], detach=False)[0][0][0]

    changed = x_1.clone()
    changed[1, :, 10, 12] += 1.0  # image 1, patch row 1, column 1 of a 3 x 3 grid with 8 x 12 cells each
    different = (features(x_1) != features(changed)).flatten(1).any(1).nonzero().flatten().tolist()
    assert different == [9 + 1 * 3 + 1]


def test_prefix_runs_once_and_equal_branches_run_as_one_batch():
    model = make_model("effnet", "explicit", branches=3)
    model.set_cuts([Cut(1, 2), Cut(2, 2), Cut(4, 3)])
    model(make_batch()[0])
    batches = {}
    for first, last, size in model.backbone.runs:
        for block in range(first, last):
            batches.setdefault(block, []).append(size)
    assert batches == {0: [2], 1: [8, 2], 2: [16, 2], 3: [16, 2], 4: [16, 18, 2]}


def test_explicit_branches_send_no_gradient_below_their_cut():
    model = make_model("resnet", "explicit", branches=1)
    model.set_cuts([Cut(3, 2)])
    with torch.no_grad():
        model.classifier.weight[:, model.backbone.channels :] = 0  # silence the global branch
    model(make_batch()[0]).sum().backward()
    blocks = model.backbone.blocks
    assert all(p.grad.abs().max() == 0 for p in blocks[:3].parameters())
    assert all(p.grad.abs().max() > 0 for p in blocks[3].parameters())


def test_maps_of_chosen_classes():
    model = make_model("preact", "ppl")
    model.set_cuts([Cut(2, 2)])
    images, _ = make_batch()
    chosen = model.maps(images, classes=torch.tensor([[2], [0]]))
    every = model.maps(images)
    torch.testing.assert_close(chosen[:, 0], torch.stack([every[0, 2], every[1, 0]]))


def test_cuts_that_cannot_be():
    model = make_model("effnet", "ppl")
    for cuts, word in (
        ([Cut(0, 2)], "outside"),
        ([Cut(5, 2)], "outside"),
        ([Cut(2, 0)], "grid"),
        ([Cut(1, 2), Cut(2, 2)], "2"),
    ):
        with pytest.raises(ValueError, match=word):
            model.set_cuts(cuts)
    with pytest.raises(ValueError, match="plain"):
        make_model("effnet", "plain").set_cuts([Cut(2, 2)])
    with pytest.raises(RuntimeError, match="set_cuts"):
        make_model("effnet", "explicit", branches=2)(make_batch()[0])


@pytest.mark.slow
@pytest.mark.parametrize("variant, names", (("ppl", ["group3"]), ("explicit", ["group2", "group4"])))
def test_efficientnet_equals_definition(variant, names, one_thread):
    backbone, _ = create("efficientnet_lite0", weights="none")
    backbone.freeze(2)
    model = PatchClassifier(backbone, 3, variant, branches=len(names)).double()
    model.set_cuts([Cut(backbone.position(name) + 1, 2) for name in names])
    assert_equals_definition(model)
