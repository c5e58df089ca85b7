"""Settings that cannot be are found before anything is trained, from the command line and from Python."""

import dataclasses

import pytest
from train_data import CLASSES, make_recipe, open_images, write_images

import pplfast
from pplfast.cli import main
from pplfast.data.dataset import DataConfig
from pplfast.errors import UserError
from pplfast.models.segmentation import HEADS
from pplfast.recipe import LabelConfig, OptimConfig, Recipe, load_recipe, ranges
from pplfast.run import RunConfig
from pplfast.train import TrainOptions, check, train
from pplfast.train.check import check_recipe

ALL = ("plain", "ppl", "explicit")
# A recipe with all three networks -> what is changed, and the message.
AS_READ = (
    ("label.crf=densecrf", "'label.crf' = 'densecrf': must be one of probabilities, labels, deeplab, none"),
    ("affinity.crf=labls", "'affinity.crf' = 'labls': must be one of .*; did you mean labels"),
    ("affinity.label.crf=x", "'affinity.label.crf' = 'x': must be one of"),
    ("segmentation.crf=x", "'segmentation.crf' = 'x': must be one of"),
    ("label.background=beta", "'label.background' = 'beta': must be one of threshold, alpha"),
    ("label.value=1.5", "'label.value': background threshold 1.5: must lie between 0 and 1"),
    ("affinity.label.value=2", "'affinity.label.value': background threshold 2.0"),
    ("affinity.label={background='alpha'}", "'affinity.label.value': background alpha 0.0: must be above 0"),
    ("segmentation.head=fpn", "'segmentation.head' = 'fpn': must be one of auto, light"),
    ("cam.batch=0", "'cam.batch' = 0: must be 1 or more"),
    ("cam.scales=[]", r"'cam.scales' = \(\): must be one size or more"),
    ("segmentation.scales=[]", r"'segmentation.scales' = \(\): must be one size or more"),
    ("cam.precision=fp16", "'cam.precision' = 'fp16': must be one of auto, fp32, bf16"),
    ("optim.precision=fp8", "'optim.precision' = 'fp8': must be one of"),
    ("affinity.optim.reduction=fp16", "'affinity.optim.reduction' = 'fp16': must be one of fp32, bf16"),
    ("segmentation.optim={precision='fp16',reduction='bf16'}", "'segmentation.optim.reduction' = 'bf16': must be fp32"),
    ("optim={precision='fp16',zero=1,clip=1.0}", "'optim.clip' = 1.0: must be 0 with precision = 'fp16'"),
    ("optim.accumulation=3", "'optim.batch' = 8: must be a multiple of accumulation = 3"),
    ("optim={accumulation=2,micro_batch=2}", "'optim.micro_batch' = 2: must be left out with accumulation = 2"),
    ("augment.resize_long=[64, 32]", r"'augment.resize_long' = \(64, 32\): must be two sizes, low <= high"),
    ("affinity.background=0.5", "'affinity.background' = 0.5: must be at most foreground = 0.3"),
    ("segmentation.model.pooling=lse", "'segmentation.model.pooling' = 'lse': must be left out"),
    ("variants=['pll']", "'variants' = .*: must be one of plain, ppl, explicit; did you mean ppl"),
    ("stages=[]", r"'stages' = \[\]: must be at least one"),
    ("optim.weight_decay=-1", "'optim.weight_decay' = -1.0: must be 0 or more"),
)
BEFORE_TRAINING = (
    ("stages.0.position=group9", "position 'group9': efficientnet_lite0 has no such block"),
    ("stages.1.position=head", "position 'head': no block of efficientnet_lite0 follows it"),
    ("loss=focl", "loss 'focl': no such loss"),
    ("model.backbone=vgg", "'vgg'"),
    ("model.weights=nowhere.pth", "model.weights = 'nowhere.pth': no such file"),
    ("model.output_stride=3", r"\[model\] output_stride = 3: efficientnet_lite0 offers"),
    ("model.frozen_blocks=99", r"\[model\] frozen_blocks = 99"),
    ("model={backbone='resnet50',weights='auto'}", r"\[model\] weights = 'auto': no package has weights for resnet50"),
    ("segmentation.model={backbone='wrn38',weights='none',output_stride=3}", "output_stride = 3: wrn38 has 8; leave"),
    ("segmentation.model.backbone=resnet18", r"\[segmentation.model\] .*'resnet18'"),
    ("segmentation.model.weights=nowhere.pth", "segmentation.model.weights = 'nowhere.pth': no such file"),
    ("segmentation.model={backbone='resnet50',weights='auto'}", r"\[segmentation.model\] weights = 'auto'"),
    ("affinity.augment.crop=34", "affinity.augment.crop = 34: must be a multiple of 4"),
    ("segmentation.optim={precision='fp16'}", r"\[segmentation\] optim.precision = 'fp16': needs a GPU"),
)  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "all.toml"
    path.write_text(
        "[augment]\ncrop = 32\nresize_long = [32, 48]\n[optim]\nbatch = 8\n[affinity]\nepochs = 1\n"
        "[segmentation]\nepochs = 1\n"
        '[[stages]]\nposition = "group3"\ngrid = 2\nepochs = 1\n'
        '[[stages]]\nposition = "group5"\ngrid = 2\nepochs = 1\n',
        encoding="utf-8",
    )
    return path


