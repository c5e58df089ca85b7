"""--model: from a run's folder to the network in it, and the classes that it was trained for."""

import argparse
import json
from pathlib import Path

import pytest
from PIL import Image

import pplfast
from pplfast.cli import main
from pplfast.cli.model import as_option, dataset_of_model, find_model, model_classes
from pplfast.data.options import add_data_arguments
from pplfast.errors import UserError
from pplfast.networks import BOUNDARY, CLASSIFIER, SEGMENTATION

CLASSES = {"class_names": ["cell", "city bus"], "class_ids": [1, 2]}


def network(folder: Path, kind=CLASSIFIER, **entries) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{kind.name}.json").write_text(json.dumps(CLASSES | entries))
    return folder


def refusal(path: Path, kind) -> str:
    with pytest.raises(UserError) as error:
        find_model(path, kind)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def run(tmp_path) -> Path:
    """The networks of a run with one variant."""
    for kind in (CLASSIFIER, BOUNDARY, SEGMENTATION):
        network(tmp_path / "run" / "ppl" / kind.folder, kind)
    return tmp_path / "run"


@pytest.mark.parametrize("kind", (CLASSIFIER, BOUNDARY, SEGMENTATION), ids=lambda kind: kind.name)
def test_a_run_a_variant_the_folder_and_its_files_mean_the_same_network(run, kind, capsys):
    folder = run / "ppl" / kind.folder
    assert find_model(folder, kind) == find_model(folder / f"{kind.name}.json", kind) == folder
    assert capsys.readouterr().err == ""
    for path in (run, run / "ppl"):
        assert find_model(path, kind) == folder
        assert capsys.readouterr().err == f"{kind.what}: {folder}\n"  # what was taken is said


def test_several_candidates_are_named(run):
    network(run / "plain" / "train")
    text = refusal(run, CLASSIFIER)
    assert f"holds 2 classifiers; give one of {run / 'plain' / 'train'}, {run / 'ppl' / 'train'}" in text
    assert find_model(run, SEGMENTATION) == run / "ppl" / "segmentation"


def test_a_run_of_several_seeds(tmp_path):
    seeds = tmp_path / "seeds"
    network(seeds / "seed0" / "ppl" / "train")
    assert find_model(seeds, CLASSIFIER) == seeds / "seed0" / "ppl" / "train"
    network(seeds / "seed1" / "ppl" / "train")
    assert "holds 2 classifiers" in refusal(seeds, CLASSIFIER)


def test_a_network_of_another_kind_leads_to_the_right_one(run, tmp_path):
    text = refusal(run / "ppl" / "train", SEGMENTATION)
    assert "it is a classifier, and a segmentation network is needed" in text
    assert text.endswith(f"give {run / 'ppl' / 'segmentation'}")
    alone = network(tmp_path / "alone")
    assert refusal(alone, BOUNDARY).endswith("make one with `pplfast refine train`")
    assert "no such folder" in refusal(tmp_path / "nowhere", CLASSIFIER)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "run.json").write_text("{}")
    text = refusal(tmp_path / "begun", SEGMENTATION)
    assert "has made no segmentation network yet: give `pplfast run` the same command again" in text
    (tmp_path / "empty").mkdir()
    assert "holds no classifier.json; give the folder of a finished `pplfast train`" in refusal(
        tmp_path / "empty", CLASSIFIER
    )


def arguments(root: Path, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="out")
    add_data_arguments(parser)
    return parser.parse_args(["--data", str(root), "--labels", "none", *words])


@pytest.fixture
def photos(tmp_path) -> Path:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "photos" / "a.jpg")
    return tmp_path / "photos"


@pytest.mark.parametrize("kind", (CLASSIFIER, SEGMENTATION), ids=lambda kind: kind.name)
def test_the_classes_are_the_networks(photos, run, kind):
    folder = run / "ppl" / kind.folder
    dataset = dataset_of_model(arguments(photos), folder, kind)
    assert dataset.classes.names == ("cell", "city bus") and dataset.classes == model_classes(folder, kind)


def test_other_classes_are_refused_with_both_lists(photos, run):
    folder = run / "ppl" / "segmentation"
    ours, theirs = "cell=1,city bus=2", "dog=12,cat=8"
    with pytest.raises(UserError) as error:
        dataset_of_model(arguments(photos, "--classes", "dog,cat"), folder, SEGMENTATION)
    assert ours in str(error.value) and f"--classes says {theirs}; leave --classes out" in str(error.value)
    (photos / "classes.txt").write_text("dog\ncat\n")
    with pytest.raises(UserError) as error:
        dataset_of_model(arguments(photos), folder, SEGMENTATION)
    assert f"classes.txt says {theirs}; give --classes '{ours}'" in str(error.value)
    assert as_option(dataset_of_model(arguments(photos, "--classes", ours), folder, SEGMENTATION).classes) == ours


def test_a_classifiers_labels_may_have_other_values(photos, run):
    classes = arguments(photos, "--classes", "cell=7,city bus=9")
    assert dataset_of_model(classes, run / "ppl" / "train", CLASSIFIER).classes.ids == (7, 9)
    with pytest.raises(UserError, match="was trained for the classes cell=1,city bus=2, but --classes says a=1,b=2"):
        dataset_of_model(arguments(photos, "--classes", "a,b"), run / "ppl" / "train", CLASSIFIER)


def test_a_boundary_network_of_before_leaves_the_classes_to_the_data_set(photos, tmp_path):
    folder = tmp_path / "edges"
    folder.mkdir()
    (folder / "boundary.json").write_text("{}")
    assert len(dataset_of_model(arguments(photos), folder, BOUNDARY).classes) == 20


def test_a_description_without_classes_is_one_line(photos, tmp_path, capsys):
    folder = network(tmp_path / "seg", SEGMENTATION)
    (folder / "segmentation.json").write_text('{"format": 1}')
    command = ["segment", "test", "--data", str(photos), "--model", str(folder), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert f"{folder / 'segmentation.json'}: does not say the network's classes" in error and error.count("\n") == 1


def test_the_classes_are_compared_before_the_labels_are_read(photos, run, tmp_path):
    """Else the message is of a label that is no class of the wrong list."""
    (tmp_path / "labels.csv").write_text("a.jpg,cell\n")
    words = ("--labels", str(tmp_path / "labels.csv"), "--classes", "dog,cat")
    with pytest.raises(UserError, match="was trained for the classes cell=1,city bus=2"):
        dataset_of_model(arguments(photos, *words), run / "ppl" / "train", CLASSIFIER)


@pytest.mark.parametrize(
    "name, load, table",
    [
        ("segmentation", pplfast.load_segmentation, {}),
        ("segmentation", pplfast.load_segmentation, {"model": {"backbone": 5}}),
        ("segmentation", pplfast.load_segmentation, {"model": {"colour": 5}}),
        ("boundary", pplfast.load_boundaries, {}),
        ("boundary", pplfast.load_boundaries, {"backbone": 5, "output_stride": 16}),
    ],
)
def test_a_description_that_is_none_is_named(name, load, table, tmp_path):
    (tmp_path / f"{name}.json").write_text(json.dumps({"format": 1, **table}))
    with pytest.raises(UserError, match=rf"{name}\.json: not the description of a {name} network"):
        load(tmp_path)
