"""`pplfast predict` as a user types it, on a network of random weights."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from docs_pages import ROOT
from label_jobs import BAD, jpeg
from own_parts import Tiny
from PIL import Image

import pplfast
from pplfast.benchmarks.shard_files import write_shards
from pplfast.cli import main
from pplfast.cli.launch import check_command
from pplfast.errors import UserError
from pplfast.models.segmentation import SegmentationNet
from pplfast.networks import SEGMENTATION
from pplfast.recipe import recipe_from_dict, recipe_to_dict
from pplfast.train.network_file import save_network

pytestmark = pytest.mark.usefixtures("one_thread")
TABLE = {
    "name": "tiny",
    "stages": [{"position": "part0", "grid": 2, "epochs": 1}],
    "model": {"backbone": "own_parts:Tiny", "weights": "none"},
    "segmentation": {
        "epochs": 1,
        "model": {"backbone": "own_parts:Tiny", "weights": "none"},
        "optim": {"precision": "fp32"},
        "scales": [0.75, 1.0],
        "crf": "none",
    },
}
CLASSES = {"class_names": ["cell", "city bus"], "class_ids": [3, 7]}


@pytest.fixture(scope="module")
def run(tmp_path_factory, one_thread) -> Path:
    """A run folder with a segmentation network, whose images had the range 0 to 1000."""
    root = tmp_path_factory.mktemp("run")
    torch.manual_seed(5)
    network = SegmentationNet(Tiny(), 3, "light")
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    settings = recipe_to_dict(recipe_from_dict(TABLE, "test"))["segmentation"]
    info = {"model": settings["model"], "head": "light", **CLASSES, "settings": settings, "range": [0, 1000]}
    save_network(network.eval(), "segmentation", info, root / "ppl" / "segmentation")
    return root


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "b").mkdir(parents=True)
    (tmp_path / "photos" / "a.jpg").write_bytes(jpeg(40, 24, seed=1))
    Image.open(tmp_path / "photos" / "a.jpg").rotate(90, expand=True).save(tmp_path / "photos" / "b" / "c.png")
    return tmp_path


def predict(*words: object) -> int:
    return main(["predict", *map(str, words), "--jobs", "1", "--threads", "1"])


def labels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.array(image)


def test_a_folder_becomes_labels_of_the_networks_classes(run, photos, capsys):
    assert predict("photos", "--model", run, "--out", "out", "--overlay") == 0
    said = capsys.readouterr()
    assert f"segmentation network: {run / 'ppl' / 'segmentation'}" in said.err and "CRF none" in said.err
    assert said.out.startswith("2 labels written to out in ") and said.out.endswith("drawings: out/overlays.html\n")
    assert labels(photos / "out" / "a.png").shape == (24, 40) and labels(photos / "out" / "b" / "c.png").shape == (
        40,
        24,
    )
    assert (photos / "out" / "classes.txt").read_text() == "cell=3\ncity bus=7\n"
    assert {str(path.relative_to("out")) for path in Path("out").rglob("*.jpg")} == {"a.overlay.jpg", "b/c.overlay.jpg"}
    found = np.unique(np.concatenate([labels(path).ravel() for path in Path("out").rglob("*.png")]))
    assert set(found.tolist()) <= {0, 3, 7} and len(found) > 1
    assert predict("photos", "--model", run / "ppl" / "segmentation", "--out", "out") == 0
    assert "0 labels written to out" in capsys.readouterr().out


def test_the_command_and_python_make_the_same_labels(run, photos):
    assert predict("photos/a.jpg", "photos/b/c.png", "--model", run, "--out", "out") == 0
    found = pplfast.predict(["photos/a.jpg", "photos/b/c.png"], run, "cpu")
    for one, name in zip(found, ("a", "c"), strict=True):
        np.testing.assert_array_equal(one.labels, labels(photos / "out" / f"{name}.png"))
    assert found[0].classes.names == ("cell", "city bus") and found[0].probabilities.shape == (3, 24, 40)


def test_the_labels_are_those_of_segment_test(run, photos):
    assert predict("photos", "--model", run, "--out", "out") == 0
    words = [
        "segment",
        "test",
        "--data",
        "photos",
        "--model",
        str(run),
        "--out",
        "same",
        "--jobs",
        "1",
        "--threads",
        "1",
    ]
    assert main(words) == 0
    for name in ("a.png", "b/c.png"):
        assert (photos / "out" / name).read_bytes() == (photos / "same" / name).read_bytes()
    assert predict("photos", "--model", run, "--out", "same", "--overlay") == 0  # one goes on with the other's folder


def test_other_scales_are_taken_and_not_mixed(run, photos, capsys):
    assert predict("photos", "--model", run, "--out", "out", "--scales", "1", "--no-flip") == 0
    assert "scales 1, CRF none (recipe of the training, changed by options)" in capsys.readouterr().err
    assert predict("photos", "--model", run, "--out", "out") == 2
    assert "out: was filled with flip = False, not True; choose another output folder" in capsys.readouterr().err


def test_a_bad_image_is_named_and_the_rest_is_labelled(run, photos, capsys):
    (photos / "photos" / "bad.jpg").write_bytes(BAD["truncated"][0]())
    assert predict("photos", "--model", run, "--out", "out", "--overlay") == 3
    said = capsys.readouterr().out
    assert "1 bad images (see out/manifest.jsonl):\n  bad: photos/bad.jpg: " in said and "truncated" in said
    assert (photos / "out" / "a.png").exists() and (photos / "out" / "classes.txt").exists()
    assert predict("photos/bad.jpg", "--model", run, "--out", "alone") == 2
    assert "error: alone: all 1 images failed (first: bad: " in capsys.readouterr().err
    assert predict("photos", "--model", run, "--out", "strict", "--fail-on-bad") == 2


def test_a_file_of_any_name_is_judged_by_its_content(run, photos):
    (photos / "photo").write_bytes((photos / "photos" / "a.jpg").read_bytes())
    assert predict("photo", "photos/a.jpg", "--model", run, "--out", "out") == 0
    np.testing.assert_array_equal(labels(photos / "out" / "photo.png"), labels(photos / "out" / "a.png"))


@pytest.mark.slow
def test_deep_images_have_the_networks_range(run, photos):
    """0 to 1000, whatever these are."""
    shallow = np.random.default_rng(2).integers(0, 256, (24, 40), dtype=np.uint8)
    Image.fromarray((shallow * (1000 / 255)).round().astype(np.uint16)).save(photos / "deep.png")
    Image.fromarray(shallow).save(photos / "shallow.png")
    assert predict("deep.png", "shallow.png", "--model", run, "--out", "out") == 0
    assert json.loads((photos / "out" / "settings.json").read_text())["range"] == [0, 1000]
    same = labels(photos / "out" / "deep.png") == labels(photos / "out" / "shallow.png")
    assert same.mean() > 0.99  # but for rounding


def test_an_image_that_exif_turns_is_labelled_as_stored(run, photos):
    (photos / "turned.jpg").write_bytes(BAD["rotated"][0]())
    assert predict("turned.jpg", "--model", run, "--out", "out") == 0
    assert labels(photos / "out" / "turned.png").shape == (24, 40)


def test_shards_become_shards_or_files(run, photos, capsys):
    pictures = [(f"k{i}", {".jpg": jpeg(seed=i)}) for i in range(3)]
    write_shards(str(photos / "crops"), iter(pictures), 2)
    assert predict("crops/*.tar", "--model", run, "--out", "out") == 0
    with tarfile.open(photos / "out" / "images-000000.tar") as tar:
        assert tar.getnames() == ["k0.seg.png", "k0.seg.json", "k1.seg.png", "k1.seg.json"]
        in_shard = np.array(Image.open(tar.extractfile("k0.seg.png")))
    assert (photos / "out" / "classes.txt").read_text() == "cell=3\ncity bus=7\n"
    capsys.readouterr()
    assert predict("crops", "--model", run, "--out", "drawn", "--overlay") == 2
    assert "error: --overlay: draws a file for each image, and the outputs of shards are shards; add --files" in (
        capsys.readouterr().err
    )
    assert predict("crops", "--model", run, "--out", "drawn", "--overlay", "--files") == 0
    np.testing.assert_array_equal(labels(photos / "drawn" / "images-000000" / "k0.png"), in_shard)
    assert (photos / "drawn" / "images-000000" / "k0.overlay.jpg").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        (["photso", "--out", "out"], "photso: no such file or folder"),
        (["photos", "--out", "photos/out"], "--out photos/out: lies among the data set's files"),
        (
            ["photos", "--out", "s3://bucket/out"],
            "--out s3://bucket/out: outputs of a data set of single files are files",
        ),
        (["photos", "--out", "out", "--crf", "deeplap"], "deeplap"),
        (["photos", "--out", "out", "--scales", "x"], "--scales x: must be numbers"),
        (["photos", "--out", "photos/a.jpg/x"], "photos/a.jpg"),
    ],
)
def test_a_mistake_is_one_line(run, photos, words, message, capsys):
    assert main(["predict", *words, "--model", str(run)]) == 2
    error = capsys.readouterr().err.splitlines()
    assert message in error[-1] and error[-1].startswith("pplfast predict: error: ")
    assert not (photos / "out").exists()


def test_a_wrong_model_is_named_before_the_images_are_looked_at(photos, capsys):
    (photos / "run" / "ppl" / "train").mkdir(parents=True)
    (photos / "run" / "ppl" / "train" / "classifier.json").write_text("{}")
    assert predict("photos", "--model", "run", "--out", "out") == 2
    assert "run: has a classifier and no segmentation network" in capsys.readouterr().err
    assert predict("photos", "--model", "rnu", "--out", "out") == 2
    assert "rnu: no such folder; give the folder of a finished `pplfast segment train`" in capsys.readouterr().err


def test_what_is_wrong_is_found_before_ranks_are_started(run, photos):
    words = ["predict", "photos", "--model", str(run), "--out", "out"]
    check_command(words, SEGMENTATION, here=True)
    for place, word, message in ((1, "photso", "photso: no such file"), (3, "rnu", "rnu: no such folder")):
        with pytest.raises(UserError, match=message):
            check_command([*words[:place], word, *words[place + 1 :]], SEGMENTATION, here=True)
        check_command([*words[:place], word, *words[place + 1 :]], SEGMENTATION, here=False)  # it is on other hosts
    write_shards(str(photos / "crops"), iter([("k", {".jpg": jpeg()})]), 2)
    with pytest.raises(UserError, match="the shards have no index yet; make it once"):
        check_command(["predict", "crops", *words[2:]], SEGMENTATION, here=True)


@pytest.mark.slow
def test_two_ranks_with_a_crf_in_processes_write_what_one_writes(run, photos, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))  # the backbone
    for number in range(6):
        (photos / "photos" / f"more{number}.jpg").write_bytes(jpeg(40, 24, seed=number))
    words = ["predict", "photos", "--model", str(run), "--crf", "deeplab", "--overlay", "--jobs", "1", "--threads", "1"]
    assert main([*words, "--out", "one"]) == 0
    assert main(["launch", "--ranks", "2", *words, "--out", "two"]) == 0
    files = {str(path.relative_to("one")) for path in Path("one").rglob("*") if path.suffix in (".png", ".jpg")}
    assert len(files) == 16
    for file in files | {"classes.txt"}:
        assert (photos / "one" / file).read_bytes() == (photos / "two" / file).read_bytes(), file
    page = (photos / "two" / "overlays.html").read_text()
    assert page.replace("Labels in two", "Labels in one") == (photos / "one" / "overlays.html").read_text()
