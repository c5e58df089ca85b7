"""Own backbones, poolings and losses in whole runs: Python, command line, two ranks, and loaded again."""

import dataclasses
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
from pplfast.cli import main
from pplfast.errors import UserError
from pplfast.train import TrainOptions
from pplfast.train.check import check_recipe
from pplfast.train.plan import build_model

pytestmark = pytest.mark.slow
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


def test_a_chain_refuses_names_before_it_trains(images, tmp_path, capsys):
    data = ["--data", str(images), "--labels", str(images / "labels.csv"), "--classes", CLASSES]
    for change, message in (
        ("stages.0.position=group9", "position 'group9': efficientnet_lite0 has no such block"),
        ("segmentation.model.backbone=resnet18", "backbone 'resnet18': no such backbone"),
        ("model.backbone=own_parts:Tiny", "[model] weights = 'auto': no package has weights for own_parts:Tiny"),
        ("loss=focl", "loss 'focl': no such loss"),
        ("model.pooling=own_parts:focal", "pooling 'own_parts:focal': must be a function"),
        ("model.pooling=own_parts:flat", "pooling 'own_parts:flat': makes () of features"),
        ("loss=own_parts:batch_mean", "loss 'own_parts:batch_mean': makes () of 2 images"),
    ):
        out = tmp_path / "run"
        assert main(["run", *data, "--recipe", "own-images", "--out", str(out), "--set", change]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1 and not out.exists()


def test_plans_of_an_own_backbone():
    recipe = make_recipe(**OWN)
    network = dataclasses.replace(recipe.model, pooling="mean")
    segmentation = pplfast.SegmentationConfig(epochs=1, model=network)
    check_recipe(dataclasses.replace(recipe, segmentation=segmentation), ("plain", "ppl", "explicit"), 3)
    last = make_recipe(**{**OWN, "stages": [{"position": "part3", "grid": 2, "epochs": 1}]})
    check_recipe(last, ("plain",), 3)
    with pytest.raises(UserError, match="no block of own_parts:Tiny follows it; choose one of: part0, part1, part2"):
        check_recipe(last, ("ppl",), 3)


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
    assert pplfast.generate_labels(tmp_path / "cams", dataset, label, tmp_path / "labels").written == 10
    optim, augment = recipe.optim, recipe.augment
    affinity = pplfast.AffinityConfig(epochs=0.5, optim=optim, augment=augment)
    pplfast.train_boundaries(affinity, model, dataset, tmp_path / "labels", tmp_path / "boundary", options=OPTIONS)
    boundaries = pplfast.load_boundaries(tmp_path / "boundary")
    assert isinstance(boundaries.backbone, own_parts.Tiny)
    network = dataclasses.replace(recipe.model, pooling="mean")
    segmentation = pplfast.SegmentationConfig(epochs=0.5, optim=optim, augment=augment, model=network)
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
    with pytest.raises(UserError, match="holds a run with loss = 'soft_margin', not 'own_parts:focal'"):
        pplfast.train_classifier(make_recipe(**OWN), dataset, path, options=OPTIONS)
