"""A folder for each class: which folders count, images of several classes, and what is left out."""

import os

import numpy as np
import pytest
from data_sets import SIZE, save_image, save_xml
from layout_sets import shown
from untrusted import refused

from pplfast import cli
from pplfast.data import class_folders
from pplfast.data.dataset import DataConfig, open_dataset
from pplfast.data.masks import write_mask
from pplfast.data.remarks import class_remarks

PLACES = ("cat/1.jpg", "cat/2.jpg", "dog/deep/3.jpg", "eel/4.jpg")


@pytest.fixture
def root(tmp_path):
    for seed, place in enumerate(PLACES):
        save_image(tmp_path / "set" / place, seed=seed)
    return tmp_path / "set"


def opened(root, problems=None, **settings):
    return open_dataset(DataConfig(str(root), **{"labels": "folders"} | settings), problems)


def left_out(dataset):
    return {problem.id: (problem.kind, problem.message) for problem in dataset.left_out}


# Classes


def test_the_first_folder_is_the_label(root):
    dataset = opened(root)
    assert dataset.ids == ("cat/1", "cat/2", "dog/deep/3", "eel/4") and dataset.classes.names == ("cat", "dog", "eel")
    assert dataset.classes.ids == (1, 2, 3)  # not all of them VOC's
    assert dataset.labels.tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_folders_of_names_that_are_all_vocs_keep_vocs_values(root):
    (root / "eel").rename(root / "bird")
    assert dict(zip(*(lambda c: (c.names, c.ids))(opened(root).classes))) == {"bird": 3, "cat": 8, "dog": 12}


def test_numbered_folders_are_classes(tmp_path):
    for name in ("001.Black_footed_Albatross", "002.Laysan_Albatross", "0"):
        save_image(tmp_path / name / "x.jpg", seed=len(name))
    assert opened(tmp_path).classes.names == ("0", "001.Black_footed_Albatross", "002.Laysan_Albatross")


@pytest.mark.parametrize("name", ["background", "None", "NEGATIVE", "negatives", "_background_", "__none__"])
def test_images_of_a_folder_of_background_have_no_class(root, name):
    save_image(root / name / "5.jpg", seed=5)
    dataset = opened(root)
    assert dataset.classes.names == ("cat", "dog", "eel") and shown(dataset)["5"] == set()


def test_a_folder_of_background_is_a_class_where_the_list_says_so(root):
    save_image(root / "negative" / "5.jpg", seed=5)
    dataset = opened(root, classes="cat,negative")
    assert dataset.labels.tolist() == [[1, 0], [1, 0], [0, 1]]


def test_folders_that_are_none_of_the_classes_are_left_out_and_named(root, capsys):
    dataset = opened(root, classes="eel=7,cat=9")
    assert dataset.ids == ("cat/1", "cat/2", "eel/4") and dataset.labels.tolist() == [[0, 1], [0, 1], [1, 0]]
    assert left_out(dataset) == {"dog": ("left-out", "holds 1 image of no class; name it in --classes")}
    assert cli.main(["data", "check", "--data", str(root), "--classes", "eel,cat"]) == 0
    assert f"dog: {root}/dog: holds 1 image of no class" in capsys.readouterr().out


def test_classes_that_no_folder_has_are_refused_with_the_folders(root):
    message = refused(root=root, labels="folders", classes="zebra,gnu")
    assert "no folder is named as one of the classes zebra, gnu" in message and "cat, dog, eel" in message
    message = refused(root=root, classes="zebra,gnu")  # of auto: the folders may mean anything
    assert "no image labels" in message and "or --classes names of its folders: cat, dog, eel" in message


def test_a_folder_that_can_be_no_class_is_refused(root):
    for name in ("a,b", "a=b", "ignore"):
        save_image(root / name / "x.jpg", seed=9)
        assert str(root) in (message := refused(root=root, labels="folders")) and repr(name) in message
        (root / name / "x.jpg").unlink()


def test_a_single_folder_is_a_class_of_all_images(root):
    dataset = opened(root / "dog")
    assert dataset.classes.names == ("deep",) and "each of the 1 images has deep" in class_remarks(dataset)[0]


