"""Image files as lists and tables of other people name them."""

import os
import subprocess
import sys
import unicodedata
from importlib import resources

import numpy as np
import pytest
from data_sets import SIZE, make_voc, save_image
from untrusted import refused, write

from pplfast import cli
from pplfast.data.dataset import DataConfig, open_dataset
from pplfast.data.images import BadImage, inspect_image
from pplfast.data.masks import write_mask
from pplfast.files import read_json
from pplfast.recipe import load_recipe
from pplfast.train.identity import describe
from pplfast.train.masks import mask_record


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for name in ("a.jpg", "sub/b.jpg"):
        save_image(root / name)
    return root


def listed(root, *lines, labels="none", **settings):
    file = write(root.parent / "list.txt", "\n".join(lines).encode())
    return open_dataset(DataConfig(str(root), str(file), labels, **settings))


def refusal(root, *lines):
    return refused(root=root, list=write(root.parent / "list.txt", "\n".join(lines).encode()), labels="none")


def missing(root, text):
    """What is said of the one image of a list."""
    with pytest.raises(BadImage) as caught:
        inspect_image(listed(root, text).images[0])
    return str(caught.value)


# Spaces


def test_names_with_spaces_are_whole_names(photos):
    for name in ("a 1.jpg", "my photo 2.JPG", "sub/c d.jpg"):
        save_image(photos / name, format="JPEG")
    dataset = listed(photos, "a 1", "my photo 2", "sub/c d.jpg", "a")
    assert dataset.ids == ("a 1", "my photo 2", "sub/c d", "a") and all(path.is_file() for path in dataset.images)
    assert listed(photos, "a 1").ids == ("a 1",)  # though a.jpg is there
    assert "line 2: no image 'a 0'; " in refusal(photos, "a 1", "a 0")  # a.jpg is not what is meant


def test_a_second_word_is_a_flag_where_all_lines_have_one(photos):
    assert listed(photos, "a  1", "sub/b.jpg\t-1", "gone 0").ids == ("a", "sub/b", "gone")
    assert listed(photos, "gone 1", "also gone").ids == ("gone 1", "also gone")


@pytest.mark.parametrize("line", ["a.jpg 5", "a.jpg cat", "a 1 2", "a.jpg  1"])
def test_a_line_with_more_than_a_name_is_refused_with_what_is_expected(photos, line):
    message = refusal(photos, line, "sub/b")
    assert "list.txt, line 1: " in message and "expected the name of one image, or an image and a mask path" in message


def test_pairs_of_image_and_mask_may_hold_spaces(photos):
    save_image(photos / "c d.jpg")
    save_image(photos / "my masks" / "c d.png")
    dataset = listed(photos, "/c d.jpg /my masks/c d.png", "sub/b.jpg sub/b.png", "a.jpg my masks/c d.PNG")
    assert dataset.ids == ("c d", "b", "a") and all(path.is_file() for path in dataset.images)
    assert dataset.masks == (photos / "my masks" / "c d.png", None, None)


# Paths


def test_absolute_paths_into_the_data_folder_are_used(photos, tmp_path):
    (tmp_path / "link").symlink_to(photos)
    for root in (photos, tmp_path / "link"):
        for start in (photos, tmp_path / "link"):
            dataset = listed(root, f"{start}/sub/b.jpg", f"{start}/a.jpg")
            assert dataset.ids == ("sub/b", "a") and all(path.is_file() for path in dataset.images)


def test_absolute_paths_into_a_voc_layout_are_used(tmp_path):
    voc = make_voc(tmp_path / "voc", {"a": ("cat",)})
    image, mask = voc / "JPEGImages" / "a.jpg", voc / "SegmentationClass" / "a.png"
    for line in (f"{image}", f"{image} {mask}", "/JPEGImages/a.jpg", "/JPEGImages/a.jpg /SegmentationClass/a.png"):
        dataset = listed(voc, line, labels="xml", classes="cat")
        assert (dataset.ids, dataset.images, dataset.masks) == (("a",), (image,), (mask,))


