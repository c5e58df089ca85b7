"""The same photos in many forms of file and layouts: what must be equal is, and what is not is found."""

import json
from pathlib import Path

import numpy as np
import pytest
from picture_files import picture, pillow

from pplfast.benchmarks import format_report, layouts
from pplfast.benchmarks.format_files import COLOURS, FORMS, GREY, OWN_FILE, PHOTO, PICTURES, Form
from pplfast.benchmarks.formats import main
from pplfast.benchmarks.label_data import make_model
from pplfast.benchmarks.layout_files import LAYOUTS
from pplfast.data.decoding import read_pixels
from pplfast.data.demo import DemoConfig, make_demo
from pplfast.data.demo_objects import KINDS
from pplfast.files import read_json, write_json

NAMES = tuple(kind.name for kind in KINDS)
CHOSEN = (
    (PHOTO, "PNG"), (PHOTO, "TIFF 16 bit"), (PHOTO, OWN_FILE), (PHOTO, "JPEG CMYK"), (COLOURS, "PNG RGB"),
    (COLOURS, "PNG palette"), (GREY, "PNG RGB"), (GREY, "TIFF grey 16 bit"),
)  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("formats") / "demo"
    make_demo(root, DemoConfig(train=1, val=4, size=96))
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_model(folder, classes=NAMES)
    described = read_json(folder / "classifier.json")
    write_json(folder / "classifier.json", described | {"recipe": {"cam": {"scales": [1.0], "flip": False}}})
    return folder


@pytest.fixture(autouse=True)
def commit(monkeypatch):
    """Which git is not asked for: it would be a process."""
    monkeypatch.setenv("PPLFAST_COMMIT", "0123")


def found(root: Path, tmp_path: Path, *words: str) -> tuple[int, dict]:
    out = tmp_path / "formats.json"
    code = main(["--data", str(root), "--list", "val", "--out", str(out), *words])
    return code, json.loads(out.read_text())


@pytest.mark.parametrize("form", [form for form in FORMS if form.encode], ids=lambda form: form.folder)
def test_a_lossless_form_holds_the_pixels_of_its_picture(tmp_path, form):
    expected = PICTURES[form.picture](picture())
    path = tmp_path / f"image{form.suffix}"
    path.write_bytes(form.encode(expected))
    pixels = read_pixels(path)
    assert np.array_equal(pixels, expected) or not form.lossless
    assert np.abs(pixels.astype(int) - expected).mean() < 3


def test_pictures_are_what_they_are_called():
    assert np.array_equal(PICTURES[PHOTO](picture()), picture())
    assert 200 < len(np.unique(PICTURES[COLOURS](picture()).reshape(-1, 3), axis=0)) <= 256
    grey = PICTURES[GREY](picture())
    assert grey.shape == picture().shape and (grey == grey[..., :1]).all()
    assert len({form.folder for form in FORMS}) == len(FORMS)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_forms_and_layouts_of_a_small_set(root, model, tmp_path, monkeypatch, capsys):
    forms = {(form.picture, form.name): form for form in FORMS}
    wrong = Form("negative", PHOTO, ".png", lambda pixels: pillow(255 - pixels, "PNG"))
    monkeypatch.setattr(format_report, "FORMS", [*(forms[key] for key in CHOSEN), wrong])
    code, value = found(root, tmp_path, "--model", str(model))
    said = capsys.readouterr().out
    rows = {(row["picture"], row["form"]): row for row in value["forms"]}
    assert list(rows) == [*CHOSEN, (PHOTO, "negative")]
    assert {row["decoder"] for row in rows.values()} == {"dali", "tifffile", "pillow"}
    assert rows[PHOTO, "TIFF 16 bit"]["decoder"] == "tifffile" and rows[PHOTO, "JPEG CMYK"]["decoder"] == "pillow"
    assert all(row["mean_bytes"] > 100 and row["images_per_second"] > 0 for row in rows.values())
    for key in CHOSEN:
        if forms[key].lossless:
            assert rows[key]["equal"] and rows[key]["pixel_difference"] == rows[key]["cam_difference"] == 0
    lossy, negative = rows[PHOTO, "JPEG CMYK"], rows[PHOTO, "negative"]
    assert not lossy["equal"] and 0 < lossy["pixel_difference"] < 128 and 0 < lossy["cam_difference"] < 1
    assert not negative["equal"] and negative["pixel_difference"] > 200
    assert code == 1 and len(value["failures"]) == 1
    assert value["failures"][0].startswith("the photo, negative: pixels differ by up to 2")
    assert f"FAILED: {value['failures'][0]}" in said and "DIFFERENT" in said
    assert value["images"] == 4 and value["commit"] == "0123" and value["hardware"]["cores"] and value["load_average"]
    assert {"torch", "tifffile", "imagecodecs"} <= set(value["versions"])
    assert value["command"].startswith("python -m pplfast.benchmarks.formats --data")
    assert all(layout["equal"] for layout in value["layouts"])


