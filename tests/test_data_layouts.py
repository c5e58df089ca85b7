"""The layouts that people have their labels in: one data set in each of them, and which one a folder is in."""

import layout_sets
import numpy as np
import pytest
from data_sets import make_voc, save_image
from layout_sets import IMAGES, NAMES, shown
from untrusted import refused

from pplfast.data.dataset import DataConfig, open_dataset
from pplfast.data.layout import describe_layout

PLAIN = {
    "labels.csv": (layout_sets.table, "labels: labels.csv, 3 classes"),
    "columns": (layout_sets.columns, "labels: labels.csv, a column for each class, 3 classes"),
    "coco": (layout_sets.coco, "labels: COCO annotations _annotations.coco.json, 3 classes"),
    "yolo": (layout_sets.yolo, "labels: YOLO text files, named by data.yaml, 3 classes"),
    "folders": (layout_sets.folders, "labels: folder per class, 3 classes"),
}


def opened(root, **settings):
    return open_dataset(DataConfig(str(root), **settings))


@pytest.mark.parametrize("name", PLAIN)
def test_every_layout_of_the_same_images_gives_the_labels_of_the_xml(name, tmp_path):
    expected = opened(layout_sets.voc(tmp_path / "voc"), list="train", classes=",".join(NAMES))
    assert shown(expected) == {id: set(labels) for id, labels in IMAGES.items()}
    make, words = PLAIN[name]
    dataset = opened(make(tmp_path / "set"))
    assert shown(dataset) == shown(expected) and dataset.classes == expected.classes
    assert dataset.labelled_by == words and all(path.is_file() for path in dataset.images)
    assert dataset.name == "set" and dataset.left_out == ()


@pytest.mark.parametrize("name", PLAIN)
def test_a_list_takes_a_part_and_leaves_the_classes_as_they_are(name, tmp_path):
    whole = opened(PLAIN[name][0](tmp_path / "set"))
    chosen = (whole.ids[1], whole.ids[0])
    (tmp_path / "part.txt").write_text("".join(f"{id}.jpg\n" for id in chosen))
    part = opened(tmp_path / "set", list=str(tmp_path / "part.txt"))
    assert part.ids == chosen and part.classes == whole.classes and part.name == "set/part"
    assert np.array_equal(part.labels, whole.labels[[1, 0]])


@pytest.mark.parametrize("name", PLAIN)
def test_some_of_the_classes_can_be_chosen_in_any_order(name, tmp_path):
    root = PLAIN[name][0](tmp_path / "set")
    if name == "labels.csv":  # its names are not told from misspelt ones
        assert "unknown class 'ant'" in refused(root=root, classes="cow,bee")
        return
    dataset = opened(root, classes="cow=7,bee=9")
    assert dataset.classes.names == ("cow", "bee") and dataset.classes.ids == (7, 9)
    found = shown(dataset)
    assert found == {id: set(labels) & {"cow", "bee"} for id, labels in IMAGES.items() if id in found}
    (root / "classes.txt").write_text("cow=7\nbee=9\n")
    again = opened(root)
    assert again.classes == dataset.classes and np.array_equal(again.labels, dataset.labels)


def test_auto_takes_the_first_that_fits(tmp_path):
    root = tmp_path / "set"
    found = []
    for make in (layout_sets.folders, layout_sets.yolo, layout_sets.coco, layout_sets.table):
        make(root)
        found.append(describe_layout(DataConfig(str(root))).removeprefix("labels: ").split(",")[0])
    np.save(root / "cls_labels.npy", {"a1": np.eye(20)[3]})
    found.append(describe_layout(DataConfig(str(root))).removeprefix("labels: "))
    assert found == [
        "folder per class", "YOLO text files", "COCO annotations _annotations.coco.json", "labels.csv",
        "cls_labels.npy, 20 classes",
    ]  # fmt: skip
    assert describe_layout(DataConfig(str(root), labels="yolo")).startswith("labels: YOLO text files")
    assert describe_layout(DataConfig(str(root), labels="folders")).startswith("labels: folder per class")


def test_a_voc_layout_is_described_and_is_never_anything_else(tmp_path):
    root = make_voc(tmp_path / "voc", {"a": ("cat",)})
    layout_sets.folders(root)
    config = DataConfig(str(root), "train")
    assert describe_layout(config) == "labels: XML of Annotations, 20 classes"
    (root / "Annotations").rename(tmp_path / "gone")
    assert "neither Annotations/ nor cls_labels.npy; give --labels" in refused(root=root, list="train")


