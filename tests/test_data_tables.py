"""CSVs of labels in the forms that other programs write, with and without a list of the classes."""

import pytest
from data_sets import make_voc
from layout_sets import save_images, shown
from untrusted import refused

from pplfast.data.dataset import DataConfig, open_dataset


@pytest.fixture
def folder(tmp_path):
    return save_images(tmp_path / "img", ("0000", "0001", "photo"))


def read(folder, text, problems=None, **settings):
    file = folder.parent / "l.csv"
    file.write_bytes(text.encode())
    return open_dataset(DataConfig(str(folder), labels=str(file), **settings), problems)


def refuse(folder, text, **settings):
    file = folder.parent / "l.csv"
    file.write_bytes(text.encode())
    message = refused(root=folder, labels=file, **settings)
    assert str(file) in message
    return message


# Classes


def test_without_a_class_list_the_classes_are_the_names_in_the_table(folder, tmp_path):
    dataset = read(folder, "image,label\n0000.jpg,nut;bolt\n0001.jpg,gear\n")
    assert dataset.classes.names == ("bolt", "gear", "nut") and dataset.classes.ids == (1, 2, 3)
    assert dataset.labels.tolist() == [[1, 0, 1], [0, 1, 0]]
    (tmp_path / "part.txt").write_text("0001\n")
    assert (
        read(folder, "0000.jpg,nut;bolt\n0001.jpg,gear\n", list=str(tmp_path / "part.txt")).classes == dataset.classes
    )


def test_names_that_are_all_vocs_keep_vocs_values(folder):
    assert read(folder, "0000.jpg,dog\n0001.jpg,cat\n").classes.ids == (8, 12)


def test_a_class_file_of_the_folder_goes_before_the_names_of_the_table(folder):
    (folder / "classes.txt").write_text("nut=3\nbolt=5\n")
    assert read(folder, "0000.jpg,bolt\n").classes.ids == (3, 5)
    assert "line 2: unknown class 'gear'" in refuse(folder, "0000.jpg,bolt\n0001.jpg,gear\n")


def test_a_voc_layout_keeps_vocs_classes(tmp_path):
    root = make_voc(tmp_path / "voc", {"a": ("cat",)})
    (tmp_path / "l.csv").write_text("a.jpg,cat\n")
    assert len(open_dataset(DataConfig(str(root), "train", str(tmp_path / "l.csv"))).classes) == 20


@pytest.mark.parametrize("word", ["background", "none", "Negative", "__background__", ""])
def test_a_label_of_background_means_no_class(folder, word):
    assert shown(read(folder, f"0000.jpg,bolt\n0001.jpg,{word}\n")) == {"0000": {"bolt"}, "0001": set()}
    assert shown(read(folder, f"0000.jpg,bolt\n0001.jpg,{word}\n", classes="nut,bolt"))["0001"] == set()


def test_a_class_may_be_called_negative_where_the_list_says_so(folder):
    assert shown(read(folder, "0000.jpg,negative\n", classes="positive,negative"))["0000"] == {"negative"}


def test_a_table_of_background_alone_names_no_class(folder):
    assert "names no class; give --classes" in refuse(folder, "0000.jpg,none\n0001.jpg,\n")


# Headers


@pytest.mark.parametrize("header", [
    "image_id,label", "file_name,tags", "FileName,Class Name", "path,category", "img,target", "ID,species",
    "photo_no,what", "pic,y",
])  # fmt: skip
def test_a_header_is_known_without_a_class_list(folder, header):
    assert shown(read(folder, f"{header}\n0000.jpg,bolt\n0001,nut\n")) == {"0000": {"bolt"}, "0001": {"nut"}}


@pytest.mark.parametrize("row", ["photo,bolt", "gone.jpg,bolt", "gone7,bolt", "gone,"])
def test_a_first_row_of_an_image_is_no_header(folder, row):
    assert len(read(folder, f"{row}\n0001.jpg,nut\n")) == 2


def test_a_first_row_counts_where_the_second_has_no_image_either(folder):
    assert read(folder, "gone,bolt\nlost,nut\n0001.jpg,nut\n").ids == ("gone", "lost", "0001")


# Separators


