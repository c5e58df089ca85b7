"""What a run does again, and what it keeps, where images, lists, masks or settings have changed."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from train_data import CLASSES, write_images

from pplfast.cluster.ranks import Ranks
from pplfast.data.dataset import DataConfig, open_dataset
from pplfast.data.demo import DemoConfig, make_demo
from pplfast.data.masks import read_mask, write_mask
from pplfast.recipe import recipe_from_dict
from pplfast.run import RunConfig, run, with_default_lists
from pplfast.run.chain import _check_data
from pplfast.steps import TEST, TRAIN, VAL
from pplfast.train import TrainOptions

RECIPE = recipe_from_dict(
    {
        "name": "changes",
        "variants": ["plain"],
        "augment": {"crop": 32, "resize_long": [32, 48]},
        "optim": {"batch": 4, "precision": "fp32"},
        "stages": [{"epochs": 1, "position": "group3", "grid": 2}],
        "cam": {"scales": [1.0], "flip": False, "precision": "fp32"},
        "label": {"crf": "none"},
    },
    "test",
)
OPTIONS = TrainOptions(threads=1)


class Said:
    def __call__(self, text):
        pass

    def note(self, text):
        pass


@pytest.fixture(scope="module")
def once(tmp_path_factory) -> RunConfig:
    root = tmp_path_factory.mktemp("demo")
    make_demo(root / "data", DemoConfig(train=4, val=3, size=64), lambda: None)
    train, val = with_default_lists(DataConfig(str(root / "data")), None, None)
    config = RunConfig(train, val, RECIPE, RECIPE.variants, root / "out", jobs=1, training=OPTIONS)
    torch.set_num_threads(1)
    run(config, lambda line: None)
    return config


@pytest.fixture
def finished(once, tmp_path, one_thread) -> RunConfig:
    """A run of its own to change; its data lies elsewhere now."""
    root = Path(once.train.root).parent
    shutil.copytree(root / "data", tmp_path / "data")
    shutil.copytree(root / "out", tmp_path / "out")
    train, val = with_default_lists(DataConfig(str(tmp_path / "data")), None, None)
    return dataclasses.replace(once, train=train, val=val, out=tmp_path / "out")


def again(config: RunConfig, **changes) -> list[str]:
    """The names of the steps that were not skipped, in another run of the same folder."""
    lines: list[str] = []
    run(dataclasses.replace(config, **changes), lines.append)
    steps = [line.split("] ")[1] for line in lines if line.startswith("[") and "skipped" not in line]
    return [step.removeprefix("plain: ") for step in steps if step != "report"]


def photo(config: RunConfig, part: str) -> Path:
    """Of the first image of a list."""
    root = Path(config.train.root)
    name = (root / "ImageSets" / "Segmentation" / f"{part}.txt").read_text().split()[0]
    return next((root / "JPEGImages").glob(f"{name}.*"))


def replace(path: Path) -> None:
    size = Image.open(path).size
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)).save(path)


def files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.iterdir() if path.suffix in (".npz", ".png")}


def lr(value: float):
    return dataclasses.replace(RECIPE, optim=dataclasses.replace(RECIPE.optim, lr=value))


ALL_BUT_TRAIN = ["cams", "eval_cam", "labels", "eval_label"]


@pytest.mark.slow
def test_a_data_set_that_was_copied_elsewhere_is_checked_and_nothing_more(finished):
    for path in Path(finished.train.root).rglob("*.jpg"):
        os.utime(path)
    assert again(finished) == ["check data"] and again(finished) == []


@pytest.mark.slow
def test_a_replaced_photo_to_label_is_looked_at_again_and_the_rest_is_kept(finished):
    before = files(finished.out / "plain" / "cams")
    replace(photo(finished, "val"))
    assert again(finished) == ["check data", *ALL_BUT_TRAIN]
    kept = before.items() & files(finished.out / "plain" / "cams").items()
    assert len(kept) == len(before) - 1 == 2 and not list((finished.out / "plain").glob("*.old*"))
    assert again(finished) == []


@pytest.mark.slow
def test_a_replaced_photo_to_train_on_trains_again_and_keeps_what_was_trained(finished):
    trained = (finished.out / "plain" / "train" / "classifier.safetensors").read_bytes()
    path = photo(finished, "train")
    whole = path.read_bytes()
    replace(path)
    assert again(finished) == ["check data", "train", *ALL_BUT_TRAIN]
    assert (finished.out / "plain" / "train.old" / "classifier.safetensors").read_bytes() == trained
    path.write_bytes(whole)
    assert again(finished) == ["check data", *ALL_BUT_TRAIN]  # the network of before is taken back
    assert (finished.out / "plain" / "train" / "classifier.safetensors").read_bytes() == trained
    assert (finished.out / "plain" / "train.old2").is_dir()


@pytest.mark.slow
def test_a_mistyped_setting_costs_no_network(finished):
    again(finished)
    trained = (finished.out / "plain" / "train" / "classifier.safetensors").read_bytes()
    assert again(finished, recipe=lr(0.5))[0] == "train"
    assert (finished.out / "plain" / "train.old" / "classifier.safetensors").read_bytes() == trained
    assert "train" not in again(finished)
    assert (finished.out / "plain" / "train" / "classifier.safetensors").read_bytes() == trained


@pytest.mark.slow
def test_a_replaced_mask_scores_again_and_makes_nothing_again(finished):
    again(finished)
    mask = Path(finished.train.root) / "SegmentationClass" / f"{photo(finished, 'val').stem}.png"
    values = read_mask(mask).copy()
    values[:20] = 255
    write_mask(mask, values)
    done = again(finished)
    assert done[:2] == ["check data", "eval_cam"] and not {"train", "cams"} & set(done)


@pytest.mark.slow
def test_an_image_taken_off_the_list_has_no_label_any_more_and_the_others_keep_theirs(finished):
    folder = finished.out / "plain" / "labels"
    before = files(folder)
    path = Path(finished.train.root) / "ImageSets" / "Segmentation" / "val.txt"
    first, *rest = path.read_text().split()
    path.write_text("\n".join(rest))
    assert again(finished) == ["check data", *ALL_BUT_TRAIN]
    now = files(folder)
    assert now.keys() == before.keys() - {f"{first}.png"}


def test_a_test_list_is_among_the_settings_of_the_check_where_there_is_one_list_to_train_and_to_label(tmp_path):
    root = write_images(tmp_path / "images", 3)
    data = DataConfig(str(root), labels=str(root / "labels.csv"), classes=CLASSES)
    test = dataclasses.replace(data, labels="none")
    config = SimpleNamespace(train=data, val=data, test=test, out=tmp_path / "out")
    sets = {TRAIN: open_dataset(data), VAL: open_dataset(data), TEST: open_dataset(test)}
    _check_data(config, sets, Ranks(0, 1, 1, torch.device("cpu")), Said())
    record = json.loads((tmp_path / "out" / "steps" / "check data.json").read_text())
    assert record["settings"]["test"] and record["settings"]["files"].keys() == {TRAIN, VAL, TEST}
