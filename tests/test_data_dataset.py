import argparse

import numpy as np
import pytest
from data_sets import make_voc, save_image, save_list, save_xml

from pplfast.data.classes import VOC, VOC_NAMES
from pplfast.data.dataset import DataConfig, open_dataset
from pplfast.data.options import add_data_arguments, dataset_from_arguments
from pplfast.errors import UserError

LABELS = {"2007_000032": ("cat", "dog"), "2007_000033": ("dog",), "2007_000039": ("person", "cat")}


@pytest.fixture
def voc(tmp_path):
    return make_voc(tmp_path / "VOC2012", LABELS)


def names(dataset, index):
    return {name for name, on in zip(dataset.classes.names, dataset.labels[index], strict=True) if on}


def vectors(ids, order=VOC_NAMES):
    return {
        id: np.array([name in LABELS[key] for name in order], np.float32) for id, key in zip(ids, LABELS, strict=True)
    }


def open_error(**settings):
    with pytest.raises(UserError) as caught:
        open_dataset(DataConfig(**{key: str(value) for key, value in settings.items()}))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Lists


def test_voc_root_with_bare_ids(voc):
    dataset = open_dataset(DataConfig(str(voc), "train"))
    assert dataset.name == "VOC2012/train" and dataset.ids == tuple(LABELS) and len(dataset) == 3
    assert dataset.classes == VOC and dataset.labels.dtype == np.uint8 and dataset.labels.shape == (3, 20)
    assert [names(dataset, i) for i in range(3)] == [set(objects) for objects in LABELS.values()]
    assert dataset.images[1] == voc / "JPEGImages" / "2007_000033.jpg" and dataset.images[1].is_file()
    assert dataset.masks[1] == voc / "SegmentationClass" / "2007_000033.png"


def test_list_of_image_and_mask_paths(voc, tmp_path):
    augmented = voc / "SegmentationClassAug"
    augmented.mkdir()
    (voc / "SegmentationClass" / "2007_000033.png").rename(augmented / "2007_000033.png")
    file = tmp_path / "train_aug.txt"
    file.write_text(
        "/JPEGImages/2007_000033.jpg /SegmentationClassAug/2007_000033.png\n"
        "/JPEGImages/2007_000039.jpg /SegmentationClassAug/2007_000039.png\n"
    )
    dataset = open_dataset(DataConfig(str(voc), str(file)))
    assert dataset.name == "VOC2012/train_aug" and dataset.ids == ("2007_000033", "2007_000039")
    assert dataset.images[0] == voc / "JPEGImages" / "2007_000033.jpg"
    assert dataset.masks == (augmented / "2007_000033.png", None)  # the second is not there


def test_list_of_image_sets_main_counts_every_line(voc):
    save_list(voc, "cat_train", "2007_000032  1", "2007_000033 -1", "2007_000039  0", kind="Main")
    assert open_dataset(DataConfig(str(voc), "cat_train")).ids == tuple(LABELS)


def test_segmentation_list_goes_before_main(voc):
    save_list(voc, "train", "2007_000039", kind="Main")
    assert len(open_dataset(DataConfig(str(voc), "train"))) == 3


def test_missing_list_names_those_that_exist(voc):
    save_list(voc, "val", "2007_000039")
    assert "'trian'" in open_error(root=voc, list="trian") and "train, val" in open_error(root=voc, list="trian")
    assert "--list is not given" in open_error(root=voc)


def test_empty_list_duplicate_and_malformed_lines(voc):
    file = save_list(voc, "bad")
    assert str(file) in open_error(root=voc, list="bad") and "names no image" in open_error(root=voc, list="bad")
    save_list(voc, "bad", "2007_000032", "", "2007_000033", "2007_000032")
    assert "line 4: '2007_000032' is there already in line 1" in open_error(root=voc, list="bad")
    save_list(voc, "bad", "2007_000032 a b")
    assert "line 1" in open_error(root=voc, list="bad")
    save_list(voc, "bad", "../../outside")
    assert "leaves the data folder" in open_error(root=voc, list="bad")
    file.write_bytes(b"\xff\xfe\x00")
    assert "not a readable list" in open_error(root=voc, list="bad")


def test_missing_root(tmp_path):
    assert "no such folder" in open_error(root=tmp_path / "nowhere")


# Labels


def test_objects_of_other_classes_are_ignored_in_xml(voc):
    dataset = open_dataset(DataConfig(str(voc), "train", classes="person=15,cat=8"))
    assert dataset.labels.tolist() == [[0, 1], [0, 0], [1, 1]] and dataset.classes.ids == (15, 8)