def test_images_without_a_folder_are_left_out_and_named(root):
    save_image(root / "5.jpg")
    dataset = opened(root)
    assert len(dataset) == 4
    assert left_out(dataset) == {"5.jpg": ("left-out", "lies beside the folders of the classes; move it into one")}


def test_a_folder_of_images_alone_has_no_classes(root):
    assert "holds no folder of images; put the images of each class into" in refused(
        root=root / "cat", labels="folders"
    )


@pytest.mark.parametrize("names", [("train", "val"), ("Training", "test-2"), ("images",), ("valid", "unlabeled2017")])
def test_parts_of_a_data_set_are_named_instead(root, tmp_path, names):
    for name in names:
        (tmp_path / "all").mkdir(exist_ok=True)
        os.symlink(root if name == names[0] else root / "cat", tmp_path / "all" / name)
    message = refused(root=tmp_path / "all", labels="folders")
    assert "parts of a data set by their names" in message and f"give --data {tmp_path}/all/{min(names)}" in message


def test_a_class_may_be_called_train(root):
    (root / "dog").rename(root / "train")
    assert opened(root).classes.names == ("cat", "eel", "train")
    (root / "cat").rename(root / "val")
    (root / "eel").rename(root / "test")
    assert "parts of a data set" in refused(root=root, labels="folders", classes="train,bus")
    assert opened(root, classes="train,val").ids == ("train/deep/3", "val/1", "val/2")


