"""What a plain folder of images holds: linked folders, other formats, and a data set that lies next to the root."""

import argparse
import errno
import json
import os

import numpy as np
import pytest
from data_sets import SIZE, make_voc, save_image
from untrusted import refused

from pplfast import cli
from pplfast.data import folder
from pplfast.data.dataset import DataConfig, open_dataset
from pplfast.data.folder import check_out_of_data
from pplfast.data.masks import write_mask
from pplfast.data.options import add_data_arguments, dataset_from_arguments
from pplfast.errors import UserError


@pytest.fixture
def photos(tmp_path):
    save_image(tmp_path / "photos" / "a.jpg")
    return tmp_path / "photos"


def opened(root, **settings):
    return open_dataset(DataConfig(str(root), **{"labels": "none"} | settings))


def left_out(root, **settings):
    return {(problem.id, problem.kind): problem.message for problem in opened(root, **settings).left_out}


# Linked folders


def test_linked_folders_are_entered(photos, tmp_path):
    save_image(tmp_path / "disk" / "deep" / "x.jpg")
    (photos / "day1").symlink_to(tmp_path / "disk")
    (photos / "b.jpg").symlink_to(tmp_path / "disk" / "deep" / "x.jpg")
    dataset = opened(photos)
    assert dataset.ids == ("a", "b", "day1/deep/x") and all(path.is_file() for path in dataset.images)
    assert dataset.left_out == ()


def test_a_folder_counts_once_whatever_leads_to_it(photos, tmp_path):
    save_image(photos / "real" / "x.jpg")
    save_image(tmp_path / "disk" / "y.jpg")
    for name, target in {"0": "real", "again": "real", "loop": ".", "real/up": "../real", "o1": "../disk",
                         "o2": "../disk", "../disk/back": "../photos"}.items():  # fmt: skip
        (photos / name).symlink_to(target, target_is_directory=True)
    assert opened(photos).ids == ("a", "o1/y", "real/x")


def test_a_link_to_a_folder_above_is_not_followed_but_named(photos):
    save_image(photos.parent / "elsewhere" / "z.jpg")
    (photos / "up").symlink_to("..")
    assert opened(photos).ids == ("a",)
    assert "holds this one" in left_out(photos)["up", "left-out"]


def test_links_that_lead_nowhere_are_named(photos, capsys):
    (photos / "day2").symlink_to("/nowhere/day2")
    (photos / "self").symlink_to("self")
    (photos / "b.jpg").symlink_to("/nowhere/b.jpg")
    found = left_out(photos)
    assert set(found) == {("day2", "left-out"), ("self", "left-out")}
    assert "leads nowhere (/nowhere/day2)" in found["day2", "left-out"]
    assert cli.main(["data", "check", "--data", str(photos), "--labels", "none"]) == 2
    out = capsys.readouterr().out
    assert "b.jpg: no such file; it is a link to /nowhere/b.jpg: restore that" in out
    assert "day2: " in out and "1 errors, 2 warnings" in out


