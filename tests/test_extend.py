"""What the name of an own backbone, pooling or loss may mean, and whether the part is what it says."""

import own_parts
import pytest
import torch
import torch.nn.functional as F

import pplfast
from pplfast import cpu
from pplfast.errors import UserError
from pplfast.extend import refuse_modules_within
from pplfast.kernels.patch_merge import patch_merge_plain
from pplfast.models import create
from pplfast.models.boundary import BoundaryNet
from pplfast.models.registry import BACKBONES
from pplfast.models.resnet import ResNet
from pplfast.models.segmentation import SegmentationNet
from pplfast.patch.branches import Cut
from pplfast.patch.classifier import PatchClassifier
from pplfast.patch.pooling import POOLINGS, check_pooling
from pplfast.train.loss import LOSSES, check_loss, image_losses


@pytest.fixture
def registered():
    """Leaves the registries as they were."""
    yield
    for registry in (BACKBONES, LOSSES, POOLINGS):
        registry._own.clear()


# What a name may mean


@pytest.mark.parametrize(
    "registry, name, message",
    [
        (BACKBONES, "resnet5", r"no such backbone; choose one of: efficientnet_lite0, .*mean resnet50\?.*register_b"),
        (LOSSES, "focl", r"choose one of: soft_margin \(an own one: \"package.module:Name\", or registered"),
        (POOLINGS, "avg", "no such pooling; choose one of: mean, max, lse"),
        (BACKBONES, "os:system", "os is a module of Python itself and holds no backbone"),
        (LOSSES, "subprocess:call", "subprocess is a module of Python itself"),
        (BACKBONES, "no_such_module.x:Net", "no module no_such_module; install its package, or add .* to PYTHONPATH"),
        (BACKBONES, "own_parts:Missing", "own_parts has no Missing"),
        (BACKBONES, "own_parts", "no such backbone"),
        (BACKBONES, "own parts:Net", "must be \"package.module:Name\""),
        (BACKBONES, "../own_parts:Net", "must be \"package.module:Name\""),
        (BACKBONES, "own_parts:focal", "must be a subclass of pplfast.Backbone, not <function focal"),
        (BACKBONES, "torch.nn:Linear", "must be a subclass of pplfast.Backbone"),
        (BACKBONES, "own_parts:Needing", "its __init__ needs depth"),
        (LOSSES, "own_parts:other_words", r"must be a function `def name\(logits, labels\)`"),
        (LOSSES, "own_parts:Tiny", "must be a function"),
        (LOSSES, "numpy:save", "must be a function"),
        (POOLINGS, "numpy:mean", r"must be a function `def name\(features\)`"),
    ],
)  # fmt: skip
def test_names_that_are_refused(registry, name, message):
    with pytest.raises(UserError, match=message):
        registry.find(name)


def test_a_module_that_fails_is_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "broken_parts.py").write_text("1 / 0\n")
    (tmp_path / "needy_parts.py").write_text("import no_such_dependency\n")
    with pytest.raises(UserError, match="broken_parts cannot be imported: ZeroDivisionError"):
        BACKBONES.find("broken_parts:Net")
    with pytest.raises(UserError, match="needy_parts cannot be imported: No module named 'no_such_dependency'"):
        BACKBONES.find("needy_parts:Net")


def test_nothing_is_called_before_it_is_checked(monkeypatch):
    """Not even a callable that would do as the part if it were called."""
    called = []
    monkeypatch.setattr(own_parts, "trap", lambda *arguments, **named: called.append(1), raising=False)
    for registry in (BACKBONES, LOSSES, POOLINGS):
        with pytest.raises(UserError):
            registry.find("own_parts:trap")
    assert not called


def test_modules_in_a_models_folder_are_found_however_they_are_named(tmp_path, monkeypatch):
    """Each folder is a package, so that a path further up reaches it; links lead into it and out of it."""
    model, beside = tmp_path / "up_here" / "inner", tmp_path / "up_here" / "beside"
    (model / "deep").mkdir(parents=True)
    beside.mkdir()
    for path in (model / "evil.py", model / "__init__.py", model / "deep" / "evil.py", beside / "fine.py"):
        path.touch()
    (model / "out").symlink_to(beside)
    (tmp_path / "link_in").symlink_to(model)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("inner.evil", "inner", "inner.deep.evil", "inner.out.fine"):
        with pytest.raises(UserError, match=f"names the module up_here.{name}, which lies in this folder"):
            refuse_modules_within(model, f"up_here.{name}:Net")
    with pytest.raises(UserError, match="names the module link_in.evil"):
        refuse_modules_within(model, "link_in.evil:Net")
    refuse_modules_within(model, "up_here.beside.fine:Net", "resnet50", "no_such_module:Net", "own_parts:Tiny")


def test_registered_names(registered):
    pplfast.register_backbone("tiny", own_parts.Tiny)
    pplfast.register_backbone("tiny", own_parts.Tiny)  # as a notebook does when a cell runs again
    pplfast.register_loss("focal", own_parts.focal)
    pplfast.register_pooling("maximum", own_parts.maximum)
    assert create("tiny")[0].name == "tiny" and create("own_parts:Open")[0].channels == 32
    assert LOSSES.find("focal") is own_parts.focal and POOLINGS.find("maximum") is own_parts.maximum
    with pytest.raises(UserError, match="choose one of: .*, wrn38, tiny"):
        create("tny")
    for name, message in (("resnet50", "comes with pplfast"), ("a:b", "without ':'")):
        with pytest.raises(UserError, match=message):
            pplfast.register_backbone(name, own_parts.Tiny)
    with pytest.raises(UserError, match="subclass of pplfast.Backbone"):
        pplfast.register_backbone("number", 3)


