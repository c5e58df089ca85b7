import json

import numpy as np
import pytest
from data_sets import SIZE, make_voc, save_image, save_list, save_xml, spoil_huffman_table
from PIL import Image

from pplfast import cli
from pplfast.data.check import check_dataset
from pplfast.data.check_text import KINDS, format_report
from pplfast.data.dataset import DataConfig, open_dataset
from pplfast.data.masks import write_mask

ERRORS = ("missing", "empty", "not-image", "truncated", "damaged", "channels", "no-labels", "bad-labels", "bad-mask",
          "mask-size")  # fmt: skip
WARNINGS = ("converted", "frames", "orientation", "mask-ids", "mask-ignored", "mask-no-class")
NOTES = ("grey", "no-class")


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
    (images / "not-image.jpg").write_bytes(b"%PDF-1.7")
    (images / "truncated.jpg").write_bytes(whole[:-100])
    (images / "damaged.jpg").write_bytes(spoil_huffman_table(whole))
    save_image(images / "channels.jpg", "LAB", format="TIFF")
    save_image(images / "converted.jpg", "CMYK")
    save_image(images / "frames.jpg", format="GIF", save_all=True, append_images=[Image.new("RGB", SIZE)])
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
        "rare-jpeg",
        "range",  # see test_data_images
        "dark",
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
    assert saved["formats"]["JPEG CMYK 8 bit"] == 1 and saved["sizes"]["median"] == list(SIZE)
    assert saved["images"] == saved["masks"] == 20 and saved["counts"]["cat"] == 16


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
    assert "0 errors, 0 warnings" in out
    assert len(json.loads((tmp_path / "r.json").read_text())["remarks"]) == 1
    save_list(spoiled, "fine", "good", "no-class")
    _, out, _ = check(capsys, "--data", spoiled, "--list", "fine", "--classes", "cat")
    assert "warning: " not in out and "0 warnings" in out and "counts as an image with background only" in out


