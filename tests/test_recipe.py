"""Recipes as they are read and changed by key; messages that say what to mend."""

import json

import pytest

import pplfast
from pplfast.cli import main
from pplfast.data.demo_config import DemoConfig
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
    assert [stage.epochs for stage in load_recipe("demo", {"stages": [{"epochs": 2}]}).stages] == [2]


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


@pytest.mark.parametrize("stage", ({"grid": 2}, {"epochs": 0}, {"steps": 0}))
def test_a_stage_needs_epochs_or_steps(stage):
    message = r"^test: 'stages\[1\].epochs' and 'steps' are missing or 0: one of the two must be above 0$"
    with pytest.raises(UserError, match=message):
        recipe_from_dict({"stages": [{"epochs": 1}, stage]}, "test")


def test_no_table_has_both_epochs_and_steps():
    for path, table in (
        ("stages[0]", {"stages": [{"epochs": 1.5, "steps": 9}]}),
        ("affinity", {"stages": [{"steps": 1}], "affinity": {"epochs": 1.5, "steps": 9}}),
        ("segmentation", {"stages": [{"steps": 1}], "segmentation": {"epochs": 1.5, "steps": 9}}),
    ):
        with pytest.raises(UserError) as error:
            recipe_from_dict(table, "test")
        assert str(error.value) == f"test: '{path}.epochs' = 1.5: must be left out with steps = 9"


def test_a_network_without_epochs_and_steps_is_left_out():
    for table, trained in (({}, False), ({"epochs": 0.5}, True), ({"steps": 1}, True), ({"epochs": 0}, False)):
        recipe = recipe_from_dict({"stages": [{"steps": 1}], "affinity": table, "segmentation": table}, "test")
        assert recipe.affinity.trained == recipe.segmentation.trained == trained


def lengths(recipe) -> list[tuple[float, int]]:
    return [(part.epochs, part.steps) for part in (*recipe.stages, recipe.affinity, recipe.segmentation)]


def test_setting_epochs_drops_steps_and_the_other_way_round():
    given = lengths(load_recipe("own-images"))
    assert given == [(2, 0), (2, 0), (2, 0), (8, 0)]
    assert lengths(load_recipe("own-images", ["stages.0.steps=9", "affinity.steps=7"])) == [
        (0, 9), (2, 0), (0, 7), (8, 0),
    ]  # fmt: skip
    assert lengths(load_recipe("own-images", ["affinity.walk.steps=9"])) == given  # another kind of steps
    counted = load_recipe("few-images", {"segmentation.epochs": 3, "affinity.epochs": 0})
    assert lengths(counted) == [(0, 90), (0, 120), (0, 0), (3, 0)]
    assert lengths(load_recipe("own-images", ["stages=[{epochs=1}]", "stages.0.steps=9"]))[0] == (0, 9)
    assert lengths(load_recipe("own-images", ["stages.0.steps=9", "stages.0.epochs=3"]))[0] == (3, 0)  # the last holds


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
    own = load_recipe("own-images")  # batches of 8; 2 + 2 epochs, then 2, then 8
    assert few_steps(own, 60) == (
        "warning: 60 images make 32 optimizer steps of the classifier, 16 of the boundary network and 64 of the "
        "segmentation network; masks of fewer than 200 (boundary network: 40) are mostly useless: --set "
        "stages.0.steps=100 --set stages.1.steps=100 --set affinity.steps=40 --set segmentation.steps=200 "
        "(or leave --recipe out)"
    )
    assert few_steps(
        load_recipe("own-images", ["affinity.epochs=0", "segmentation.epochs=0", "stages.0.steps=100"]), 60
    ) == (
        "warning: 60 images make 116 optimizer steps of the classifier; masks of fewer than 200 are mostly useless: "
        "--set stages.0.steps=173 --set stages.1.steps=28 (or leave --recipe out)"
    )
    counted = ["stages.0.steps=100", "stages.1.steps=100", "segmentation.steps=200"]
    assert few_steps(load_recipe("own-images", [*counted, "affinity.steps=40"]), 60) is None
    assert "make 39 optimizer steps of the boundary network; masks of fewer than 40 are" in few_steps(
        load_recipe("own-images", [*counted, "affinity.steps=39"]), 60
    )


def test_presets_are_long_enough_for_the_images_that_they_are_for():
    for name, images in (("few-images", 50), ("few-images", 60), ("few-images", 400), ("own-images", 400)):
        assert few_steps(load_recipe(name), images) is None, (name, images)
    demo = load_recipe("demo")
    assert few_steps(demo, DemoConfig().train) is None
    assert few_steps(demo, 100).startswith("warning: 100 images make 52 optimizer steps of the classifier; masks of")


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


def test_a_record_of_before_there_were_steps_had_none():
    recipe = load_recipe("own-images")
    old = json.loads(json.dumps(recipe_to_dict(recipe)))
    for table in (*old["stages"], old["affinity"], old["segmentation"]):
        assert table.pop("steps") == 0
    new = json.loads(json.dumps(recipe_to_dict(recipe)))
    assert old != new and completed(old) == completed(new) == new
    assert recipe_from_dict(old, "saved") == recipe
    other = json.loads(json.dumps(recipe_to_dict(load_recipe("own-images", ["stages.1.steps=90"]))))
    assert completed(old) != completed(other)
