"""The records of a run's steps in a stranger's folder: checked where they are read, and no way out of the folder."""

import json

import pytest
import torch
from data_sets import make_voc

from pplfast.cluster.ranks import Ranks
from pplfast.data.dataset import DataConfig, open_dataset
from pplfast.errors import UserError
from pplfast.files import check_inside
from pplfast.recipe import Recipe
from pplfast.run.config import RunConfig, absolute
from pplfast.run.record import read_record
from pplfast.run.steps import Steps
from pplfast.run.variant import output_files

ALONE = Ranks(0, 1, 1, torch.device("cpu"))


@pytest.mark.parametrize("name", ["ppl", "ppl/cams", "ppl/steps", "steps"])
def test_a_run_does_not_write_or_delete_through_a_link(tmp_path, name):
    out = tmp_path / "run"
    (out / name).parent.mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (out / name).symlink_to(tmp_path / "other")
    config = RunConfig(DataConfig("x"), DataConfig("x"), Recipe(name="x"), ("ppl",), out, 1)
    with pytest.raises(UserError, match=f"run/{name}: a symbolic link leads out of"):
        check_inside(out, output_files(config))


def test_the_data_set_of_a_record_is_found_from_any_working_folder(tmp_path, monkeypatch):
    root, here = make_voc(tmp_path / "voc", {"a": ("cat",)}), tmp_path / "here"
    (here / "truth").mkdir(parents=True)
    for name in ("train.txt", "mine.csv", "classes.lst"):
        (here / name).touch()
    monkeypatch.chdir(here)
    given = DataConfig("../voc", "train.txt", "mine.csv", "classes.lst", "truth")
    held = DataConfig(str(root), *(str(here / name) for name in ("train.txt", "mine.csv", "classes.lst", "truth")))
    assert absolute(given) == held
    monkeypatch.chdir("/")
    assert absolute(held) == held


def test_what_is_no_path_stays_a_word_whatever_the_working_folder_holds(tmp_path, monkeypatch):
    """Lists of the data set by name, layouts of labels, names of classes, a folder of masks in the data set."""
    root, here = make_voc(tmp_path / "voc", {"a": ("cat",)}), tmp_path / "here"
    for name in ("yolo", "folders", "xml", "auto", "none", "cat", "train", "0,255", "full", "SegmentationClass"):
        (here / name).mkdir(parents=True)
    monkeypatch.chdir(here)
    for labels in ("yolo", "folders", "xml", "auto", "none"):
        config = DataConfig(str(root), "train", labels, "cat", "SegmentationClass", range="0,255")
        assert absolute(config) == config
        (here / labels).rmdir()
        (here / labels).touch()
        assert absolute(config) == config
    (here / "train").rmdir()
    (here / "train").touch()
    assert absolute(config) == config and open_dataset(DataConfig(str(root), "train")).ids == ("a",)


def test_names_of_many_classes_are_no_path(tmp_path):
    """80 of COCO are longer than any file's name may be."""
    config = DataConfig(str(tmp_path), classes=",".join(f"class {number}" for number in range(80)))
    assert absolute(config) == config


FINISHED = {"settings": {}, "done": True, "values": {}, "seconds": 1.0, "stamp": "1764170000.000000"}


@pytest.mark.parametrize(
    "record",
    [
        {},
        [],
        7,
        {"settings": {}},
        {"settings": {}, "done": 1},
        {"settings": {}, "done": True},
        FINISHED | {"values": []},
        FINISHED | {"seconds": float("nan")},
        FINISHED | {"seconds": -1},
        FINISHED | {"seconds": "1"},
        FINISHED | {"stamp": 5},
        FINISHED | {"stamp": "<script>"},
        FINISHED | {"values": {"miou": "high"}},
        FINISHED | {"values": {"threshold": float("inf")}},
        FINISHED | {"values": {"missing": 1.5}},
        FINISHED | {"updated": "now"},
        FINISHED | {"values": {"content": ["a"]}},
        {"settings": {}, "done": False, "stamp": "<script>"},
        FINISHED | {"values": {"left_out": {"a": 1}}},
        FINISHED | {"values": {"declared": 3}},
    ],
)
def test_a_record_that_no_step_writes_is_refused_by_name(tmp_path, record):
    (tmp_path / "steps").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "steps" / "cams.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"steps/cams.json: "):
        Steps(tmp_path, ALONE, lambda text: None).run("cams", {"k": 1}, dict, tmp_path / "out")
    assert (tmp_path / "out").exists()


def test_a_value_that_a_record_lacks_is_an_error_that_names_it(tmp_path):
    (tmp_path / "cams.json").write_text(json.dumps(FINISHED))
    with pytest.raises(UserError, match=r"cams.json: not the record of a step .it has no value 'miou'"):
        read_record(tmp_path / "cams.json").values["miou"]


def test_a_step_deletes_links_and_not_what_they_lead_to(tmp_path):
    other, out = tmp_path / "other", tmp_path / "run" / "cams"
    other.mkdir()
    (other / "precious").touch()
    steps = Steps(tmp_path / "run", ALONE, lambda text: None)
    steps.run("cams", {"k": 1}, dict)
    out.symlink_to(other)
    steps.run("cams", {"k": 2}, dict, out)
    assert not out.is_symlink() and (other / "precious").exists()


def test_a_folder_where_a_step_makes_a_file_is_named(tmp_path):
    steps, out = Steps(tmp_path, ALONE, lambda text: None), tmp_path / "eval_cam.json"
    steps.run("eval_cam", {}, dict)
    out.mkdir()
    with pytest.raises(UserError, match=r"eval_cam.json: is a folder"):
        steps.run("eval_cam", {}, dict, out)
