"""Own backbones, poolings and losses by name: in Python, from the command line, on two ranks, and loaded again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import own_parts
import pytest
import torch
from train_data import CLASSES, make_recipe, open_images, write_images

import pplfast
from pplfast import cpu
from pplfast.cli import main
from pplfast.errors import UserError
from pplfast.kernels.patch_merge import patch_merge_plain
from pplfast.models import create
from pplfast.models.boundary import BoundaryNet
from pplfast.models.registry import BACKBONES
from pplfast.models.resnet import ResNet
from pplfast.models.segmentation import SegmentationNet
from pplfast.patch.branches import PatchStage
from pplfast.patch.classifier import PatchClassifier
from pplfast.patch.pooling import POOLINGS, check_pooling
from pplfast.train import TrainOptions
from pplfast.train.loss import LOSSES, check_loss, image_losses
from pplfast.train.plan import build_model, check_plan, check_segmentation

TESTS = Path(__file__).parent
OPTIONS = TrainOptions(threads=1, log_every=1)
OWN = {
    "loss": "own_parts:focal",
    "model": {"backbone": "own_parts:Tiny", "weights": "none", "pooling": "own_parts:maximum"},
    "stages": [{"position": "part0", "grid": 2, "epochs": 1}, {"position": "part1", "grid": 2, "epochs": 0.5}],
}
RECIPE_FILE = """
name = "own"
loss = "own_parts:focal"
[model]
backbone = "own_parts:Tiny"
weights = "none"
pooling = "own_parts:maximum"
[augment]
crop = 32
resize_long = [32, 48]
[optim]
batch = 8
precision = "fp32"
[[stages]]
position = "part0"
grid = 2
epochs = 1
[[stages]]
position = "part1"
grid = 2
epochs = 0.5
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory, one_thread) -> Path:
    out = tmp_path_factory.mktemp("own") / "train"
    pplfast.train_classifier(make_recipe(**OWN), open_images(images), out, options=OPTIONS)
    return out


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
        (BACKBONES, "resnet5", r"no such backbone; choose one of: efficientnet_lite0, .*mean 'resnet50'\?.*register_b"),
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


def test_registered_names(registered):
    pplfast.register_backbone("tiny", own_parts.Tiny)
    pplfast.register_backbone("tiny", own_parts.Tiny)  # as a notebook does when a cell runs again
    pplfast.register_loss("focal", own_parts.focal)
    pplfast.register_pooling("maximum", own_parts.maximum)
    assert create("tiny")[0].name == "tiny"
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
        ("Failing", "cannot be made: RuntimeError.'no depth'.; mend its __init__"),
    ],
)  # fmt: skip
def test_a_backbone_that_is_not_what_it_says(name, message):
    with pytest.raises(UserError, match=message):
        create(f"own_parts:{name}")


def test_losses_and_poolings_are_tried_before_training():
    with pytest.raises(UserError, match=r"makes \(\) of 2 images; must be \(2,\), the loss of each image"):
        check_loss("own_parts:batch_mean", own_parts.batch_mean, 3)
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
    model = PatchClassifier(backbone, 3, "progressive", pooling=POOLINGS.find(name)).eval()
    torch.nn.init.normal_(model.classifier.weight)
    model.set_stage([PatchStage(1, 3)])
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


# Recipes, training, files


