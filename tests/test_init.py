"""Settings that are found for a data set: by what they follow, that they can be read back, and that they stay."""

import json
import re
import shlex

import pytest
from data_sets import save_image

from pplfast.cli import main
from pplfast.cli.suggestion import recorded_suggestion
from pplfast.recipe import Recipe, load_recipe, preset_names, recipe_from_dict
from pplfast.recipe.suggested import (
    BASE,
    ENOUGH_TO_WALK,
    FEW,
    GPU_GIB,
    MOST_STEPS,
    SIDES,
    SMALLEST_SIDE,
    DataFacts,
    suggest,
)
from pplfast.recipe.writing import recipe_to_toml
from pplfast.run.facts import few_steps


def recipe_of(**facts):
    return load_recipe(BASE, suggest(DataFacts(**{"images": 1000, "long_side": 500} | facts)).settings)


def test_many_usual_photos_get_the_preset_as_it_is():
    assert suggest(DataFacts(1000, 500)).settings == () == suggest(DataFacts(1000, 500)).reasons


@pytest.mark.parametrize("gpu_gib", [0, 4, 80])
@pytest.mark.parametrize("images", [8, 60, 99, 100, 392, 393, 784, 785, 5000, 10**6])
def test_every_number_of_images_gets_enough_optimizer_steps_and_not_too_many(images, gpu_gib):
    recipe = recipe_of(images=images, gpu_gib=gpu_gib)
    assert few_steps(recipe, images) is None
    assert recipe.affinity.trained == (images >= ENOUGH_TO_WALK) and recipe.segmentation.trained
    fewest = 393 if gpu_gib < GPU_GIB else 785  # from here on the preset's epochs are enough
    assert ([stage.steps for stage in recipe.stages] == [FEW["stages.0"], FEW["stages.1"]]) == (images < fewest)
    for part in (*recipe.stages, recipe.affinity, recipe.segmentation):
        assert (part.steps or part.epochs * images / recipe.optim.batch) <= MOST_STEPS + 1


@pytest.mark.parametrize("side", [32, 64, 200, 340, 500, 760, 2000, 6000])
def test_maps_are_made_at_the_sizes_that_training_saw(side):
    """As for the usual photos: 500 pixels are tested at 250 to 750, and trained at 256 to 512."""
    recipe = recipe_of(long_side=side)
    for augment in (recipe.augment, recipe.affinity.augment, recipe.segmentation.augment):
        low, high = augment.resize_long
        assert augment == recipe.augment and augment.crop <= high and low >= 128
        usual = SIDES[0] <= side <= SIDES[1]
        assert high <= (512 if usual else max(2 * SMALLEST_SIDE, min(512, side)))
    for scales in (recipe.cam.scales, recipe.segmentation.scales):
        assert all(0.4 * low <= scale * side <= 1.6 * high for scale in scales)
    assert recipe.cam.scales[1] * side == pytest.approx(high, rel=0.2)


def test_a_gpu_gets_larger_batches():
    assert recipe_of(gpu_gib=40).optim.batch == 16 == recipe_of(gpu_gib=40).segmentation.optim.batch
    assert recipe_of(gpu_gib=4).optim.batch == 8


@pytest.mark.parametrize("name", preset_names())
def test_a_written_recipe_reads_as_the_same(tmp_path, name):
    recipe = load_recipe(name, {"seed": 7, "description": 'a "quoted" \\ name, ü'})
    (tmp_path / "a.toml").write_text(recipe_to_toml(recipe, ("of a test",)), encoding="utf-8")
    assert load_recipe(tmp_path / "a.toml") == recipe


def test_what_is_usual_is_not_written():
    recipe = recipe_from_dict({"name": "x", "stages": [{"epochs": 1.0}]}, "test")
    assert recipe_to_toml(recipe) == 'name = "x"\n\n[[stages]]\nepochs = 1.0\n' and recipe.cam == Recipe().cam


@pytest.fixture
def photos(tmp_path, monkeypatch):
    for index in range(6):
        save_image(tmp_path / "photos" / ("cat", "dog")[index % 2] / f"{index}.png", seed=index)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_init_writes_a_recipe_and_the_commands(photos, capsys):
    assert main(["init", "--data", "photos"]) == 0
    out = capsys.readouterr().out
    assert "photos: 6 images, labels: folder per class, 2 classes" in out and "classes: cat (3), dog (3)" in out
    assert "pplfast data check --data photos --sheet photos.html" in out
    assert re.search(
        r"^then run:  pplfast run --data photos --recipe photos\.toml --out runs/photos$", out, re.MULTILINE
    )
    recipe = load_recipe("photos.toml")
    assert recipe.name == "photos" and recipe.stages[0].steps == FEW["stages.0"]
    assert main(["init", "--data", "photos"]) == 0  # the same again changes nothing


def test_the_printed_commands_are_ones_that_a_shell_takes(photos, capsys):
    """A name with a space, and a value that begins like an option."""
    (photos / "photos").rename(photos / "my photos")
    arguments = ["--data", "my photos", "--range", "-5,7"]
    assert main(["init", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    check, chain = (line.partition("  ")[2] for line in lines if line.startswith(("check it:", "then run:")))
    assert check == "pplfast data check --data 'my photos' --range=-5,7 --sheet 'my photos.html'"
    assert main(shlex.split(check)[1:]) == 0 and (photos / "my photos.html").is_file()
    assert shlex.split(chain)[1:] == [
        *("run", "--data", "my photos", "--range=-5,7", "--recipe", "my photos.toml", "--out", "runs/my photos")
    ]
    assert main([*shlex.split(chain)[1:], "--dry-run"]) == 0


def test_init_overwrites_nothing(photos, capsys):
    (photos / "photos.toml").write_text("mine")
    assert main(["init", "--data", "photos"]) == 2
    assert "photos.toml: is there already, and differs; give --out" in capsys.readouterr().err
    assert (photos / "photos.toml").read_text() == "mine"


def test_a_run_without_a_recipe_takes_the_same_and_says_so(photos, capsys):
    assert main(["init", "--data", "photos"]) == 0
    capsys.readouterr()
    assert main(["run", "--data", "photos", "--out", "run", "--dry-run"]) == 0
    without = capsys.readouterr().out.splitlines()
    assert without[0] == "photos: 6 images, labels: folder per class, 2 classes"
    assert without[1].startswith(
        "recipe: own-images, changed for the data; no random walk, as there are very few images; optimizer steps"
    )
    assert main(["run", "--data", "photos", "--recipe", "photos.toml", "--out", "run", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == without[2:]


def test_the_settings_of_a_run_stay_as_they_were_found(photos, capsys):
    settings = ["name=first", "stages.0.steps=7"]
    (photos / "run").mkdir()
    record = {"suggested": settings, "data": {"train": {"root": str((photos / "photos").resolve())}}}
    (photos / "run" / "run.json").write_text(json.dumps(record))
    assert recorded_suggestion("run", "photos") == tuple(settings)
    assert recorded_suggestion("run", "elsewhere") == () == recorded_suggestion("none", "photos")
    assert main(["run", "--data", "photos", "--out", "run", "--set", "stages.1.steps=9", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "recipe first, seed 0" in out and "classifier: 7 + 9" in out and "that of the run in --out" in out


@pytest.mark.parametrize("text", ["[]", "{", '{"suggested": 3, "data": {"train": {"root": "x"}}}', '{"data": 5}'])
def test_a_damaged_record_is_no_suggestion(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    assert recorded_suggestion(tmp_path, "x") == ()