def test_absolute_paths_elsewhere_are_named(photos, tmp_path):
    other = save_image(tmp_path / "other" / "x.jpg")
    message = refusal(photos, "a", str(other))  # a long path is shortened
    assert f"list.txt, line 2: '{str(other)[:10]}" in message and "lies outside the data folder" in message
    mask = write(tmp_path / "other" / "a.png", b"")
    message = refusal(photos, f"/a.jpg {mask}")
    assert f"line 1: '{str(mask)[:10]}" in message and "lies outside" in message
    assert listed(photos, "/a.jpg /masks/of/another/machine/a.png").masks == (None,)
    assert "write paths relative to --data" in missing(photos, "/home/somebody/x.jpg")
    for path in (r"C:\Users\x.jpg", "D:/x.jpg", r"\\server\share\x.jpg"):
        assert "leaves the data folder; write it relative to that" in refusal(photos, path)
    assert listed(photos, f"{photos}//etc/hosts").images == (photos / "etc" / "hosts",)
    assert "can be no file's name" in refusal(photos, f"{photos}//")
    table = write(tmp_path / "l.csv", f"{photos}/a.jpg,cat\n".encode())
    message = refused(root=photos, labels=table, classes="cat")
    assert "l.csv, line 1: " in message and "an absolute path; write it relative to the data folder" in message


# Files that are there under another name


def test_a_missing_image_that_is_there_under_another_name_is_found(photos):
    for name in ("0001.JPG", "x.jpeg", "y.png", "y.webp", "IMG_2.jpg", "z.HEIC"):
        write(photos / name, b"")
    (photos / "labels").mkdir()
    write(photos / "t.txt", b"")
    assert missing(photos, "0001.jpg") == "no such file; 0001.JPG is there: write that name, or rename the file"
    assert "x.jpeg is there" in missing(photos, "x.jpg")
    assert "y.png is there: write that name" in missing(photos, "y.jpg")
    assert listed(photos, "y").images == (photos / "y.png",)  # the usual format first
    for name in ("z", "z.jpg"):
        assert missing(photos, name) == "no such file; z.HEIC is there: convert it to PNG or JPEG"
    assert "IMG_2.jpg is there" in missing(photos, "img_2.jpg")
    assert "sub/b.jpg is there" in missing(photos, "sub\\b.jpg")
    assert "sub/b.jpg is there" in missing(photos, "Sub/b.jpg")
    for name in ("gone.jpg", "labels.jpg", "t.jpg", "sub\\gone.jpg"):
        assert missing(photos, name) == "no such file; restore it, or take it off the list"


def test_a_missing_image_that_lies_in_one_folder_below_is_found(photos):
    assert missing(photos, "b.jpg") == "no such file; sub/b.jpg is there: write that folder too, or move the file"
    save_image(photos / "other" / "b.jpg")
    os.utime(photos, ns=(1, 1))
    assert missing(photos, "b.jpg") == "no such file; restore it, or take it off the list"


def test_folders_below_are_not_searched_where_they_are_many(photos):
    for number in range(40):
        (photos / f"f{number}").mkdir()
    assert missing(photos, "b.jpg") == "no such file; restore it, or take it off the list"