# Whether it is what it says


@pytest.mark.parametrize(
    "name, message",
    [
        ("Misstated", r"block part0 makes \(1, 8, 34, 51\) of .*at stride 4 says \(1, 8, 17, 26\); mend Misstated"),
        ("Unowned", "its parameter extra.weight is in no block's block_modules"),
        ("Bare", "it has no parameters, so nothing can be trained; mend Bare"),
        ("Ownerless", r"block_modules\(0\) must be a list of modules, and fails: AttributeError.*mend Ownerless"),
        ("Numbered", "specs must be two or more BlockSpec"),
        ("Failing", "cannot be made: RuntimeError.'no depth'.; mend its __init__"),
    ],
)  # fmt: skip
def test_a_backbone_that_is_not_what_it_says(name, message):
    with pytest.raises(UserError, match=message):
        create(f"own_parts:{name}")


def test_losses_and_poolings_are_tried_before_training():
    with pytest.raises(UserError, match=r"makes \(\) of 2 images; must be \(2,\), the loss of each image"):
        check_loss("own_parts:batch_mean", own_parts.batch_mean, 3)
    with pytest.raises(UserError, match=r"is \[0.69.*, nan\] for logits of 0, .*must be finite"):  # no class: 0 / 0
        check_loss("x", lambda logits, labels: (F.softplus(-logits) * labels).sum(1) / labels.sum(1), 3)
    with pytest.raises(UserError, match="fails on logits and labels"):
        check_loss("x", lambda logits, labels: logits.nothing, 3)
    with pytest.raises(UserError, match=r"makes \(\) of features .2, 5, 3, 4.; must be \(2, 5\)"):
        check_pooling("own_parts:flat", own_parts.flat)
    check_loss("own_parts:focal", own_parts.focal, 1)
    check_pooling("own_parts:maximum", own_parts.maximum)


def test_batchnorm_of_an_own_backbone_is_frozen():
    backbone, _ = create("own_parts:Tiny")
    backbone.freeze(1)
    backbone.train()
    before = backbone.parts[2][1].running_mean.clone()
    backbone.run(torch.randn(2, 3, 64, 64), 0, 4).sum().backward()
    assert torch.equal(backbone.parts[2][1].running_mean, before)
    trained = {name for name, parameter in backbone.named_parameters() if parameter.grad is not None}
    assert trained == {f"parts.{index}.0.weight" for index in (1, 2, 3)}


def test_heads_and_taps_of_an_own_backbone():
    backbone, _ = create("own_parts:Tiny")
    assert SegmentationNet(backbone, 4).head_name == "light"
    assert [backbone.specs[i].name for i in BoundaryNet(backbone).positions] == ["part0", "part1", "part3"]
    deep, _ = create("own_parts:Tiny")
    deep.specs = deep.specs[:1]
    assert SegmentationNet(deep, 4).head_name == "aspp"


@pytest.mark.parametrize("name", ["max", "lse", "own_parts:maximum"])
def test_pooling_of_patches_equals_its_definition(name):
    torch.manual_seed(0)
    backbone, _ = create("own_parts:Tiny")
    model = PatchClassifier(backbone, 3, "ppl", pooling=POOLINGS.find(name)).eval()
    torch.nn.init.normal_(model.classifier.weight)
    model.set_cuts([Cut(1, 3)])
    images = torch.randn(2, 3, 90, 70)
    features = model.features(images)
    size = features.global_map.shape[2:]
    whole = [patch_merge_plain(*features.patched[0], *size), features.global_map]
    pooled = [
        torch.logsumexp(5.0 * x, (2, 3)).sub(torch.tensor(float(size.numel())).log()) / 5.0
        if name == "lse"
        else x.amax((2, 3))
        for x in whole
    ]
    expected = torch.cat(pooled, 1) @ model.classifier.weight.flatten(1).T
    torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)


def test_the_loss_of_filling_images_is_zero():
    logits, labels = torch.randn(3, 2), torch.ones(3, 2)
    losses = image_losses(logits, labels, torch.tensor([1.0, 0.0, 1.0]), own_parts.focal)
    torch.testing.assert_close(losses[[0, 2]], own_parts.focal(logits, labels)[[0, 2]])
    assert losses[1] == 0


@pytest.mark.slow
def test_a_subclass_of_a_network_does_not_take_its_shortcuts(monkeypatch, registered):
    """The cells that plain and patched maps share on a CPU are known of ResNet's own blocks only."""

    class Shallow(ResNet):
        def __init__(self) -> None:
            super().__init__("resnet50")

    pplfast.register_backbone("shallow", Shallow)
    monkeypatch.setattr("pplfast.cpu.strips.run_shared", lambda *_: pytest.fail("the shortcut of ResNet"))
    model = PatchClassifier(create("shallow")[0], 2, "ppl").eval()
    model.set_cuts([Cut(model.backbone.position("layer2") + 1, 2)])
    cpu.install(model, torch.device("cpu"))
    assert model.maps(torch.randn(1, 3, 32, 32)).shape == (1, 2, 2, 2)
