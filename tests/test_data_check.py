import json

import numpy as np
import pytest
from data_sets import SIZE, make_voc, save_image, save_list, save_xml, spoil_huffman_table
from PIL import Image

from pplfast import cli
from pplfast.data.check import KINDS, check_dataset, format_report
from pplfast.data.dataset import DataConfig, open_dataset
from pplfast.data.masks import write_mask

ERRORS = ("missing", "empty", "not-jpeg", "truncated", "damaged", "cmyk", "no-labels", "bad-labels", "bad-mask",
          "mask-size")  # fmt: skip
WARNINGS = ("grey", "orientation", "mask-ids", "mask-ignored", "mask-no-class")
NOTES = ("no-class",)


@pytest.fixture
def spoiled(tmp_path):
    """Two good images, and one image per kind of fault with the kind for its id; `damaged` shows when decoded."""
    spoiled = dict.fromkeys(("good", *ERRORS, *WARNINGS, *NOTES), ("cat",))
    root = make_voc(tmp_path / "set", {**spoiled, "last": ("dog",)})
    (root / "classes.txt").write_text("cat=1\ndog=2\n")
    images, annotations, masks = root / "JPEGImages", root / "Annotations", root / "SegmentationClass"
    whole = (images / "good.jpg").read_bytes()
    (images / "missing.jpg").unlink()
    (images / "empty.jpg").write_bytes(b"")
    save_image(images / "not-jpeg.jpg", format="PNG")
    (images / "truncated.jpg").write_bytes(whole[:-100])
    (images / "damaged.jpg").write_bytes(spoil_huffman_table(whole))
    save_image(images / "cmyk.jpg", "CMYK")
    (annotations / "no-labels.xml").unlink()
    (annotations / "bad-labels.xml").write_text("<annotation>")
    (masks / "bad-mask.png").write_bytes(b"")
    write_mask(masks / "mask-size.png", np.zeros(SIZE, np.uint8))  # height and width exchanged
    save_image(images / "grey.jpg", "L")
    turned = Image.Exif()
    turned[0x0112] = 6
    save_image(images / "orientation.jpg", exif=turned)
    save_xml(annotations / "no-class.xml", "zebra")
    write_mask(masks / "mask-ids.png", np.eye(*SIZE[::-1], dtype=np.uint8) * 20 + 1)
    write_mask(masks / "mask-ignored.png", np.full(SIZE[::-1], 255, np.uint8))
    write_mask(masks / "mask-no-class.png", np.eye(*SIZE[::-1], dtype=np.uint8) * 255)
    return root


def test_every_fault_is_named_and_none_stops_the_check(spoiled):
    problems, seen = [], []
    dataset = open_dataset(DataConfig(str(spoiled), "train"), problems)
    report = check_dataset(dataset, problems, progress=lambda: seen.append(1))
    found = {(problem.id, problem.kind, problem.severity) for problem in report.problems}
    assert found == {
        *((id, "truncated" if id == "damaged" else id, "error") for id in ERRORS),
        *((id, id, "warning") for id in WARNINGS),
        *((id, id, "note") for id in NOTES),
        ("", "other-names", "note"),
    }
    assert len(report.problems) == len(found)  # each once
    assert {kind for id, kind, _ in found if id} == set(KINDS) - {
        "too-large",
        "large",  # see test_untrusted_images
        "unreadable",
        "rare-jpeg",  # see test_data_images
        "other-format",
        "left-out",  # see test_data_folder
    }
    assert (report.errors, report.warnings) == (len(ERRORS), len(WARNINGS)) and len(seen) == len(dataset)
    assert report.counts == {"cat": len(dataset) - 4, "dog": 1}
    text = format_report(report)
    for problem in report.problems:
        assert f"{problem.id}: {problem.path}: {problem.message}".removeprefix(": ") in text