def test_xml_with_none_of_the_classes_is_an_error(voc):
    message = open_error(root=voc, list="train", classes="zebra")
    assert "none of the 3 images" in message and "zebra" in message and "cat, dog, person" in message


def test_difficult_objects_count_unless_told(voc):
    save_xml(voc / "Annotations" / "2007_000032.xml", "cat", "dog", difficult=("dog",))
    assert names(open_dataset(DataConfig(str(voc), "train")), 0) == {"cat", "dog"}
    assert names(open_dataset(DataConfig(str(voc), "train", difficult=False)), 0) == {"cat"}


def test_missing_and_broken_xml(voc):
    missing, broken = (voc / "Annotations" / f"{id}.xml" for id in list(LABELS)[:2])
    missing.unlink()
    assert str(missing) in open_error(root=voc, list="train")
    broken.write_text("<annotation><object>")
    problems = []
    dataset = open_dataset(DataConfig(str(voc), "train"), problems)
    assert [(p.id, p.kind, p.severity, p.path) for p in problems] == [
        ("2007_000032", "no-labels", "error", missing),
        ("2007_000033", "bad-labels", "error", broken),
    ]
    assert not dataset.labels[:2].any() and names(dataset, 2) == {"person", "cat"}


@pytest.mark.parametrize("keys", [list(LABELS), [int(id.replace("_", "")) for id in LABELS],
                                  [np.str_(id) for id in LABELS]])  # fmt: skip
def test_npy_labels_with_string_and_int_ids(voc, tmp_path, keys):
    file = tmp_path / "cls_labels.npy"
    np.save(file, vectors(keys))
    dataset = open_dataset(DataConfig(str(voc), "train", labels=str(file)))
    assert [names(dataset, i) for i in range(3)] == [set(objects) for objects in LABELS.values()]
    few = open_dataset(DataConfig(str(voc), "train", labels=str(file), classes="person,dog"))
    assert few.labels.tolist() == [[0, 1], [0, 1], [1, 0]]


def test_npy_labels_of_another_class_list(voc, tmp_path):
    file = tmp_path / "cls_labels.npy"
    np.save(file, vectors(LABELS, ("person", "dog", "cat")))
    dataset = open_dataset(DataConfig(str(voc), "train", labels=str(file), classes="person,dog,cat"))
    assert dataset.labels.tolist() == [[0, 1, 1], [0, 1, 0], [1, 0, 1]]
    assert "vectors of 3 classes, while the class list has 20" in open_error(root=voc, list="train", labels=file)


def test_npy_labels_that_miss_or_spoil_an_image(voc, tmp_path):
    file = tmp_path / "cls_labels.npy"
    table = vectors(LABELS)
    del table["2007_000033"]
    table["2007_000039"] = np.full(20, 0.5)
    np.save(file, table)
    problems = []
    open_dataset(DataConfig(str(voc), "train", labels=str(file)), problems)
    assert [(p.id, p.kind) for p in problems] == [("2007_000033", "no-labels"), ("2007_000039", "bad-labels")]
    file.write_bytes(b"not numpy")
    assert str(file) in open_error(root=voc, list="train", labels=file)


def test_auto_takes_annotations_then_the_npy_beside(voc):
    np.save(voc / "cls_labels.npy", {id: np.eye(20, dtype=np.float32)[0] for id in LABELS})
    assert names(open_dataset(DataConfig(str(voc), "train")), 1) == {"dog"}
    (voc / "Annotations").rename(voc / "elsewhere")
    assert names(open_dataset(DataConfig(str(voc), "train")), 1) == {"aeroplane"}
    (voc / "cls_labels.npy").unlink()
    message = open_error(root=voc, list="train")
    assert "cls_labels.npy" in message and "--labels" in message and "none" in message
    assert "no such folder" in open_error(root=voc, list="train", labels="xml")
    assert open_dataset(DataConfig(str(voc), "train", labels="none")).labels is None
    assert "must be auto, xml, none" in open_error(root=voc, list="train", labels="labels.txt")


# A plain folder


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "photos"
    for name in ("a.jpg", "b.JPEG", "sub/c.d.jpg"):
        save_image(root / name, format="JPEG")
    return root


