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