def save_masks(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        write_mask(folder / f"{name}.png", np.zeros(SIZE[::-1], np.uint8))


def test_a_class_may_be_called_mask(tmp_path):
    for seed, place in enumerate(("mask/1.jpg", "mask/2.jpg", "no_mask/1.jpg")):
        save_image(tmp_path / place, seed=seed)
    dataset = opened(tmp_path, labels="auto")
    assert dataset.classes.names == ("mask", "no_mask") and len(dataset) == 3 and dataset.left_out == ()


@pytest.mark.parametrize("holder, masks", [("images", "labels"), ("img", "truth"), ("JPG", "masks")])
def test_images_beside_their_masks_are_no_classes(tmp_path, holder, masks):
    for seed, place in enumerate(("a.jpg", "deep/b.jpg")):
        save_image(tmp_path / holder / place, seed=seed)
    save_masks(tmp_path / masks / "deep", "b")
    save_masks(tmp_path / "other", "c")
    message = refused(root=tmp_path)
    assert "no image labels" in message
    assert f"or --data {tmp_path / holder} and --masks {tmp_path / masks}, or --labels folders if" in message
    advised = opened(tmp_path / holder, labels="none", masks=str(tmp_path / masks))
    assert advised.masks == (None, tmp_path / masks / "deep" / "b.png")


def test_images_beside_other_folders_are_no_classes(tmp_path):
    save_image(tmp_path / "images" / "a.jpg")
    save_image(tmp_path / "figures" / "b.jpg")
    message = refused(root=tmp_path)
    assert f"or --data {tmp_path}/images, or --labels folders if each of its folders is a class" in message
    assert opened(tmp_path, labels="folders").classes.names == ("figures", "images")
    assert opened(tmp_path, labels="auto", classes="images,figures").classes.names == ("images", "figures")


def test_several_parts_beside_another_folder_are_no_classes(root):
    for name in ("val", "train"):
        save_image(root / name / "5.jpg", seed=5)
    message = refused(root=root)
    assert f"or --data one of its folders, as {root}/train, or --labels folders if each" in message
    (root / "val" / "5.jpg").unlink()
    assert opened(root, labels="auto").classes.names == ("cat", "dog", "eel", "train")


def test_linked_folders_are_classes_too(root, tmp_path):
    save_image(tmp_path / "elsewhere" / "5.jpg", seed=5)
    (root / "fox").symlink_to(tmp_path / "elsewhere")
    assert shown(opened(root))["5"] == {"fox"}


def test_folders_of_masks_are_no_classes_and_those_that_are_used_are_not_left_out(root):
    for place in ("SegmentationClass/cat/1.png", "truth/cat/1.png"):
        (root / place).parent.mkdir(parents=True)
        write_mask(root / place, np.zeros(SIZE[::-1], np.uint8))
    dataset = opened(root, masks="truth")
    assert dataset.masks[0] == root / "truth" / "cat" / "1.png" and dataset.classes.names == ("cat", "dog", "eel")
    assert set(left_out(dataset)) == {"SegmentationClass"}
    (root / "truth").rename(root.parent / "truth")
    dataset = opened(root)
    assert dataset.masks[0] == root / "SegmentationClass" / "cat" / "1.png" and dataset.left_out == ()


# Several labels


def test_a_file_in_several_folders_is_one_image(root, tmp_path):
    save_image(root / "dog" / "1.jpg", seed=0)  # the same bytes as cat/1.jpg
    os.link(root / "cat" / "2.jpg", root / "eel" / "2.jpg")
    (root / "dog" / "2.jpg").symlink_to(root / "cat" / "2.jpg")
    dataset = opened(root)
    assert dataset.ids == ("cat/1", "cat/2", "dog/deep/3", "eel/4") and dataset.images[0] == root / "cat" / "1.jpg"
    assert shown(dataset) == {"1": {"cat", "dog"}, "2": {"cat", "dog", "eel"}, "3": {"dog"}, "4": {"eel"}}
    (tmp_path / "list.txt").write_text("dog/1.jpg\neel/2\n")
    listed = opened(root, list=str(tmp_path / "list.txt"))  # ids of the other folders are known as well
    assert shown(listed) == {"1": {"cat", "dog"}, "2": {"cat", "dog", "eel"}}


def test_other_bytes_under_the_same_name_are_another_image(root):
    save_image(root / "dog" / "1.jpg", seed=50)
    (root / "eel" / "1.jpg").write_bytes((root / "cat" / "1.jpg").read_bytes()[:-1] + b"x")  # of the same size
    assert opened(root).ids == ("cat/1", "cat/2", "dog/1", "dog/deep/3", "eel/1", "eel/4")


def test_the_same_bytes_twice_in_one_folder_are_two_images(root):
    save_image(root / "cat" / "deep" / "1.jpg", seed=0)
    assert opened(root).ids[:3] == ("cat/1", "cat/2", "cat/deep/1")


def test_an_image_of_a_class_and_of_the_background_has_the_class(root):
    save_image(root / "background" / "1.jpg", seed=0)
    assert opened(root).ids[0] == "background/1" and shown(opened(root))["1"] == {"cat"}


def test_only_files_of_one_name_and_size_are_read(root, monkeypatch):
    save_image(root / "dog" / "1.jpg", seed=0)
    save_image(root / "dog" / "2.jpg", seed=50, quality=20)
    (root / "eel" / "1.jpg").symlink_to(root / "cat" / "1.jpg")
    read = []
    opening = class_folders.open_regular
    monkeypatch.setattr(class_folders, "open_regular", lambda path: read.append(path) or opening(path))
    opened(root)
    assert read == [root / "cat" / "1.jpg", root / "dog" / "1.jpg"]


def test_what_cannot_be_read_is_an_image_of_its_own(root):
    for name in ("dog", "eel"):
        (root / name / "1.jpg").symlink_to("/nowhere/1.jpg")
    os.mkfifo(root / "dog" / "2.jpg")
    os.mkfifo(root / "eel" / "2.jpg")
    assert {"dog/1", "eel/1", "dog/2", "eel/2"} <= set(opened(root).ids)


# Lists


def test_a_listed_image_outside_the_folders_has_no_labels(root, tmp_path):
    save_image(root / "5.jpg")
    (tmp_path / "list.txt").write_text("5\ncat/1\nfox/6\ncat/gone\n")
    problems = []
    dataset = opened(root, problems, list=str(tmp_path / "list.txt"))
    assert [(problem.id, problem.kind) for problem in problems] == [("5", "no-labels"), ("fox/6", "no-labels")]
    assert dataset.labels.tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0]]  # a missing file has its folder
    assert "lies in no folder of a class" in refused(root=root, labels="folders", list=tmp_path / "list.txt")


def test_other_layouts_do_not_look_at_folders(root):
    save_xml(root / "Annotations" / "cat" / "1.xml", "dog")
    problems = []
    assert opened(root, problems, labels="auto").labels[0].sum() == 1 and len(problems) == 3
