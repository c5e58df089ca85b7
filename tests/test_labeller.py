"""One image in Python against the commands on the same image."""

from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from train_data import CLASSES, make_recipe, open_images, write_images

import pplfast
from pplfast.cli import main
from pplfast.data.masks import write_mask
from pplfast.errors import UserError
from pplfast.npy import load_npy_dict
from pplfast.train import TrainOptions

pytestmark = pytest.mark.slow
OPTIONS = TrainOptions(threads=1)
TABLES = {
    "augment": {"crop": 64, "resize_long": [64, 80]},
    "cam": {"scales": [0.5, 1.0], "precision": "fp32"},
    "model": {"backbone": "own_parts:Tiny", "weights": "none"},
    "stages": [{"position": "part0", "grid": 2, "epochs": 1}],
    "label": {"value": 0.3},
    "segmentation": {
        "epochs": 1,
        "model": {"backbone": "own_parts:Tiny", "weights": "none"},
        "augment": {"crop": 64, "resize_long": [64, 80]},
        "optim": {"batch": 8, "precision": "fp32"},
        "scales": [0.75, 1.0],
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory, one_thread):
    """RUN/ppl/train and RUN/ppl/segmentation, as `pplfast run` lays them out, trained for a few steps."""
    root = tmp_path_factory.mktemp("run")
    dataset = open_images(write_images(root / "images", 6))
    recipe = make_recipe(**TABLES)
    pplfast.train_classifier(recipe, dataset, root / "ppl" / "train", options=OPTIONS)
    rng = np.random.default_rng(0)
    for i, name in enumerate(dataset.ids):
        write_mask(root / "pngs" / f"{name}.png", rng.choice(np.array([0, 8, 10, 12], np.uint8), (60, 64 + i)))
    out = root / "ppl" / "segmentation"
    pplfast.train_segmentation(recipe.segmentation, dataset, root / "pngs", out, options=OPTIONS)
    return root


def command(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


def data(run):
    return ["--data", run / "images", "--labels", run / "images" / "labels.csv", "--classes", CLASSES]


def classes_of(run, name: str) -> list[str]:
    rows = dict(line.split(",") for line in (run / "images" / "labels.csv").read_text().splitlines())
    order = CLASSES.split(",")
    return sorted(rows[f"{name}.jpg"].split(";"), key=order.index)


def test_maps_and_labels_equal_those_of_the_commands(run, tmp_path):
    command("cam", *data(run), "--model", run / "ppl", "--out", tmp_path / "cams", "--npy")
    command("label", *data(run), "--model", run / "ppl" / "train", "--out", tmp_path / "labels", "--jobs", 1)
    labeller = pplfast.load_labeller(run / "ppl" / "train", "cpu")
    for name in ("photo0", "photo3"):
        path, own = run / "images" / f"{name}.jpg", classes_of(run, name)
        expected = load_npy_dict(tmp_path / "cams" / f"{name}.npy")
        maps = labeller.maps(path, own)
        assert maps.dtype == np.float32 and maps.shape == expected["high_res"].shape
        # Rows in other company: another order of additions.
        np.testing.assert_allclose(maps, expected["high_res"], atol=2e-5)
        np.testing.assert_array_equal(labeller.maps(path, own[::-1]), maps[::-1])
        labels = labeller.labels(path, own)
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, np.array(Image.open(tmp_path / "labels" / f"{name}.png")))


def test_the_segmentation_network_equals_its_command(run, tmp_path):
    path, network = run / "images" / "photo1.jpg", run / "ppl" / "segmentation"
    for own, words in ((None, data(run)[:2]), (classes_of(run, "photo1"), data(run))):
        out = tmp_path / ("told" if own else "free")
        command("segment", "test", *words, "--model", run / "ppl", "--out", out, "--jobs", 1)
        np.testing.assert_array_equal(
            pplfast.image_labels(network, path, own), np.array(Image.open(out / "photo1.png"))
        )
    labeller = pplfast.load_labeller(run / "ppl" / "segmentation", "cpu")
    probabilities = labeller.maps(path)
    assert probabilities.shape == (4, 60, 65)
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)
    np.testing.assert_array_equal(labeller.maps(path, ["cow"]), probabilities[[0, 3]])
    assert set(np.unique(labeller.labels(path, ["cow"]))) <= {0, 10}


def test_a_file_a_picture_and_an_array_are_the_same_image(run):
    labeller = pplfast.load_labeller(run / "ppl" / "train", "cpu")
    path = run / "images" / "photo2.jpg"
    with Image.open(path) as picture:
        pixels = np.array(picture.convert("RGB"))
        several = [pplfast.image_maps(labeller, image) for image in (path, str(path), picture, pixels, pixels[:, ::1])]
    assert several[0].shape == (3, *pixels.shape[:2])
    for maps in several[1:]:
        np.testing.assert_array_equal(maps, several[0])


def test_what_cannot_be_labelled(run, tmp_path):
    labeller = pplfast.load_labeller(run / "ppl" / "train", torch.device("cpu"))
    path = run / "images" / "photo0.jpg"
    for arguments, message in (
        ((np.zeros((4, 4)), ["cat"]), r"uint8 array \(H, W, 3\), not float64 \(4, 4\)"),
        ((path, ["cta"]), r"class 'cta': .*; did you mean cat\? \(known: cat, dog, cow\)"),
        ((path, "cat"), r"must be a list of names, \['cat'\]"),
        ((tmp_path / "none.jpg", ["cat"]), r"none.jpg: no such file; restore it"),
        ((path, None), "made of the image's own classes: give their names"),
    ):
        with pytest.raises(UserError, match=message):
            labeller.labels(*arguments)
    assert labeller.maps(path, []).shape == (0, 60, 64) and not labeller.labels(path, []).any()
    with pytest.raises(UserError, match="holds a classifier and a segmentation network; give one of "):
        pplfast.load_labeller(run / "ppl")
    with pytest.raises(UserError, match="holds no classifier.json"):
        pplfast.load_labeller(tmp_path)


def test_an_image_that_does_not_fit_the_memory_is_told(run, monkeypatch):
    labeller = pplfast.load_labeller(run / "ppl" / "segmentation", "cpu")
    path = run / "images" / "photo0.jpg"
    for error, expected in ((torch.OutOfMemoryError("CUDA"), UserError), (RuntimeError("another"), RuntimeError)):
        monkeypatch.setattr(labeller._segmenter.network, "_run", mock.Mock(side_effect=error))
        with pytest.raises(expected, match="64 x 60 pixels does not fit the memory|another"):
            labeller.maps(path)


def test_loaders_take_a_run_where_it_has_one_variant(run, tmp_path):
    assert pplfast.read_info(run) == pplfast.read_info(run / "ppl") == pplfast.read_info(run / "ppl" / "train")
    assert pplfast.load_segmentation(run)[1].names == tuple(CLASSES.split(","))
    (tmp_path / "plain").symlink_to(run / "ppl")
    (tmp_path / "ppl").symlink_to(run / "ppl")
    with pytest.raises(UserError, match="holds 2 classifiers; give one of .*plain/train, .*ppl/train"):
        pplfast.load_classifier(tmp_path)