def test_a_chain_refuses_names_before_it_trains(images, tmp_path, capsys):
    data = ["--data", str(images), "--labels", str(images / "labels.csv"), "--classes", CLASSES]
    for change, message in (
        ("stages.0.position=group9", "position 'group9': efficientnet_lite0 has no such block"),
        ("segmentation.model.backbone=resnet18", "backbone 'resnet18': no such backbone"),
        ("model.backbone=own_parts:Tiny", "position 'group3': own_parts:Tiny has no such block; choose one of: part0"),
        ("loss=focl", "loss 'focl': no such loss"),
        ("model.pooling=own_parts:focal", "pooling 'own_parts:focal': must be a function"),
    ):
        out = tmp_path / "run"
        assert main(["run", *data, "--recipe", "own-images", "--out", str(out), "--set", change]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1 and not out.exists()


def test_plans_of_an_own_backbone():
    recipe = make_recipe(**OWN)
    check_plan(recipe, ("plain", "ppl", "explicit"))
    check_segmentation(pplfast.SegmentationConfig(model=recipe.model))
    last = make_recipe(**{**OWN, "stages": [{"position": "part3", "grid": 2, "epochs": 1}]})
    check_plan(last, ("plain",))
    with pytest.raises(UserError, match="no block of own_parts:Tiny follows it; choose one of: part0, part1, part2"):
        check_plan(last, ("ppl",))


def test_what_fails_when_it_is_tried_is_found_before_the_folder_is_made(images, tmp_path):
    for changes, message in (
        ({"loss": "own_parts:batch_mean"}, "loss 'own_parts:batch_mean': makes"),
        ({"model": {**OWN["model"], "pooling": "own_parts:flat"}}, "pooling 'own_parts:flat': makes"),
        ({"model": {**OWN["model"], "backbone": "own_parts:Misstated"}}, "block part0 makes"),
    ):
        recipe = make_recipe(**{**OWN, **changes})
        with pytest.raises(UserError, match=message):
            pplfast.train_classifier(recipe, open_images(images), tmp_path / "out", options=OPTIONS)
    assert not (tmp_path / "out").exists()


def test_the_network_of_a_recipe_has_its_pooling():
    assert build_model(make_recipe(**OWN), "ppl", 3)[0].pooling is own_parts.maximum


def test_an_own_network_is_trained_and_loaded_again(trained):
    info = pplfast.read_info(trained)
    assert info.model["backbone"] == "own_parts:Tiny" and info.recipe["loss"] == "own_parts:focal"
    model = pplfast.load_classifier(trained)
    assert isinstance(model.backbone, own_parts.Tiny) and model.pooling is own_parts.maximum
    first = json.loads((trained / "log.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(0.25 * 0.6931, rel=0.05)  # focal at logits of 0; without it log 2
    assert model.maps(torch.randn(1, 3, 40, 56)).shape == (1, 3, 3, 4)


def test_the_other_networks_of_an_own_backbone(trained, images, tmp_path, one_thread):
    dataset, recipe = open_images(images), make_recipe(**OWN)
    model = pplfast.load_classifier(trained)
    pplfast.generate_cams(model, dataset, pplfast.CamConfig(scales=(1.0,), precision="fp32"), tmp_path / "cams")
    label = pplfast.LabelConfig(value=0.5, crf="none")
    assert pplfast.generate_labels(tmp_path / "cams", dataset, label, tmp_path / "labels", jobs=1).written == 10
    optim, augment = recipe.optim, recipe.augment
    affinity = pplfast.AffinityConfig(epochs=0.5, optim=optim, augment=augment)
    pplfast.train_boundaries(affinity, model, dataset, tmp_path / "labels", tmp_path / "boundary", options=OPTIONS)
    boundaries = pplfast.load_boundaries(tmp_path / "boundary")
    assert isinstance(boundaries.backbone, own_parts.Tiny)
    segmentation = pplfast.SegmentationConfig(epochs=0.5, optim=optim, augment=augment, model=recipe.model)
    pplfast.train_segmentation(segmentation, dataset, tmp_path / "labels", tmp_path / "segmentation", options=OPTIONS)
    assert isinstance(pplfast.load_segmentation(tmp_path / "segmentation")[0].backbone, own_parts.Tiny)


def test_a_strangers_model_runs_nothing(trained, tmp_path, monkeypatch):
    """Neither a function of Python's own, nor a module in the model's folder, with Python started there."""
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "classifier.safetensors").write_bytes((trained / "classifier.safetensors").read_bytes())
    table = json.loads((trained / "classifier.json").read_text())
    (stranger / "evil_net.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(stranger))
    for key, name, message in (
        ("backbone", "os:system", "os is a module of Python itself"),
        ("backbone", "evil_net:Net", "module evil_net, which lies in this folder; nothing is run from the folder"),
        ("backbone", "evil_net.deeper:Net", "which lies in this folder"),
        ("pooling", "evil_net:pool", "which lies in this folder"),
    ):
        changed = {**table, "model": {**table["model"], key: name}}
        (stranger / "classifier.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match=message):
            pplfast.load_classifier(stranger)
    assert not (tmp_path / "ran").exists()


def test_the_working_folder_is_not_on_the_path_of_the_command(trained, images, tmp_path):
    """`python -m` would put it there, and a model beside a module of its name would run it."""
    (tmp_path / "own_parts.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    arguments = ["cam", "--data", images, "--labels", images / "labels.csv", "--classes", CLASSES]
    done = subprocess.run(
        [sys.executable, "-m", "pplfast", *arguments, "--model", trained, "--out", tmp_path / "cams"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and not (tmp_path / "ran").exists()
    assert "no module own_parts; install its package, or add the folder that holds it to PYTHONPATH" in done.stderr


def test_two_ranks_of_the_launcher_and_the_command_line_see_own_parts(trained, images, tmp_path):
    (tmp_path / "own.toml").write_text(RECIPE_FILE)
    data = ["--data", images, "--labels", images / "labels.csv", "--classes", CLASSES]
    environment = {
        "PYTHONPATH": str(TESTS),
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    train = ["train", *data, "--recipe", tmp_path / "own.toml", "--out", tmp_path / "out", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "pplfast", "launch", "--ranks", "2", *train, "--log-every", "1"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "own_parts:Tiny" in done.stderr and "2 ranks on cpu" in done.stderr and "finished: 3 steps" in done.stderr
    assert pplfast.read_info(tmp_path / "out").model["pooling"] == "own_parts:maximum"
    words = [*data, "--model", tmp_path / "out", "--out", tmp_path / "cams", "--scales", "1", "--precision", "fp32"]
    assert main(["cam", *map(str, words)]) == 0 and len(list((tmp_path / "cams").glob("*.npz"))) == 10


def test_a_record_of_an_older_pplfast_is_still_the_same_run(trained, images):
    """Its recipe.json has no `loss` and no `pooling`: they were what they are by default."""
    path = trained.parent / "older"
    recipe = make_recipe(model={"backbone": "own_parts:Tiny", "weights": "none"}, stages=OWN["stages"])
    dataset = open_images(images)
    pplfast.train_classifier(recipe, dataset, path, options=OPTIONS)
    record = json.loads((path / "recipe.json").read_text())
    del record["recipe"]["loss"], record["recipe"]["model"]["pooling"]
    (path / "recipe.json").write_text(json.dumps(record))
    assert pplfast.train_classifier(recipe, dataset, path, options=OPTIONS).already_finished


def test_a_subclass_of_a_network_does_not_take_its_shortcuts(monkeypatch, registered):
    """The cells that plain and patched maps share on a CPU are known of ResNet's own blocks only."""

    class Shallow(ResNet):
        def __init__(self) -> None:
            super().__init__("resnet50")

    pplfast.register_backbone("shallow", Shallow)
    monkeypatch.setattr("pplfast.cpu.strips.run_shared", lambda *_: pytest.fail("the shortcut of ResNet"))
    model = PatchClassifier(create("shallow")[0], 2, "progressive").eval()
    model.set_stage([PatchStage(model.backbone.position("layer2") + 1, 2)])
    cpu.install(model, torch.device("cpu"))
    assert model.maps(torch.randn(1, 3, 32, 32)).shape == (1, 2, 2, 2)
