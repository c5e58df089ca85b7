"""Image labels as people write them: tables, cls_labels.npy and annotations that differ from what is expected."""

import numpy as np
import pytest
from data_sets import make_voc, save_image, save_xml
from untrusted import refused

from pplfast.data.check import check_dataset
from pplfast.data.dataset import DataConfig, open_dataset
from pplfast.data.remarks import class_remarks
from pplfast.errors import UserError

CLASSES = "bolt,nut"


@pytest.fixture
def folder(tmp_path):
    for name in ("0000", "0001"):
        save_image(tmp_path / "img" / f"{name}.jpg")
    return tmp_path / "img"


def read(folder, text, classes=CLASSES, encoding="utf-8"):
    file = folder.parent / "l.csv"
    file.write_bytes(text.encode(encoding))
    return open_dataset(DataConfig(str(folder), labels=str(file), classes=classes))


def refuse(folder, text, encoding="utf-8"):
    file = folder.parent / "l.csv"
    file.write_bytes(text.encode(encoding))
    return refused(root=folder, labels=file, classes=CLASSES)


# Tables


@pytest.mark.parametrize("header", [
    "image_id,label", "file_name,tags", "filename,class_name", "name,class", "path,label", "Image Name, Labels",
    "image,label", '"path","y"', "\ufeffimg,target", "img,categories",
])  # fmt: skip
def test_a_first_line_that_names_no_file_and_no_class_is_a_header(folder, header):
    for end in ("\n", "\r\n"):
        dataset = read(folder, f"{header}{end}0000.jpg,bolt{end}0001,nut;bolt{end}")
        assert dataset.ids == ("0000", "0001") and dataset.labels.tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize("row", ["0000,botl", "0000.jpg,botl", "gone.jpg,botl", "gone_7,botl", "gone.png,label"])
def test_a_first_row_that_names_an_image_is_no_header(folder, row):
    message = refuse(folder, f"{row}\n0001.jpg,nut\n")
    assert "line 1: unknown class" in message and "write image,label if it is a header" in message
    assert "header" not in refuse(folder, f"0001.jpg,nut\n{row}\n")


def test_a_first_row_of_a_missing_image_is_no_header(folder):
    assert read(folder, "gone,bolt\n0001.jpg,nut\n").ids == ("gone", "0001")
    assert read(folder, "gone,\n0001.jpg,nut\n").labels.tolist() == [[0, 0], [0, 1]]


def test_a_table_of_a_header_alone_names_no_image(folder):
    assert "names no image" in refuse(folder, "image_id,tags\n")


def test_headers_count_in_voc_layout_too(tmp_path):
    root = make_voc(tmp_path / "set", {"a": ("bolt",), "b": ("nut",)})
    table = tmp_path / "l.csv"
    table.write_text("image_id,tags\na,bolt\nb.jpg,nut\n")
    dataset = open_dataset(DataConfig(str(root), "train", labels=str(table), classes=CLASSES))
    assert dataset.labels.tolist() == [[1, 0], [0, 1]]
    table.write_text("b,gear\na,bolt\n")
    assert "unknown class 'gear'" in refused(root=root, list="train", labels=table, classes=CLASSES)


def test_rows_of_one_image_are_joined(folder):
    dataset = read(folder, "image,label\n0000.jpg,bolt\n0001.jpg,nut\n0000.jpg,nut\n./0001.jpg,nut\n0001,\n")
    assert dataset.ids == ("0000", "0001") and dataset.labels.tolist() == [[1, 1], [0, 1]]


def test_rows_of_two_files_with_one_id_are_not_joined(folder):
    save_image(folder / "0000.jpeg")
    message = refuse(folder, "0000.jpg,bolt\n0000.jpeg,nut\n")
    assert "lines 1 and 2" in message and "have the same id" in message


def test_rows_of_two_files_with_one_id_are_named_where_a_list_names_one(folder, tmp_path):
    (tmp_path / "list.txt").write_text("0000\n")
    (tmp_path / "l.csv").write_text("0000.jpg,bolt\n0000.png,nut\n")
    message = refused(root=folder, list=tmp_path / "list.txt", labels=tmp_path / "l.csv", classes=CLASSES)
    assert "lines 1 and 2: '0000.jpg' and '0000.png' have the same id '0000'" in message


def test_cells_in_quotes_may_follow_a_space(folder):
    dataset = read(folder, '"image", "labels"\n"0000.jpg", "bolt;nut"\n"0001.jpg" , "nut" \n')
    assert dataset.labels.tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize("cell", ["bolt, nut", "bolt,nut", "bolt nut", "bolt/nut", "['bolt', 'nut']", "nut+bolt"])
def test_labels_with_another_separator_are_told_the_right_one(folder, cell):
    message = refuse(folder, f'0000.jpg,"{cell}"\n')
    assert "several labels are separated by ';'" in message and "known:" not in message


def test_an_unknown_label_with_a_space_is_unknown(folder):
    message = refuse(folder, "0000.jpg,bolt cutter\n")
    assert "unknown class 'bolt cutter'; known: bolt, nut" in message


def test_tables_of_other_encodings_are_told_the_right_one(folder):
    for encoding, text in (("utf-16", "0000.jpg,bolt\n"), ("latin-1", "größe.jpg,bolt\n")):
        assert "save it as UTF-8" in refuse(folder, text, encoding)


def test_a_row_of_another_form_is_told_the_right_one(folder):
    for text in ("0000.jpg bolt\n", "0000.jpg,bolt,nut\n", "image,bolt,nut\n0000.jpg,1,2\n"):
        assert "line 1" in (message := refuse(folder, text)) and "expected image,label;label" in message