@pytest.mark.parametrize("text", [
    "image,label\na.jpg,goat;hay bale\nb,goat\nsub/c.d.jpg,\n",
    "a,goat; hay bale\nb.JPEG,goat\n\nsub/c.d,\n",
    '\ufeffid,labels\r\n"a.jpg","goat;hay bale"\r\nb.JPEG,goat\r\nsub/c.d,\r\n',
])  # fmt: skip
def test_plain_folder_with_csv(folder, tmp_path, text):
    file = tmp_path / "labels.csv"
    file.write_text(text, encoding="utf-8")
    dataset = open_dataset(DataConfig(str(folder), labels=str(file), classes="goat,hay bale"))
    assert dataset.name == "photos" and dataset.ids == ("a", "b", "sub/c.d")
    assert all(path.is_file() for path in dataset.images)
    assert dataset.labels.tolist() == [[1, 1], [1, 0], [0, 0]] and dataset.masks == (None, None, None)


def test_plain_folder_with_csv_and_list(folder, tmp_path):
    (tmp_path / "labels.csv").write_text("a,cat\nb,dog\n")
    (tmp_path / "some.txt").write_text("b.JPEG\n")
    config = DataConfig(str(folder), str(tmp_path / "some.txt"), str(tmp_path / "labels.csv"), "cat,dog")
    dataset = open_dataset(config)
    assert dataset.ids == ("b",) and dataset.labels.tolist() == [[0, 1]]


def test_plain_folder_without_labels_takes_every_jpeg(folder):
    dataset = open_dataset(DataConfig(str(folder), labels="none"))
    assert dataset.ids == ("a", "b", "sub/c.d") and dataset.labels is None


def test_csv_faults_name_file_line_and_value(folder, tmp_path):
    file = tmp_path / "labels.csv"

    def message(text):
        file.write_text(text)
        found = open_error(root=folder, labels=file, classes="cat,dog")
        assert str(file) in found
        return found

    unknown = message("image,label\na,cat\nb,dog;gaot\n")
    assert "line 3" in unknown and "'gaot'" in unknown and "cat, dog" in unknown
    assert "lines 1 and 2" in message("a.jpg,cat\na.jpeg,dog\n")
    assert "line 2: 'b,cat,dog'" in message("a,cat\nb,cat,dog\n")
    assert "names no image" in message("image,label\n")
    file.unlink()
    assert "no such file" in open_error(root=folder, labels=file)


# Classes and masks


def test_class_file_of_the_root_is_the_default(voc):
    (voc / "classes.txt").write_text("dog=3\ncat=5\n")
    assert open_dataset(DataConfig(str(voc), "train")).classes.ids == (3, 5)
    assert open_dataset(DataConfig(str(voc), "train", classes="cat")).classes.ids == (8,)


def test_mask_folder(voc, tmp_path):
    (voc / "SegmentationClass").rename(voc / "Truth")
    assert open_dataset(DataConfig(str(voc), "train")).masks == (None,) * 3
    assert open_dataset(DataConfig(str(voc), "train", masks="Truth")).masks[2] == voc / "Truth" / "2007_000039.png"
    assert "no such folder of masks" in open_error(root=voc, list="train", masks="nowhere")
    assert "holds no mask of this list" in open_error(root=voc, list="train", masks=tmp_path)


def test_subset_keeps_rows_together(voc):
    dataset = open_dataset(DataConfig(str(voc), "train"))
    part = dataset.subset(np.array([2, 0]))
    assert part.ids == ("2007_000039", "2007_000032") and part.name == dataset.name
    assert [path.stem for path in part.images] == [path.stem for path in part.masks] == list(part.ids)
    assert (part.labels == dataset.labels[[2, 0]]).all()


def test_options_describe_a_data_set(voc):
    save_xml(voc / "Annotations" / "2007_000032.xml", "cat", "dog", difficult=("dog",))
    parser = argparse.ArgumentParser()
    add_data_arguments(parser)
    dataset = dataset_from_arguments(
        parser.parse_args(["--data", str(voc), "--list", "train", "--classes", "dog,cat", "--skip-difficult"])
    )
    assert dataset.labels.tolist() == [[0, 1], [1, 0], [0, 1]]


def test_real_voc_images(voc_mini):
    classes = "bus=6,car=7,cat=8,person=15,train=19"
    train = open_dataset(DataConfig(str(voc_mini), "train", classes=classes))
    val = open_dataset(DataConfig(str(voc_mini), "val", classes=classes))
    assert (len(train), len(val)) == (1000, 60) and train.name == "VOC2012/train"
    assert train.labels.any(axis=1).all() and all(mask is not None for mask in val.masks)
    listed = voc_mini / "ImageSets" / "Main" / "cat_val.txt"
    cats = [line.split()[1] == "1" for line in listed.read_text().splitlines()]
    by_list = open_dataset(DataConfig(str(voc_mini), "cat_val", classes=classes))
    assert by_list.labels[:, 2].astype(bool).tolist() == cats and sum(cats) > 0
