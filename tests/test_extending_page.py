"""What docs/extending.md shows is what examples/ holds, or runs."""

import re
import shlex
import textwrap
import tomllib
from pathlib import Path

import pytest
from train_data import make_recipe, write_images

import pplfast
from pplfast.cli import main
from pplfast.data.demo import DemoConfig, make_demo
from pplfast.models import NAMES
from pplfast.patch.pooling import POOLINGS
from pplfast.recipe import recipe_from_dict
from pplfast.train import TrainOptions
from pplfast.train.loss import LOSSES

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.M | re.S)
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
BASH = [text for kind, text in BLOCKS if kind == "bash"]
TOML = [text for kind, text in BLOCKS if kind == "toml"]
EXAMPLES = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "examples").glob("*.py")))
SMALL = ["augment.crop=64", "augment.resize_long=[64, 96]", "optim.batch=4", "stages.1.epochs=0.5"]


def own_blocks() -> list[str]:
    return [text for text in PYTHON if text not in EXAMPLES and textwrap.indent(text, "    ") not in EXAMPLES]


def test_blocks_are_lines_of_the_examples_or_are_run_below():
    own = own_blocks()
    assert len(PYTHON) == 6 and len(own) == 2 and "pplfast.Dataset(" in own[0] and "image_maps" in own[1]


@pytest.mark.slow
def test_the_reader_and_the_calls_for_one_image(tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "photos", 4)
    (tmp_path / "photos" / "photo1.jpg").rename(tmp_path / "photos" / "1.jpg")
    reader, calls = own_blocks()
    names: dict[str, object] = {}
    exec(reader, names)
    dataset = names["dataset"]
    assert isinstance(dataset, pplfast.Dataset) and dataset.ids == ("1", "photo0", "photo2", "photo3")
    own = {"backbone": "own_parts:Tiny", "weights": "none"}
    recipe = make_recipe(model=own, cam={"scales": [1.0]}, stages=[{"epochs": 1, "position": "part0", "grid": 2}])
    options = TrainOptions(threads=1)
    pplfast.train_classifier(recipe, dataset, "runs/photos/ppl/train", options=options)
    pplfast.generate_cams(pplfast.load_classifier("runs/photos/ppl/train"), dataset, recipe.cam, "cams")
    pplfast.generate_labels("cams", dataset, pplfast.LabelConfig(value=0.5, crf="none"), "pngs")
    segmentation = pplfast.SegmentationConfig(
        1, model=recipe.model, augment=recipe.augment, optim=recipe.optim, crf="none"
    )
    pplfast.train_segmentation(segmentation, dataset, "pngs", "runs/photos/ppl/segmentation", options=options)
    exec(calls, names)
    assert names["maps"].shape == (1, 60, 65) and names["labels"].shape == (60, 65)


@pytest.mark.slow
def test_the_command_of_the_page_trains(tmp_path, monkeypatch, one_thread):
    [text] = BASH
    variable, program, *words = shlex.split(text.replace("\\\n", " "))
    assert (variable, program) == ("PYTHONPATH=examples", "pplfast")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.chdir(tmp_path)
    make_demo(tmp_path / "runs" / "demo" / "data", DemoConfig(train=8, val=2, size=96))
    assert main([*words, "--threads", "1", *(word for change in SMALL for word in ("--set", change))]) == 0
    assert pplfast.read_info("runs/own").model["backbone"] == "custom_backbone:SmallNet"


def test_the_recipe_of_the_page(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    [text] = TOML
    recipe = recipe_from_dict({**tomllib.loads(text), "stages": [{"epochs": 1}]}, "the page")
    assert callable(LOSSES.find(recipe.loss)) and callable(POOLINGS.find(recipe.model.pooling))


@pytest.mark.parametrize("registry, name", [(LOSSES, "loss"), (POOLINGS, "model.pooling")])
def test_the_table_names_what_comes_with_pplfast(registry, name):
    [row] = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}`")]
    assert row.split("|")[2].strip() == ", ".join(f"`{known}`" for known in registry._known)


def test_the_table_names_the_backbones():
    [row] = [line for line in PAGE.splitlines() if line.startswith("| `model.backbone`")]
    assert row.split("|")[2].strip() == ", ".join(f"`{known}`" for known in NAMES)