@pytest.mark.parametrize("text", [
    "image\tlabel\n0000.jpg\tbolt;nut\n0001.jpg\tnut\n", "image;label\n0000.jpg;bolt|nut\n0001.jpg;nut\n",
    "0000.jpg;bolt|nut\r\n0001.jpg;nut\r\n", "\ufeffimage,label\n0000,bolt | nut\n0001,nut\n",
    '0000.jpg,"bolt;nut"\n\n0001.jpg,nut\n', "image;label\n0000.jpg;nut\n0001.jpg;nut\n0000.jpg;bolt\n",
    "0000,bolt; nut;\n0001,|nut\n", '"image"\t"label"\n"0000.jpg"\t"bolt|nut"\n"0001.jpg"\tnut\n',
])  # fmt: skip
@pytest.mark.parametrize("classes", ["", "nut,bolt"])
def test_tables_of_other_separators_are_read(folder, text, classes):
    assert shown(read(folder, text, classes=classes)) == {"0000": {"bolt", "nut"}, "0001": {"nut"}}


def test_a_class_name_may_hold_a_bar_where_the_list_says_so(folder):
    dataset = read(folder, "0000.jpg,hex|nut;bolt\n", classes="hex|nut,bolt")
    assert dataset.labels.tolist() == [[1, 1]]


def test_labels_separated_by_commas_are_told_the_right_separator(folder):
    for text in ('0000.jpg,bolt\n0001.jpg,"bolt,nut"\n', "image;label\n0000.jpg;bolt\n0001.jpg;bolt,nut\n"):
        message = refuse(folder, text)
        assert "'bolt,nut': several labels are separated by ';' or '|'" in message and "line " in message


def test_a_table_of_commas_whose_labels_are_separated_by_semicolons_stays_one(folder):
    assert shown(read(folder, "0000.jpg,bolt;nut\n0001.jpg,nut;bolt\n"))["0001"] == {"bolt", "nut"}


# A column for each class


@pytest.mark.parametrize("text", [
    "image,bolt,nut\n0000.jpg,1,0\n0001.jpg,1,1\nphoto.jpg,0,0\n", "ID;bolt;nut\n0000;1.0;0.0\n0001;1;1\nphoto;0;0\n",
    ",bolt,nut\n0000,True,False\n0001,True,True\nphoto,False,False\n",
    "image,bolt,nut,none\n0000,1,0,0\n0001,1,1,0\nphoto,0,0,1\n",
])  # fmt: skip
def test_a_table_with_a_column_for_each_class_is_read(folder, text):
    dataset = read(folder, text)
    assert dataset.classes.names == ("bolt", "nut") and dataset.labels.tolist() == [[1, 0], [1, 1], [0, 0]]


def test_columns_can_be_chosen(folder):
    text = "image,bolt,nut\n0000.jpg,1,0\n0001.jpg,1,1\n"
    dataset = read(folder, text, problems := [], classes="nut=9")
    assert dataset.labels.tolist() == [[0], [1]] and dataset.classes.ids == (9,)
    assert [problem.message for problem in problems] == ["columns of no class: 'bolt' (2 images)"]
    message = refuse(folder, text, classes="nut,gear")
    assert "has no column for gear; give --classes names of its columns: bolt, nut" in message


def test_a_single_column_is_a_class_that_is_there_or_not(folder):
    dataset = read(folder, "image,crack\n0000.jpg,1\n0001.jpg,0\n")
    assert dataset.classes.names == ("crack",) and dataset.labels.tolist() == [[1], [0]]
    for text, settings in (("image,label\n", {}), ("image,crack\n", {"classes": "0,1"}), ("", {})):
        numbers = read(folder, f"{text}0000.jpg,1\n0001.jpg,0\n", **settings)
        assert numbers.classes.names == ("0", "1") and numbers.labels.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("text, words", [
    ("image,bolt,nut\n0000,1,0\n0001,2,0\n", "line 3: '2' in column 'bolt': expected 0 or 1"),
    ("image,bolt,nut\n0000,1,0\n0001,,0\n", "line 3: '' in column 'bolt'"),
    ("image,bolt,nut\n0000,1,0\n0001,1\n", "line 3: '0001,1': expected 3 cells"),
    ("image,bolt,nut\n0000,1,0\n,1,1\n", "line 3: ',1,1'"),
    ("image,bolt,bolt\n0000,1,0\n", "class name 'bolt' occurs twice"),
    ("image,label,fold\n0000,1,0\n", "line 1: 'image,label,fold': expected image,label;label, or a table"),
    ("image,width,height\n0000,40,30\n", "line 1"), ("image,,nut\n0000,1,0\n", "line 1"),
])  # fmt: skip
def test_a_table_of_columns_that_cannot_be_read_names_the_line(folder, text, words):
    assert words in refuse(folder, text)


def test_many_rows_of_one_image_are_joined_at_once(folder):
    dataset = read(folder, "image,label\n" + "0000.jpg,bolt\n" * 50_000 + "0000.jpg,nut\n")
    assert dataset.labels.tolist() == [[1, 1]]