@pytest.mark.parametrize("code, where, refusal", [
    (errno.EACCES, "sub", False), (errno.EIO, "sub", True), (errno.EACCES, "", True),
])  # fmt: skip
def test_a_folder_that_cannot_be_read_is_named(photos, monkeypatch, code, where, refusal):
    save_image(photos / "sub" / "b.jpg")
    scandir = os.scandir

    def failing(path):
        if os.fspath(path) == os.fspath(photos / where):
            raise OSError(code, os.strerror(code), os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(folder.os, "scandir", failing)
    if refusal:
        with pytest.raises(UserError, match=f"{photos / where}: "):
            opened(photos)
    else:
        assert opened(photos).ids == ("a",) and "may not be read" in left_out(photos)["sub", "left-out"]


# Other formats


def test_files_of_formats_that_are_not_read_are_counted_and_named(photos, capsys):
    save_image(photos / "b.PNG", format="PNG")
    save_image(photos / "sub" / "c.webp")
    for name in ("d.HEIC", "sub/f.dcm", "g.czi", "h.RW2", "a.nef", "notes.txt"):  # a.nef: another form of a.jpg
        (photos / name).write_bytes(b"")
    (photos / "e.jfif").write_bytes((photos / "a.jpg").read_bytes())  # JPEG by another suffix
    assert opened(photos).ids == ("a", "b", "e", "sub/c")
    report = photos.parent / "report.json"
    assert cli.main(["data", "check", "--data", str(photos), "--labels", "none", "--json", str(report)]) == 0
    out = capsys.readouterr().out
    assert "warning: file of another format, not used: 4" in out and "0 errors, 4 warnings" in out
    found = [problem["id"] for problem in json.loads(report.read_text())["problems"]]
    assert found == ["d.HEIC", "g.czi", "h.RW2", "sub/f.dcm"]


# Masks


def save_masks(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_mask(root / name, np.zeros(SIZE[::-1], np.uint8))


def test_masks_are_no_images(photos):
    save_masks(photos, "SegmentationClass/a.png", "SegmentationClass/other.png", "truth/a.png")
    whole = opened(photos)
    assert whole.ids == ("a", "truth/a") and whole.masks == (photos / "SegmentationClass" / "a.png", None)
    assert whole.left_out == ()  # the folder is in use
    scored = opened(photos, masks="truth")
    assert scored.ids == ("a",) and scored.masks == (photos / "truth" / "a.png",)


@pytest.mark.parametrize("name", ["SegmentationClass", "SegmentationObject", "masks", "Mask", "sub/mask"])
def test_a_folder_of_masks_that_is_not_in_use_is_named(photos, name):
    save_masks(photos, "truth/a.png", f"{name}/a.png", f"{name}/other.png")
    assert opened(photos, masks="truth").ids == ("a",)
    [((id, kind), message)] = left_out(photos, masks="truth").items()
    assert (id, kind) == (name, "left-out") and "a folder of masks by its name: name it with --masks" in message
    assert left_out(photos, masks=name) == {} and opened(photos, masks=name).ids == ("a", "truth/a")


@pytest.mark.parametrize("mask", ["a_mask", "a.label", "a-seg", "aGT"])
def test_masks_may_be_called_so_behind_the_name_of_their_image(photos, mask):
    save_masks(photos, f"masks/{mask}.png")
    assert opened(photos).ids == ("a",) and set(left_out(photos)) == {("masks", "left-out")}


@pytest.mark.parametrize("name", ["masks", "Masks", "mask", "sub/Mask"])
@pytest.mark.parametrize("other", ["b.png", "a.jpg", "deep/a.WEBP"])
def test_a_folder_that_is_called_mask_may_be_a_class(photos, name, other):
    save_image(photos / name / other)
    save_image(photos / name / ("c.png" if other == "b.png" else "sub/a.png"))
    assert len(opened(photos)) == 3 and left_out(photos) == {}


def test_a_folder_with_images_of_other_formats_is_none_of_masks(photos):
    save_image(photos / "mask" / "a.png")
    (photos / "mask" / "b.heic").write_bytes(b"")
    assert opened(photos).ids == ("a", "mask/a") and set(left_out(photos)) == {("mask/b.heic", "other-format")}


def test_folders_of_masks_are_known_wherever_their_images_are(photos, tmp_path):
    save_image(photos / "mask" / "b.jpg")  # a class, with masks of its own
    save_masks(photos, "mask/masks/b.png", "day1/masks/deep/a.png", "day1/masks/mask/x.png", "day2/masks/y.png")
    save_masks(tmp_path, "disk/a.png")
    (photos / "masks").symlink_to(tmp_path / "disk")
    (photos / "day1" / "masks" / "gone").symlink_to("/nowhere")
    assert opened(photos).ids == ("a", "day2/masks/y", "mask/b")
    assert {id for id, _ in left_out(photos)} == {"day1/masks", "mask/masks", "masks"}


def test_a_mask_beside_its_image_is_told_where_to_go(photos):
    save_masks(photos, "a.png")
    message = refused(root=photos, labels="none")
    assert f"{photos}/a.jpg and {photos}/a.png have the same id 'a'" in message
    assert "if the PNG is the mask of the other, move it into a folder of its own and give that as --masks" in message
    (photos / "a.png").rename(photos / "a.bmp")
    assert "--masks" not in refused(root=photos, labels="none")


def test_every_command_says_once_what_of_a_folder_it_does_not_use(photos, capsys, monkeypatch):
    parser = argparse.ArgumentParser()
    add_data_arguments(parser)
    arguments = parser.parse_args(["--data", str(photos), "--labels", "none"])
    dataset_from_arguments(arguments)
    assert capsys.readouterr().err == ""
    for name in "wxyz":
        (photos / f"{name}.heic").write_bytes(b"")
    dataset_from_arguments(arguments)
    said = capsys.readouterr().err
    assert "4 files or folders in it are not used (w.heic, x.heic, y.heic, ...)" in said and said.count("\n") == 1
    monkeypatch.setenv("RANK", "1")
    dataset_from_arguments(arguments)
    assert capsys.readouterr().err == ""


# Roots


@pytest.mark.parametrize("root, meant", [("d", "d/VOC2012"), (".", "d/VOC2012"), ("d/VOC2012/ImageSets", "d/VOC2012"),
                                         ("d/VOC2012/JPEGImages", "d/VOC2012")])  # fmt: skip
def test_a_root_above_or_below_the_voc_layout_is_named(tmp_path, monkeypatch, root, meant):
    make_voc(tmp_path / "d" / "VOC2012", {"a": ("cat",)})
    monkeypatch.chdir(tmp_path)
    assert f"{meant} has VOC layout; give --data {meant}" in refused(root=root, list="train")


def test_a_root_above_the_voc_layout_is_named_without_a_list_of_its_own(tmp_path):
    voc = make_voc(tmp_path / "d" / "VOC2012", {"a": ("cat",)})
    listed = voc / "ImageSets" / "Segmentation" / "train.txt"
    (tmp_path / "l.csv").write_text("a.jpg,cat\n")
    for settings in ({"list": listed}, {}, {"labels": tmp_path / "l.csv"}):
        assert f"give --data {voc}" in refused(root=voc.parent, **settings)
    make_voc(tmp_path / "d" / "VOC2007", {"a": ("cat",)})
    assert "VOC2007 and " in (message := refused(root=voc.parent, list="train")) and "one of them" in message
    assert opened(voc.parent).ids == ("VOC2007/JPEGImages/a", "VOC2012/JPEGImages/a")  # without labels they are images
    assert opened(voc / "JPEGImages", labels=str(tmp_path / "l.csv"), classes="cat").ids == ("a",)


@pytest.mark.parametrize("out, fits", [
    ("", False), ("JPEGImages", False), ("JPEGImages/new", False), ("Annotations", False), ("ImageSets/x", False),
    ("SegmentationClass", False), ("SegmentationClassAug", False), ("labels", True), ("../other", True), ("..", True),
    ("../JPEGImages", True), ("../link", False), ("../truth/labels", False),
])  # fmt: skip
def test_no_output_folder_lies_among_the_files_of_a_voc_layout(tmp_path, out, fits):
    voc = make_voc(tmp_path / "voc", {"a": ("cat",)})
    (tmp_path / "link").symlink_to(voc / "Annotations")
    data = DataConfig(str(voc), masks=str(tmp_path / "truth"))
    if fits:
        check_out_of_data(voc / out, data)
    else:
        with pytest.raises(UserError, match="lies among the data set's files"):
            check_out_of_data(voc / out, data)


def test_no_output_folder_lies_in_a_plain_folder_of_images(photos, monkeypatch):
    monkeypatch.chdir(photos)
    for out in (".", "new/labels", str(photos), "../photos/x"):
        with pytest.raises(UserError, match=f"give one outside it, like {photos.parent}/runs/photos"):
            check_out_of_data(folder.Path(out), DataConfig("."))
    check_out_of_data(folder.Path("../photos2"), DataConfig("."))
