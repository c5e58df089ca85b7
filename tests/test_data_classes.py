import pytest

from pplfast.data.classes import VOC, ClassList, parse_classes
from pplfast.errors import UserError


def test_voc_values_follow_its_alphabet():
    assert len(VOC) == 20 and VOC.ids == tuple(range(1, 21))
    assert [VOC.ids[VOC.index(name)] for name in ("aeroplane", "person", "tvmonitor")] == [1, 15, 20]


@pytest.mark.parametrize("text, expected", [
    ("bus=6, car=7", ClassList(("bus", "car"), (6, 7))),
    ("car,bus", ClassList(("car", "bus"), (7, 6))),  # all of VOC: VOC's values, in the order given
    ("car,zebra", ClassList(("car", "zebra"), (1, 2))),
    ("zebra", ClassList(("zebra",), (1,))),
])  # fmt: skip
def test_classes_from_text(text, expected):
    assert parse_classes(text) == expected


def test_classes_from_a_file_one_per_line(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("# of the farm\nhay bale=3\n\n goat = 9\n")
    assert parse_classes(file) == parse_classes(str(file)) == ClassList(("hay bale", "goat"), (3, 9))


@pytest.mark.parametrize("text, message", [
    ("", "no classes"),
    ("cat,cat", "'cat' occurs twice"),
    ("cat=1,dog", "1 of 2 classes"),
    ("cat=0", "'cat=0'"),
    ("cat=255", "'cat=255'"),
    ("cat=x", "'cat=x'"),
    ("cat=1,dog=1", "share one of the values"),
    ("=4", "is empty"),
    ("missing/classes.txt", "no such file"),
    (",".join(f"c{i}" for i in range(255)), "255 classes"),
])  # fmt: skip
def test_bad_classes_are_named(text, message):
    with pytest.raises(UserError, match=message):
        parse_classes(text)


@pytest.mark.parametrize("content", [
    "__ignore__\n_background_\nbolt\nnut\n", "background\nbolt\n", "Background\nbolt\n", "bolt\nnut\nBACKGROUND\n",
    "__background__\nbolt\n", "bolt\nignore\n", "\ufeff_Ignore_\r\nbolt\r\n", "background=0\nbolt=1\n",
    "bolt=1\nbackground=2\n", "bolt=1\nignore=255\n", "__ignore__:1,2,3::\nbolt:128,0,0::\n",
])  # fmt: skip
def test_background_and_ignore_are_no_classes(tmp_path, content):
    file = tmp_path / "classes.txt"
    file.write_text(content, encoding="utf-8", newline="")
    value = 255 if "gnore" in content else 0
    with pytest.raises(UserError, match=f"is no class: masks hold {value} for it; give --classes the others"):
        parse_classes(file)
    with pytest.raises(UserError, match="--classes: 'background' is no class: masks hold 0 for it; take it off the"):
        parse_classes("cat,background")


def test_names_that_hold_background_are_classes():
    assert parse_classes("background noise,ignored").names == ("background noise", "ignored")


@pytest.mark.parametrize("content", [
    "# label:color_rgb:parts:actions\nbackground:0,0,0::\nbolt:128,0,0::\nhay bale:0,128,0:a,b:run\n",
    "\ufeffbolt:128,0,0::\r\nhay bale:0, 128, 0::\r\nbackground:0,0,0::\r\n",
    "bolt:::\nhay bale:::\n",
])  # fmt: skip
def test_classes_of_a_label_map(tmp_path, content):
    (tmp_path / "labelmap.txt").write_text(content, encoding="utf-8", newline="")
    assert parse_classes(tmp_path / "labelmap.txt") == ClassList(("bolt", "hay bale"), (1, 2))


@pytest.mark.parametrize("content", ["0 bolt\n1 nut\n", "1 bolt\n2 nut\n", "0: bolt\n1: nut\n", "1\tbolt\n", "1. bolt"])
def test_numbered_lines_are_told_the_right_form(tmp_path, content):
    (tmp_path / "classes.txt").write_text(content)
    with pytest.raises(UserError, match="its lines are numbered, as '[01].*bolt'; write the names alone"):
        parse_classes(tmp_path / "classes.txt")


def test_names_that_begin_with_a_number_are_classes():
    assert parse_classes("4 wheeler,2 wheeler").names == ("4 wheeler", "2 wheeler")
    assert parse_classes("0 bolt=1,1 nut=2").ids == (1, 2)


def test_class_files_of_other_encodings_are_told_the_right_one(tmp_path):
    (tmp_path / "classes.txt").write_text("bolt\n", encoding="utf-16")
    with pytest.raises(UserError, match="save it as UTF-8"):
        parse_classes(tmp_path / "classes.txt")