@pytest.mark.parametrize("on_disk, written", [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_in_another_unicode_form_are_told_apart(photos, on_disk, written):
    save_image(photos / unicodedata.normalize(on_disk, "grüße/é.jpg"))
    message = missing(photos, unicodedata.normalize(written, "grüße/é.jpg"))
    assert "is there with its accents in another Unicode form: write that name" in message


def test_a_new_file_is_seen_by_the_next_message(photos):
    assert "restore it" in missing(photos, "n.jpg")
    write(photos / "n.png", b"")
    os.utime(photos, ns=(1, 1))  # as a slower clock than the file system's would show it
    assert "n.png is there" in missing(photos, "n.jpg")


def test_thousands_of_missing_images_cost_one_look_at_the_folder(photos, monkeypatch):
    seen = []
    listdir = os.listdir
    monkeypatch.setattr("pplfast.data.names.os.listdir", lambda path: seen.append(path) or listdir(path))
    for number in range(2_000):
        with pytest.raises(BadImage, match="restore it"):
            inspect_image(photos / f"gone{number}.jpg")
    # os is everybody's: a thread of an earlier test may list something else meanwhile.
    assert sum(str(path) == str(photos) for path in seen) <= 1


def test_a_voc_layout_may_hold_its_images_in_any_format(tmp_path, capsys):
    voc = make_voc(tmp_path / "voc", {"i0": ("cat",), "i1": ("cat",), "i2": ("cat",)})
    for name in ("i0.png", "i1.TIF"):
        save_image(voc / "JPEGImages" / name)
        (voc / "JPEGImages" / f"{name[:2]}.jpg").unlink()
    (voc / "JPEGImages" / "i2.jpg").rename(voc / "JPEGImages" / "i2.heic")
    assert cli.main(["data", "check", "--data", str(voc), "--list", "train", "--classes", "cat"]) == 2
    out = capsys.readouterr().out
    assert "formats: PNG RGB 8 bit (1), TIFF RGB 8 bit (1)" in out and "1 errors, 0 warnings" in out
    assert "i2.jpg: no such file; i2.heic is there: convert it to PNG or JPEG" in out


# One id for two files


def test_two_files_with_one_id_are_both_named(photos):
    save_image(photos / "a.jpeg")
    for message in (refused(root=photos, labels="none"), refusal(photos, "a.jpg", "sub/b", "a.jpeg")):
        assert f"{photos}/a.jpg" in message and f"{photos}/a.jpeg" in message and "line 0" not in message
    assert "list.txt, lines 1 and 3: " in message
    message = refusal(photos, "/a.jpg /m.png", "/sub/a.jpg /n.png")
    assert f"{photos}/a.jpg and {photos}/sub/a.jpg have the same id 'a'" in message


# Encodings


def test_byte_order_marks_are_no_part_of_what_people_write(tmp_path):
    assert read_json(write(tmp_path / "zero.json", b'\xef\xbb\xbf{"a": 1}')) == {"a": 1}
    preset = resources.files("pplfast.recipes").joinpath("demo.toml").read_bytes()
    assert load_recipe(str(write(tmp_path / "mine.toml", b"\xef\xbb\xbf" + preset))) == load_recipe("demo")


def test_a_training_of_images_whose_names_are_no_text_has_a_record(tmp_path):
    photos = tmp_path / "photos"
    for name in ("\udcff", "ö"):
        save_image(photos / f"{name}.jpg")
        write_mask(tmp_path / "masks" / f"{name}.png", np.zeros(SIZE[::-1], np.uint8))
    np.save(tmp_path / "l.npy", {"\udcff": np.array([1, 0]), "ö": np.array([0, 1])})
    settings = {"labels": str(tmp_path / "l.npy"), "classes": "cat,dog", "masks": str(tmp_path / "masks")}
    dataset = open_dataset(DataConfig(str(photos), **settings))
    recipe = load_recipe("demo")
    others = [describe(recipe, "plain", dataset.subset([index])) for index in (0, 1)]
    assert len({record["dataset"]["list_and_labels"] for record in [describe(recipe, "plain", dataset), *others]}) == 3
    assert mask_record("segmentation", {}, dataset, 0)["dataset"]["images"] == 2


@pytest.mark.slow
def test_names_are_found_where_the_systems_encoding_is_ascii(tmp_path):
    for name in ("grösse", "日本", "c"):
        save_image(tmp_path / "photos" / f"{name}.jpg")
    write(tmp_path / "l.csv", "grösse.jpg,cat\n日本,dog\nc.jpg,dog\n".encode())
    write(tmp_path / "l.txt", f"日本.jpg\n{tmp_path}/photos/grösse.jpg\n".encode())
    code = "import sys; from pplfast.cli import main; sys.exit(main(sys.argv[1:]))"
    plain = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", code, "data", "check", "--data", tmp_path / "photos", "--classes", "cat,dog"]
    for more in ([], ["--list", tmp_path / "l.txt"]):
        done = subprocess.run([*command, "--labels", tmp_path / "l.csv", *more], env=os.environ | plain,
                              capture_output=True, text=True)  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "") and "0 errors, 0 warnings" in done.stdout
