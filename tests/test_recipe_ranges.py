"""Values of a recipe that are none: one table of ranges for files, --set, --seed, saved recipes and Python."""

import dataclasses
import typing

import pytest

from pplfast.cli import main
from pplfast.errors import UserError
from pplfast.recipe import AugmentConfig, OptimConfig, Recipe, StageConfig, load_recipe, recipe_from_dict, settings
from pplfast.recipe.ranges import RANGES, short
from pplfast.recipe.reading import LARGEST_FILE

FAR_OUT = ("inf", "-inf", "nan", "1e38", "-1e38", "-5", "9" * 23, "1000000000")
NUMBERS = sorted(f"{kind}.{key}" for kind, keys in RANGES.items() for key in keys)
PATHS = {
    "ModelConfig": "model",
    "AugmentConfig": "augment",
    "OptimConfig": "optim",
    "StageConfig": "stages.0",
    "CamConfig": "cam",
    "LabelConfig": "label",
    "WalkConfig": "affinity.walk",
    "AffinityConfig": "affinity",
    "SegmentationConfig": "segmentation",
}


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 1000
    return text


def test_every_number_has_a_range():
    for kind in (getattr(settings, name) for name in (*PATHS, "Recipe")):
        for key, hint in typing.get_type_hints(kind).items():
            if hint in (int, float) or typing.get_args(hint)[:1] in ((int,), (float,)):
                assert key in RANGES[kind.__name__], f"{kind.__name__}.{key}"


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_out_of_range_are_refused_whichever_way_they_come(number, tmp_path):
    kind, key = number.split(".")
    path = f"{PATHS[kind]}.{key}" if kind in PATHS else key
    hint = typing.get_type_hints(getattr(settings, kind))[key]
    whole = int in (hint, *typing.get_args(hint))
    for text in FAR_OUT:
        if (whole and not text.lstrip("-").isdecimal()) or (kind == "Recipe" and text == FAR_OUT[-1]):
            continue
        if text == "-5" and RANGES[kind][key].holds(-5):
            continue
        count = 2 if key == "resize_long" else 1
        value = f"[{', '.join([text] * count)}]" if typing.get_origin(hint) else text
        with pytest.raises(UserError) as by_set:
            load_recipe("demo", [f"{path}={value}"])
        assert "must be" in one_line(by_set) and key in one_line(by_set)
        plain = int(text) if whole else float(text)
        with pytest.raises(UserError) as by_python:
            values = {key: (plain,) * count if typing.get_origin(hint) else plain}
            getattr(settings, kind)(**({"epochs": 1.0} if kind == "StageConfig" else {}) | values)
        assert one_line(by_python).startswith(f"{kind}.{key} = ")


def test_a_change_in_python_is_checked_as_well():
    recipe = load_recipe("demo")
    for change in ({"seed": -1}, {"seed": 10**23}):
        with pytest.raises(UserError, match=r"^Recipe.seed = .*: must be 0 or more, at most"):
            dataclasses.replace(recipe, **change)
    with pytest.raises(UserError, match=r"^OptimConfig.lr = nan: must be above 0, at most 100$"):
        dataclasses.replace(recipe.optim, lr=float("nan"))
    with pytest.raises(UserError, match=r"^StageConfig.epochs and 'steps' are missing or 0"):
        StageConfig(position="group3")
    assert StageConfig(0.5).epochs == 0.5 and StageConfig(steps=9, grid=2).steps == 9
    assert OptimConfig(clip=1.0, poly=0.0).clip == 1 and AugmentConfig(crop=32)


@pytest.mark.parametrize("command", ("train --data d --recipe demo", "run --data d --recipe demo"))
def test_a_seed_of_many_digits_is_refused(command, tmp_path, capsys):
    for seed in ("9" * 23, "-1"):
        assert main([*command.split(), "--out", str(tmp_path / "o"), "--seed", seed]) == 2
        text = capsys.readouterr().err
        assert text.count("\n") == 1 and "--seed: 'seed' = " in text and "must be 0 or more, at most 9223372036" in text


@pytest.mark.parametrize(
    "value, message",
    [
        ("optim.lr=" + "9" * 5000, "must be float"),
        ("seed=" + "9" * 5000, "must be int"),
        ("seed=0x" + "f" * 5000, "'seed' = <a number of 20000 bits>: must be 0 or more"),
        ("optim.lr=0x" + "f" * 5000, "'optim.lr' = inf: must be above 0"),
        ("cam.scales=" + "[" * 3000 + "]" * 3000, "must be a list"),
        ("cam.scales=" + str([1.0] * 65), "has 65 entries; must be at most 64"),
        ("stages." + "9" * 5000 + ".epochs=1", "the recipe has 2 stages"),
        ("model=3", "'model' must be a table, not 3"),
        ("optim.batch=true", "'optim.batch' must be int, not True"),
        ("optim.lr=false", "'optim.lr' must be float, not False"),
        ("cam.flip=1", "'cam.flip' must be bool, not 1"),
        ("name=1979-05-27", "'name' must be str, not datetime"),
        ('model.weights="a\\u0000b"', "without a NUL"),
        ("description=" + "x" * 5000, "has 5000 characters; must be at most 4096"),
        ("x" * 5000 + "=1", "unknown key 'xxx"),
    ],
)
def test_odd_values_are_one_short_line(value, message):
    with pytest.raises(UserError) as error:
        load_recipe("demo", [value])
    text = str(error.value)
    assert message in text and "\n" not in text


@pytest.mark.parametrize(
    "content, message",
    [
        (b"a = " + b"[" * 3000 + b"]" * 3000, "nested too deeply"),
        (b"seed = " + b"9" * 5000, "not valid TOML: Exceeds the limit"),
        (b"a" + b".a" * 3000 + b" = 1", "unknown key 'a'"),
        (b"seed = 1\0", "not valid TOML"),
        (b"\xff\xfe\x00", "not text in UTF-8"),
        (b"seed = inf", "'seed' must be int, not inf"),
        (b"[[stages]]\nepochs = inf", r"'stages[0].epochs' = inf: must be 0 or more, at most 100000"),
        (b"stages = [1]", "'stages[0]' must be a table, not 1"),
        (b"#" * (LARGEST_FILE + 1), "larger than 1000 kB"),
    ],
)
def test_odd_files_are_one_short_line(content, message, tmp_path):
    (tmp_path / "r.toml").write_bytes(content)
    with pytest.raises(UserError) as error:
        load_recipe(tmp_path / "r.toml")
    assert message in one_line(error) and "r.toml" in one_line(error)


def test_a_name_with_a_nul_is_no_recipe():
    with pytest.raises(UserError, match="cannot be read as a recipe file"):
        load_recipe("a\0b")


@pytest.mark.parametrize(
    "table", (None, [], "x", {"optim": []}, {"stages": {}}, {1: 2}, {"cam": None}, {"name": "\ud800"})
)
def test_a_saved_recipe_of_another_kind_is_refused(table):
    with pytest.raises(UserError, match="^saved: ") as error:
        recipe_from_dict(table, "saved")
    one_line(error)


def test_long_values_are_shown_short():
    deep = []
    for _ in range(10_000):
        deep = [deep]
    assert all(len(short(value)) < 200 for value in (deep, "x" * 10**6, 2**10**6, [2**10**6] * 100, b"x" * 10**6))


def test_presets_are_within_their_ranges():
    assert isinstance(load_recipe("voc12-ppl-wrn38"), Recipe)