def test_without_labels_there_is_nothing_to_describe(tmp_path):
    root = layout_sets.save_images(tmp_path)
    assert describe_layout(DataConfig(str(root), labels="none")) == "labels: none"
    dataset = opened(root, labels="none")
    assert dataset.labels is None and dataset.labelled_by == "labels: none" and len(dataset.classes) == 20


def test_a_folder_without_labels_is_told_what_there_could_be(tmp_path):
    root = layout_sets.save_images(tmp_path / "set")
    message = refused(root=root)
    for word in ("cls_labels.npy", "labels.csv", "COCO", "YOLO", "a folder for each class", "--labels", "or none"):
        assert word in message
    for name in ("one.csv", "two.csv"):
        (root / name).write_text("image,label\na1.jpg,ant\n")
    assert f"if {root}/one.csv, two.csv has them, give it as --labels" in refused(root=root)


def test_the_only_csv_counts_if_it_is_one_of_the_images(tmp_path):
    root = layout_sets.folders(tmp_path / "set")
    (root / "losses.csv").write_text("epoch,loss\n1,0.5\n2,0.4\n")
    assert describe_layout(DataConfig(str(root))) == "labels: folder per class, 3 classes"
    (root / "losses.csv").write_text("image,label\nant/a1,dog\n")
    assert describe_layout(DataConfig(str(root))) == "labels: losses.csv, 1 class"


@pytest.mark.parametrize("table, words", [
    ("image,label\nant/a1.jpg,ant\nbee/a2.jpg,bee,cow\n", "line 3: 'bee/a2.jpg,bee,cow': expected image,label;label"),
    ("ant/a1.jpg;ant\nbee/a2.jpg;bee;cow\n", "line 1: "), ("ant/a1,\xff\n", "save it as UTF-8"),
])  # fmt: skip
def test_faults_of_the_only_csv_of_images_are_named(tmp_path, table, words):
    root = layout_sets.folders(tmp_path / "set")
    (root / "truth.csv").write_bytes(table.encode("latin-1"))
    message = refused(root=root)
    assert f"{root}/truth.csv" in message and words in message and "if it holds no labels, say with --labels" in message
    assert describe_layout(DataConfig(str(root), labels="folders")) == "labels: folder per class, 3 classes"


def test_faults_of_a_csv_of_other_things_are_nobodys(tmp_path):
    root = layout_sets.folders(tmp_path / "set")
    for table in (b"epoch,loss\n1,0.5\n2,0.4,0.3\n", b"\xff\xfe\x00,\n", b"\n\n,\n", b"a" * 200_000):
        (root / "losses.csv").write_bytes(table)
        assert describe_layout(DataConfig(str(root))) == "labels: folder per class, 3 classes"


def test_parts_of_a_data_set_are_no_classes(tmp_path):
    for part in ("train", "Val", "test2017"):
        layout_sets.save_images(tmp_path / "set" / part)
    message = refused(root=tmp_path / "set")
    assert "no image labels" in message and f"or --data one of its folders, as {tmp_path}/set/Val" in message
    message = refused(root=tmp_path / "set", labels="folders")
    assert (
        f"Val, test2017, train are parts of a data set by their names, not classes; give --data {tmp_path}/set/"
        in message
    )


def test_folders_of_a_voc_layout_below_are_no_classes(tmp_path):
    root = make_voc(tmp_path / "d" / "VOC2012", {"a": ("cat",)})
    assert f"give --data {root}" in refused(root=tmp_path / "d")
    assert f"give --data {root}" in refused(root=tmp_path / "d", labels="folders")


def test_captions_beside_images_are_not_labels(tmp_path):
    root = layout_sets.folders(tmp_path / "set")
    for path in list(root.rglob("*.jpg")):
        path.with_suffix(".txt").write_text("2 ants on a branch, 35 mm\n")
    assert describe_layout(DataConfig(str(root))) == "labels: folder per class, 3 classes"


@pytest.mark.parametrize("labels", ["folder", "labels.txt", "yolo.yaml", "COCO"])
def test_a_layout_of_another_name_is_refused(tmp_path, labels):
    save_image(tmp_path / "a.jpg")
    assert f"--labels {labels}: must be auto, xml, none, folders, yolo, or a file" in refused(
        root=tmp_path, labels=labels
    )