def test_a_list_of_background_alone_is_a_list(folder, tmp_path):
    assert not read(folder, "0000.jpg,\n0001.jpg,\n").labels.any()
    np.save(tmp_path / "cls.npy", {"0000": np.zeros(2), "0001": np.zeros(2)})
    assert not open_dataset(DataConfig(str(folder), labels=str(tmp_path / "cls.npy"), classes=CLASSES)).labels.any()
    root = make_voc(tmp_path / "set", {"a": (), "b": ()})
    dataset = open_dataset(DataConfig(str(root), "train", classes=CLASSES))
    assert not dataset.labels.any()
    assert class_remarks(dataset) == ("2 of 2 classes have no image",)


def test_background_alone_cannot_be_learned_from(folder):
    from pplfast.recipe import load_recipe
    from pplfast.train.classifier import ClassifierTask

    dataset = read(folder, "0000.jpg,\n0001.jpg,\n")
    with pytest.raises(UserError, match="none of its images has any of the classes; add images of them"):
        ClassifierTask(load_recipe("demo"), "plain", dataset).check()


# cls_labels.npy


@pytest.mark.parametrize("keys", [
    (9, 25), ("9", "25"), ("000000000009", "000000000025"), ("000000000009.jpg", "000000000025.jpg"),
    ("COCO_train2014_000000000009", "COCO_train2014_000000000025"),
    ("COCO_train2014_000000000009.jpg", "COCO_train2014_000000000025.jpg"), ("9.jpg", "25.jpg"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["COCO_train2014_{:012d}", "{:012d}", "train2014/COCO_train2014_{:012d}", "{}"])
def test_npy_keys_of_coco_are_found(tmp_path, keys, name):
    if isinstance(keys[0], str) and keys[0].startswith("COCO") and "COCO" not in name:
        pytest.skip("another image")
    for number in (9, 25):
        save_image(tmp_path / "img" / f"{name.format(number)}.jpg")
    np.save(tmp_path / "cls.npy", dict(zip(keys, np.eye(2), strict=True)))
    dataset = open_dataset(DataConfig(str(tmp_path / "img"), labels=str(tmp_path / "cls.npy"), classes=CLASSES))
    assert {id[-2:]: row.tolist() for id, row in zip(dataset.ids, dataset.labels, strict=True)} == {
        name.format(9)[-2:]: [1, 0],
        "25": [0, 1],
    }


def test_npy_key_of_two_images_is_named(tmp_path):
    for name in ("left_1", "right_1", "up_2"):
        save_image(tmp_path / "img" / f"{name}.jpg")
    np.save(tmp_path / "cls.npy", {1: np.array([1, 0]), 2: np.array([0, 1])})
    message = refused(root=tmp_path / "img", labels=tmp_path / "cls.npy", classes=CLASSES)
    assert "left_1" in message and "right_1" in message and "key 1" in message


def test_npy_without_the_image_shows_a_key(tmp_path):
    save_image(tmp_path / "img" / "a.jpg")
    np.save(tmp_path / "cls.npy", {9: np.array([1, 0])})
    assert "its keys are like 9" in refused(root=tmp_path / "img", labels=tmp_path / "cls.npy", classes=CLASSES)


def test_npy_with_a_column_for_the_background_is_told(tmp_path):
    save_image(tmp_path / "img" / "a.jpg")
    np.save(tmp_path / "cls.npy", {"a": np.array([1, 0, 1])})
    message = refused(root=tmp_path / "img", labels=tmp_path / "cls.npy", classes=CLASSES)
    assert "vectors of 3 classes" in message and "a column of the background" in message


# Annotations


def notes(root, classes=CLASSES, **options):
    problems = []
    dataset = open_dataset(DataConfig(str(root), "train", classes=classes, **options), problems)
    report = check_dataset(dataset, problems)
    return {(p.severity, p.message) for p in report.problems if not p.id}, report.warnings


def test_names_of_no_class_are_counted(tmp_path):
    root = make_voc(tmp_path / "set", {"a": ("bolt", "gear"), "b": ("nut", "gear"), "c": ("nut", "cog", "cog")})
    assert notes(root)[0] == {("note", "objects of no class: 'gear' (2 images), 'cog' (1 image)")}


@pytest.mark.parametrize("name, known", [
    ("Nut", "nut"), ("NUT", "nut"), ("hay  bale", "hay bale"), ("haybale", "hay bale"), ("Hay_Bale", "hay bale"),
    ("mu\u0308ll", "m\u00fcll"),
])  # fmt: skip
def test_names_that_differ_by_spelling_are_a_warning(tmp_path, name, known):
    root = make_voc(tmp_path / "set", {"a": ("bolt",), "b": (known,), "c": (name, "bolt"), "d": (name,), "e": ("cog",)})
    found, warnings = notes(root, f"bolt,{known}")
    assert ("note", "objects of no class: 'cog' (1 image)") in found
    (warning,) = [message for severity, message in found if severity == "warning"]
    assert warnings == 1 and repr(name) in warning and repr(known) in warning and "2 images" in warning


def test_difficult_objects_that_are_skipped_are_not_counted(tmp_path):
    root = make_voc(tmp_path / "set", {"a": ("bolt",), "b": ("nut",)})
    save_xml(root / "Annotations" / "a.xml", "bolt", "Nut", difficult=("Nut",))
    assert notes(root, difficult=False) == (set(), 0) and notes(root)[1] == 1
