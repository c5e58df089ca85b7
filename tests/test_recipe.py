"""Recipes as they are read and changed by key; messages that say what to mend."""

import json

import pytest

import pplfast
from pplfast.cli import main
from pplfast.errors import UserError
from pplfast.recipe import ModelConfig, OptimConfig, load_recipe, preset_names, recipe_from_dict, recipe_to_dict
from pplfast.recipe.reading import completed
from pplfast.run.facts import few_steps

AS_TEXT = ["optim.lr=0.1", "stages.1.grid=3", "cam.scales=[1.0, 2.0]", "label.crf=none", "loss=soft_margin", "name=x"]
AS_MAPPING = {
    "optim.lr": 0.1,
    "stages.1.grid": 3,
    "cam.scales": [1.0, 2.0],
    "label.crf": "none",
    "loss": "soft_margin",
    "name": "x",
}


def test_a_mapping_and_the_texts_of_set_change_the_same():
    base, changed = load_recipe("demo"), load_recipe("demo", AS_MAPPING)
    assert load_recipe("demo", AS_TEXT) == changed != base
    assert (changed.optim.lr, changed.stages[1].grid, changed.cam.scales) == (0.1, 3, (1.0, 2.0))
    assert (changed.label.crf, changed.name) == ("none", "x")
    assert changed.stages[0] == base.stages[0] and changed.augment == base.augment
    assert load_recipe("demo", "optim.lr=0.1").optim.lr == 0.1
    assert load_recipe("demo", {"stages": [{"epochs": 2}]}).epochs == 2


def test_a_recipe_survives_its_saved_form():
    for name in preset_names():
        recipe = load_recipe(name)
        assert recipe_from_dict(json.loads(json.dumps(recipe_to_dict(recipe))), "saved") == recipe


@pytest.mark.parametrize(
    "override, message",
    [
        ("stages.5.epochs=2", r"--set stages.5.epochs=2: the recipe has 2 stages \(0 and 1\)"),
        ("stages.one.epochs=2", r"the recipe has 2 stages \(0 and 1\)"),
        ("optm.lr=2", r"the recipe has no key 'optm'; did you mean optim\? \(known: name, "),
        ("affinity.wlk.steps=2", r"'affinity' of the recipe has no key 'wlk'; did you mean walk\?"),
        (
            "optim.lrr=2",
            r"preset demo with optim.lrr=2: unknown key 'optim.lrr'; did you mean lr\? \(known here: lr, ",
        ),
        ("cam.scales.0=2", "'cam.scales' has no keys; set it as a whole"),
        ("name.x=2", "'name' has no keys; set it as a whole"),
        ("optim.lr", "--set optim.lr: must be KEY=VALUE with a key of the recipe, like optim.lr=0.02"),
        ("optim.lr=fast", "preset demo with optim.lr=fast: 'optim.lr' must be float, not 'fast'"),
        ("optim.lr=-1", r"'optim.lr' = -1.0: must be above 0"),
        ("segmentation.model.pooling=max", "'segmentation.model.pooling' = 'max': must be left out"),
    ],
)
def test_changes_that_cannot_be(override, message):
    with pytest.raises(UserError, match=message):
        load_recipe("demo", [override])
    if override == "stages.5.epochs=2":
        with pytest.raises(UserError, match="^stages.5.epochs: the recipe has 2 stages"):
            load_recipe("demo", {"stages.5.epochs": 2})


def test_a_stage_needs_its_epochs():
    with pytest.raises(UserError, match=r"^test: 'stages\[1\].epochs' is missing$"):
        recipe_from_dict({"stages": [{"epochs": 1}, {"grid": 2}]}, "test")


def test_the_number_of_stages_is_said_in_words():
    stage = {"epochs": 1}
    for count, text in ((1, r"1 stage \(0\)"), (4, r"4 stages \(0 to 3\)")):
        with pytest.raises(UserError, match=f"the recipe has {text}"):
            load_recipe("demo", {"stages": [stage] * count, "stages.9.grid": 2})


def test_names_and_files_that_are_no_recipe(tmp_path):
    with pytest.raises(
        UserError, match=r"^dem: neither a recipe file nor a preset; did you mean demo\? \(presets: coco"
    ):
        load_recipe("dem")
    with pytest.raises(UserError, match=r"zzz.toml: neither a recipe file nor a preset \(presets: "):
        load_recipe(tmp_path / "zzz.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for path, message in (
        (tmp_path, "cannot be read as a recipe file .Is a directory."),
        (tmp_path / "binary.toml", "not text"),
    ):
        with pytest.raises(UserError, match=message):
            load_recipe(path)


def test_no_message_holds_the_name_of_an_exception(tmp_path, capsys):
    data = ["--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["train", *data, "--recipe", "dem"]) == 2
    assert main(["train", *data, "--recipe", "demo", "--set", "stages.5.epochs=2"]) == 2
    text = capsys.readouterr().err
    assert "Error" not in text and "did you mean demo" in text and "2 stages (0 and 1)" in text


def test_the_public_recipe_is_this_one():
    assert pplfast.load_recipe is load_recipe and isinstance(load_recipe("demo"), pplfast.Recipe)


def test_a_training_that_is_too_short_is_told_beforehand():
    text = few_steps(load_recipe("own-images"), 60)
    assert "60 images make 32 optimizer steps" in text
    assert "--recipe few-images" in text and "--set stages.0.epochs=7" in text  # 2 of 4 epochs; 100 steps need 13.3
    assert few_steps(load_recipe("few-images"), 60) is None
    text = few_steps(load_recipe("few-images"), 24)  # 6 + 8 epochs are 42 steps
    assert text.endswith("at least: --set stages.0.epochs=15 --set stages.1.epochs=20")
    assert few_steps(load_recipe("own-images"), 200) is None


def test_a_record_gets_the_settings_that_it_lacks():
    """Of tables at any depth, as in the folders of all three networks; what it says stays."""
    record = {
        "recipe": {"stages": [], "optim": {"lr": 3.0}},
        "settings": {"model": {"backbone": "x"}, "crop": 5},
        "n": 1,
    }
    found = completed(record)
    assert found["recipe"]["loss"] == "soft_margin" and found["recipe"]["optim"] == vars(OptimConfig(lr=3.0))
    assert found["settings"] == {"model": vars(ModelConfig(backbone="x")), "crop": 5} and found["n"] == 1
    assert completed(found) == found and "loss" not in found