def test_images_in_formats_that_are_not_read_are_not_called_missing(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    for name in ("b", "a"):
        (tmp_path / "photos" / f"{name}.heic").write_bytes(b"\0\0\0\x18ftypheic")
    code, _, error = check(capsys, "--data", tmp_path / "photos", "--labels", "none")
    assert code == 2 and "holds 2 images of formats that are not read, as a.heic; convert them" in error
    (tmp_path / "labels.csv").write_text("image,labels\na.jpg,cat\nc.jpg,cat\n")
    code, out, _ = check(capsys, "--data", tmp_path / "photos", "--labels", tmp_path / "labels.csv")
    assert code == 2 and "a.jpg: no such file; a.heic is there: convert it to PNG or JPEG" in out
    assert "c.jpg: no such file; restore it, or take it off the list" in out


def check_photos(root, **files):
    """The report on a folder of images without labels. files: size, mode and suffix by their stems."""
    root.mkdir()
    for stem, (size, mode, suffix) in files.items():
        Image.new(mode, size).save(root / f"{stem}.{suffix}")
    return check_dataset(open_dataset(DataConfig(str(root), labels="none")))


def test_formats_and_decoders_are_counted_the_most_frequent_first(tmp_path):
    report = check_photos(
        tmp_path / "photos",
        a=((40, 30), "L", "jpg"),
        b=((40, 30), "RGBA", "png"),
        c=((40, 30), "RGB", "png"),
        d=((40, 30), "RGB", "png"),
        e=((40, 30), "I;16", "png"),
    )
    assert list(report.formats.items()) == [
        ("PNG RGB 8 bit", 2), ("JPEG L 8 bit", 1), ("PNG L 16 bit", 1), ("PNG RGBA 8 bit", 1)
    ]  # fmt: skip
    assert list(report.decoders.items()) == [("dali", 3), ("imagecodecs", 1), ("pillow", 1)]
    lines = format_report(report).splitlines()
    assert lines[1:5] == [
        "labels: none",
        "formats: PNG RGB 8 bit (2), JPEG L 8 bit (1), PNG L 16 bit (1), PNG RGBA 8 bit (1)",
        "decoders: dali (3), imagecodecs (1), pillow (1)",
        "sizes: all 40 x 30",
    ]


@pytest.mark.parametrize(
    ("widths", "median"), [((7,), 7), ((9, 1), 1), ((5, 1, 9), 5), ((1, 1, 1, 9), 1), ((2, 9, 9, 5), 5)]
)
def test_sizes_are_those_of_the_smallest_median_and_largest_image(tmp_path, widths, median):
    files = {f"i{number}": ((width, 10), "RGB", "png") for number, width in enumerate(widths)}
    report = check_photos(tmp_path / "photos", **files)
    smallest, largest = min(widths), max(widths)
    assert report.sizes == {"smallest": (smallest, 10), "median": (median, 10), "largest": (largest, 10)}
    assert json.loads(json.dumps(report.to_dict()))["sizes"]["median"] == [median, 10]
    if smallest < largest:
        assert f"\nsizes: {smallest} x 10 to {largest} x 10, median {median} x 10\n" in format_report(report)


def test_what_cannot_be_read_is_not_counted(tmp_path):
    root = make_voc(tmp_path, {"a": ("cat",), "b": ("cat",)})
    for name in "ab":
        (root / "JPEGImages" / f"{name}.jpg").write_bytes(b"")
    report = check_dataset(open_dataset(DataConfig(str(root), "train")))
    assert report.formats == report.sizes == report.decoders == {} and report.errors == 2
    assert format_report(report).splitlines()[2].split() == ["aeroplane", "0", "images"]


def test_without_labels_there_are_no_counts(spoiled, capsys):
    save_list(spoiled, "fine", "good", "no-labels")
    code, out, _ = check(capsys, "--data", spoiled, "--list", "fine", "--labels", "none")
    assert code == 0 and "\nlabels: none\n" in out and " cat " not in out


def test_where_the_labels_are_from_and_the_range_of_deep_images_are_said(tmp_path, capsys):
    root, report = tmp_path / "photos", tmp_path / "report.json"
    for name, values in {"cat/a.png": (100, 612), "background/b.png": (0, 100)}.items():
        (root / name).parent.mkdir(parents=True)
        Image.fromarray(np.tile(np.linspace(*values, 40).round().astype(np.uint16), (30, 1))).save(root / name)
    code, out, _ = check(capsys, "--data", root, "--range", "0.5,4095")
    assert code == 0 and out.splitlines()[1] == "labels: folder per class, 1 class"
    assert "\nrange of deep images: 0.5 to 4095\n" in out
    code, out, _ = check(capsys, "--data", root, "--json", report)
    saved = json.loads(report.read_text())
    assert f"\nrange of deep images: {saved['range'][0]:.10g} to {saved['range'][1]:.10g}\n" in out
    assert saved["labelled_by"] == "labels: folder per class, 1 class"
    assert saved["range"] == pytest.approx([0, 612], abs=5)
    code, out, _ = check(capsys, "--data", root, "--range", "full")
    assert code == 0 and "\nrange of deep images: full\n" in out


def test_no_range_is_said_of_images_of_8_bits_alone(tmp_path):
    report = check_photos(tmp_path / "photos", a=((40, 30), "L", "png"))
    assert report.deep == 0 and "range of" not in format_report(report)


@pytest.mark.parametrize("brightest", (0, 4095, 16190, 16448, 65535))
def test_deep_images_that_are_dark_over_the_full_range_are_a_warning(tmp_path, brightest):
    """16448 of 65535 are 64 of 255, 16190 are 63."""
    (tmp_path / "photos").mkdir()
    pixels = np.linspace(0, brightest, 1200).round().astype(np.uint16).reshape(30, 40)
    Image.fromarray(pixels).save(tmp_path / "photos" / "a.png")
    save_image(tmp_path / "photos" / "b.png", "L")  # black or not: it has no range
    report = check_dataset(open_dataset(DataConfig(str(tmp_path / "photos"), labels="none", range="full")))
    dark = [problem for problem in report.problems if problem.kind == "dark"]
    assert report.deep == 1 and report.errors == 0 and [problem.id for problem in dark] == ["a"] * (brightest < 16448)
    if dark:
        assert dark[0].severity == "warning"
        assert f"uses {round(brightest / 257)} of 255 of the full range of its 16 bits: give --range" in dark[0].message
    measured = check_dataset(open_dataset(DataConfig(str(tmp_path / "photos"), labels="none")))
    assert "dark" not in {problem.kind for problem in measured.problems}


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