def test_result_does_not_depend_on_the_threads(spoiled):
    problems = []
    dataset = open_dataset(DataConfig(str(spoiled), "train"), problems)
    assert check_dataset(dataset, problems, threads=1) == check_dataset(dataset, problems, threads=8)


def check(capsys, *arguments):
    code = cli.main(["data", "check", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_command_exits_with_2_on_errors(spoiled, tmp_path, capsys):
    code, out, error = check(capsys, "--data", spoiled, "--list", "train", "--json", tmp_path / "out" / "report.json")
    assert code == 2 and error == "" and f"{len(ERRORS)} errors, {len(WARNINGS)} warnings" in out
    saved = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {problem["id"] for problem in saved["problems"]} == {"", *ERRORS, *WARNINGS, *NOTES}
    assert saved["images"] == saved["masks"] == 18 and saved["counts"]["cat"] == 14


def test_command_exits_with_0_on_warnings_and_on_good_sets(spoiled, capsys):
    save_list(spoiled, "odd", "good", *WARNINGS, "last")
    save_list(spoiled, "fine", "good", "last")
    code, out, _ = check(capsys, "--data", spoiled, "--list", "odd")
    assert code == 0 and f"0 errors, {len(WARNINGS)} warnings" in out
    code, out, _ = check(capsys, "--data", spoiled, "--list", "fine")
    assert code == 0 and "0 errors, 0 warnings" in out
    assert [line.split() for line in out.splitlines() if line.startswith("  cat ")] == [["cat", "1", "images"]]


def test_classes_of_no_image_are_a_warning(spoiled, capsys):
    save_list(spoiled, "fine", "good", "last")
    (spoiled / "classes.txt").unlink()  # VOC's 20 stand in for what was not given
    code, out, _ = check(capsys, "--data", spoiled, "--list", "fine")
    assert code == 0 and "warning: 18 of 20 classes have no image; without them: --classes cat,dog\n" in out
    _, out, _ = check(capsys, "--data", spoiled, "--list", "fine", "--classes", "cat,dog")
    assert "0 errors, 0 warnings" in out and "no image" not in out


def test_a_class_that_every_image_has_is_a_warning(spoiled, capsys, tmp_path):
    save_list(spoiled, "fine", "good", "grey")
    code, out, _ = check(capsys, "--data", spoiled, "--list", "fine", "--classes", "cat", "--json", tmp_path / "r.json")
    assert code == 0 and "warning: each of the 2 images has cat: nothing" in out and "add images without it" in out
    assert "0 errors, 1 warnings" in out  # the grey image
    assert len(json.loads((tmp_path / "r.json").read_text())["remarks"]) == 1
    save_list(spoiled, "fine", "good", "no-class")
    _, out, _ = check(capsys, "--data", spoiled, "--list", "fine", "--classes", "cat")
    assert "warning: " not in out and "0 warnings" in out and "counts as an image with background only" in out


def test_images_in_other_formats_are_not_called_missing(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    for name in ("b", "a"):
        save_image(tmp_path / "photos" / f"{name}.png", format="PNG")
    code, _, error = check(capsys, "--data", tmp_path / "photos", "--labels", "none")
    assert code == 2 and "holds no JPEG, but 2 images in other formats, as a.png; convert them" in error
    (tmp_path / "labels.csv").write_text("image,labels\na.jpg,cat\nc.jpg,cat\n")
    code, out, _ = check(capsys, "--data", tmp_path / "photos", "--labels", tmp_path / "labels.csv")
    assert code == 2 and "a.jpg: no such file; a.png is there: convert it to JPEG" in out
    assert "c.jpg: no such file; restore it, or take it off the list" in out


def test_without_labels_there_are_no_counts(spoiled, capsys):
    save_list(spoiled, "fine", "good", "no-labels")
    code, out, _ = check(capsys, "--data", spoiled, "--list", "fine", "--labels", "none")
    assert code == 0 and "no image labels" in out


@pytest.mark.parametrize("arguments, word", [
    (["--list", "nolist"], "nolist"),
    (["--list", "empty_list"], "names no image"),
    (["--list", "train", "--classes", "zebra,gnu"], "gnu"),
    (["--list", "train", "--classes", "cat=300"], "cat=300"),
])  # fmt: skip
def test_a_set_that_cannot_be_opened_is_one_line(spoiled, capsys, arguments, word):
    save_list(spoiled, "empty_list")
    if "gnu" in word:
        (spoiled / "Annotations" / "no-class.xml").unlink()  # it holds the zebra
    code, out, error = check(capsys, "--data", spoiled, *arguments)
    assert code == 2 and out == ""
    assert error.startswith("pplfast data check: error: ") and error.count("\n") == 1 and word in error


def test_real_voc_images_are_fine(voc_mini, capsys):
    classes = "bus=6,car=7,cat=8,person=15,train=19"
    code, out, _ = check(capsys, "--data", voc_mini, "--list", "val", "--classes", classes)
    assert code == 0 and "VOC2012/val: 60 images, 60 with a mask" in out and "0 errors, 0 warnings" in out


@pytest.mark.parametrize("value, why", [(255, "0, 255 alone: 255 is 'ignore'"), (1, "0, 1 alone: 1 is no class")])
@pytest.mark.parametrize("labels", ("auto", "none"))
@pytest.mark.parametrize("scored", (0, 1, 2))
def test_masks_without_a_class_are_a_warning_and_an_error_where_none_shows_any(tmp_path, scored, labels, value, why):
    root = make_voc(tmp_path, {"a": ("cat",), "b": ("dog", "cat"), "c": ()})
    config = DataConfig(root, list="train", classes="cat,dog", labels=labels)
    for name, own in {"a": 8, "b": 12}.items():
        mask = np.eye(*SIZE[::-1], dtype=np.uint8) * np.uint8(own if name in "ab"[:scored] else value)
        write_mask(root / "SegmentationClass" / f"{name}.png", mask)
    report = check_dataset(open_dataset(config))
    found = {problem.id: problem for problem in report.problems if problem.kind.startswith("mask")}
    assert set(found) == set("ab"[scored:]) and {problem.kind for problem in found.values()} <= {"mask-no-class"}
    assert {problem.severity for problem in found.values()} <= {"warning" if scored or labels == "none" else "error"}
    if scored < 2:
        assert why in found["b"].message and "save cat as 8, dog as 12" in found["b"].message


@pytest.mark.parametrize("scored", (0, 1))
def test_masks_of_which_none_can_be_scored_are_an_error(tmp_path, scored):
    root = make_voc(tmp_path, {"a": ("cat",), "b": ("dog",), "c": ("cat",)})
    dataset = open_dataset(DataConfig(root, list="train"))
    masks = [path for path in dataset.masks if path is not None]
    for path in masks[scored:]:
        write_mask(path, np.full(SIZE[::-1], 255, np.uint8))
    report = check_dataset(dataset)
    assert (report.errors > 0) == (scored == 0) and report.errors in (0, len(masks))


@pytest.mark.slow
def test_a_run_says_what_is_wrong_with_the_whole_set_and_begins_with_no_mask_of_0_and_255(tmp_path, capsys):
    root = make_voc(tmp_path / "set", {"a": ("cat",), "b": ("dog", "Cat"), "c": ()})
    save_list(root, "val", "a", "b", "c")
    for name in "ab":
        write_mask(root / "SegmentationClass" / f"{name}.png", np.eye(*SIZE[::-1], dtype=np.uint8) * 255)
    command = ["run", "--data", str(root), "--classes", "cat,dog", "--recipe", "demo", "--out", str(tmp_path / "out")]
    assert cli.main(command) == 2
    out, error = capsys.readouterr()
    assert "a.png: holds 0, 255 alone: 255 is 'ignore'" in error and "(2 such errors in set/train; " in error
    assert f"  warning: {root / 'Annotations'}: objects named 'Cat' in 1 image do not count" in out