def test_every_layout_has_the_labels_of_the_xml(root, tmp_path, capsys):
    code, value = found(root, tmp_path, "--layouts")
    assert code == 0 and value["failures"] == [] and "forms" not in value
    rows = {row["layout"]: row for row in value["layouts"]}
    assert list(rows) == ["VOC", *LAYOUTS]
    assert len({row["labelled_by"] for row in rows.values()}) == len(rows)
    assert rows["YOLO"]["labelled_by"] == "labels: YOLO text files, named by data.yaml, 5 classes"
    for row in rows.values():
        assert row["equal"] and row["images"] == 4 and row["labels"] == rows["VOC"]["labels"]
    assert set(rows["VOC"]["labels"]) == set(NAMES) and sum(rows["VOC"]["labels"].values()) >= 4
    said = capsys.readouterr().out
    assert said.count(" equal, 4 images (") == len(rows)


def test_a_part_of_the_classes_is_the_same_part_in_every_layout(root, tmp_path):
    code, value = found(root, tmp_path, "--layouts", "--classes", f"{NAMES[3]}=7,{NAMES[0]}=2")
    assert code == 0
    assert {tuple(row["labels"].items()) for row in value["layouts"]} == {tuple(value["layouts"][0]["labels"].items())}
    assert value["classes"] == [NAMES[3], NAMES[0]]


def test_a_layout_with_other_labels_fails(root, tmp_path, monkeypatch):
    def without_first(photos, dataset, folder):
        place = LAYOUTS["CSV"](photos, dataset, folder)
        lines = (place / "labels.csv").read_text().splitlines()
        lines[1] = f"{photos[0].name},"
        (place / "labels.csv").write_text("\n".join(lines))
        return place

    monkeypatch.setitem(LAYOUTS, "wrong", without_first)
    code, value = found(root, tmp_path, "--layouts")
    assert code == 1 and value["failures"] == ["wrong: the labels are not those of the XML"]


def test_masks_are_compared_with_those_of_pycocotools(root, tmp_path, monkeypatch, capsys):
    pytest.importorskip("pycocotools", reason="pycocotools is not installed: make installs it")
    code, value = found(root, tmp_path, "--layouts")
    assert code == 0 and value["coco_masks"] == {"images": 4, "equal": 4}
    assert "masks of COCO equal to pycocotools': 4 of 4" in capsys.readouterr().out
    made = layouts.coco_mask
    monkeypatch.setattr(layouts, "coco_mask", lambda file, image: made(file, image) // 2 * (image.id != 1))
    code, value = found(root, tmp_path, "--layouts")
    assert code == 1 and value["failures"] == ["4 masks of COCO are not those of pycocotools"]


def test_without_pycocotools_masks_are_said_not_to_be_compared(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(layouts, "TOOLS", "no_such_package")
    code, value = found(root, tmp_path, "--layouts")
    assert code == 0 and value["coco_masks"] is None
    assert "masks of COCO: not compared" in capsys.readouterr().out


def test_errors_are_one_line(root, model, tmp_path, capsys):
    data = ["--data", str(root), "--list", "val"]
    assert main([*data, "--model", str(model), "--classes", "cat,dog"]) == 2
    assert (
        "formats: error: --classes cat,dog: the classifier was trained for pebble=1,crate=2" in capsys.readouterr().err
    )
    assert main(["--data", str(tmp_path), "--list", "val", "--layouts"]) == 2
    with pytest.raises(SystemExit):
        main(data)