def changed(file, change: str) -> Recipe:
    if "={" not in change:
        return load_recipe(file, [change])
    table, values = change.split("=", 1)
    return load_recipe(file, [f"{table}.{pair}" for pair in values.strip("{}").split(",")])


@pytest.mark.parametrize("change, message", AS_READ)
def test_where_a_recipe_is_read(file, change, message):
    with pytest.raises(UserError, match=message) as error:
        changed(file, change)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_where_a_table_is_made_in_python():
    with pytest.raises(UserError, match=r"^LabelConfig.crf = 'x': must be one of probabilities"):
        LabelConfig(crf="x")
    with pytest.raises(UserError, match=r"^LabelConfig.value: background alpha 0.0"):
        LabelConfig(background="alpha")
    with pytest.raises(UserError, match=r"^OptimConfig.batch = 16: must be a multiple of accumulation = 5"):
        dataclasses.replace(OptimConfig(), accumulation=5)
    assert ranges.HEADS == HEADS


@pytest.mark.parametrize("change, message", BEFORE_TRAINING)
def test_before_anything_is_trained(file, change, message, monkeypatch):
    monkeypatch.setattr(check, "default_device", lambda: "cpu")
    recipe = changed(file, change)
    with pytest.raises(UserError, match=message) as error:
        check_recipe(recipe, ALL, 3)
    assert "\n" not in str(error.value)


def test_what_depends_on_how_it_is_run(file):
    recipe = load_recipe(file)
    check_recipe(recipe, ALL, 3)
    check_recipe(recipe, ALL, 3, world=8, compiled="default")
    with pytest.raises(UserError, match=r"optim.batch = 8 in 1 parts: is less than an image for each of 9 ranks"):
        check_recipe(recipe, ALL, 3, world=9)
    with pytest.raises(UserError, match=r"^\[segmentation\] --compile reduce-overhead: .* of 2 parts"):
        check_recipe(load_recipe(file, ["segmentation.optim.accumulation=2"]), ALL, 3, compiled="reduce-overhead")
    with pytest.raises(UserError, match=r"has no stages; add a \[\[stages\]\] table"):
        check_recipe(Recipe(name="x"), ALL, 3)


def test_tables_of_networks_that_are_not_trained_may_name_files_that_are_not_there(file):
    check_recipe(load_recipe(file, ["segmentation.model.weights=x.pth", "segmentation.epochs=0"]), ALL, 3)


@pytest.mark.parametrize("change", ("stages.0.position=group9", "segmentation.model.backbone=resnet18", "label.crf=x"))
def test_every_entry_looks_first(file, change, tmp_path, capsys):
    data = write_images(tmp_path / "data", 4)
    out = tmp_path / "out"
    arguments = ["--data", data, "--labels", data / "labels.csv", "--classes", CLASSES, "--recipe", file, "--out", out]
    assert main([*map(str, ["run", *arguments]), "--set", change]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (out / "plain").exists()
    if change == "label.crf=x":
        return
    config = DataConfig(str(data), labels=str(data / "labels.csv"), classes=CLASSES)
    with pytest.raises(UserError):
        pplfast.run_chain(RunConfig(config, config, load_recipe(file, [change]), ALL, out, 1))
    assert not (out / "plain").exists()


def test_training_in_python_looks_first(tmp_path):
    dataset, out = open_images(write_images(tmp_path / "data", 4)), tmp_path / "out"
    recipe = make_recipe(stages=[{"position": "group9", "grid": 2, "epochs": 1}])
    with pytest.raises(UserError, match="group9"):
        train(recipe, dataset, out, options=TrainOptions(threads=1))
    wrong = pplfast.SegmentationConfig(epochs=1, model=dataclasses.replace(recipe.model, backbone="resnet18"))
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / f"{dataset.ids[0]}.png").touch()
    with pytest.raises(UserError, match="resnet18"):
        pplfast.train_segmentation(wrong, dataset, tmp_path / "masks", out, options=TrainOptions(threads=1))
    assert not (out / "recipe.json").exists()
