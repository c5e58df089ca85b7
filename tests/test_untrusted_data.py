"""Lists, tables, annotations and labels of other people: each fault is one line that names its file."""

import io
import json
import tracemalloc

import numpy as np
import pytest
from data_sets import SIZE, make_voc, save_image, save_list
from untrusted import refused, write

from pplfast import cli
from pplfast.data.check import check_dataset
from pplfast.data.check_text import format_report
from pplfast.data.classes import parse_classes
from pplfast.data.dataset import DataConfig, open_dataset
from pplfast.data.masks import write_mask
from pplfast.errors import UserError

ALONE = ("a", "b")


@pytest.fixture
def voc(tmp_path):
    return make_voc(tmp_path / "set", dict.fromkeys(ALONE, ("cat",)))


# Lists and tables


@pytest.mark.parametrize("line", ["a\0b", "x" * 256, "ü" * 128, "/JPEGImages/a\0.jpg /b.png", "/ /b.png", "."])
def test_a_line_that_can_be_no_files_name_is_named(voc, line):
    save_list(voc, "odd", "a", line)
    assert "odd.txt, line 2: " in refused(root=voc, list="odd")


@pytest.mark.parametrize(
    "line", ["/../x.jpg /../x.png", "/a.jpg /../../x.png", "../x", "/JPEGImages/../../x.jpg /a.png"]
)
def test_a_line_that_leaves_the_data_folder_is_refused(voc, line):
    save_image(voc.parent / "x.jpg")
    write_mask(voc.parent / "x.png", np.zeros(SIZE[::-1], np.uint8))
    save_list(voc, "out", "a", line)
    assert "out.txt, line 2: " in (message := refused(root=voc, list="out")) and "leaves the data folder" in message


@pytest.mark.parametrize("cell", ["a\0b.jpg", "x" * 256, "../x.jpg", "x/" * 1_500])
def test_a_row_that_can_be_no_files_name_is_named(voc, cell):
    table = write(voc.parent / "t.csv", f"a.jpg,cat\n{cell},cat\n".encode())
    assert "t.csv, line 2: " in refused(root=voc / "JPEGImages", labels=table, classes="cat")


def test_a_giant_cell_and_a_giant_row_are_one_line(voc):
    for content in (b'"' + b"x" * 5_000_000, b"a.jpg,cat\n" + b"x," * 100_000, b"a.jpg," + b"y" * 100_000):
        table = write(voc.parent / "t.csv", content)
        assert "t.csv" in refused(root=voc / "JPEGImages", labels=table, classes="cat")


def test_a_name_with_line_breaks_stays_on_its_line(voc):
    table = write(voc.parent / "t.csv", b'a.jpg,cat\n"q\n\x1b[31mq.jpg",cat\n')
    problems = []
    config = DataConfig(str(voc / "JPEGImages"), labels=str(table), classes="cat")
    report = check_dataset(open_dataset(config, problems), problems)
    assert [problem.kind for problem in report.problems] == ["missing"]
    assert r"q\n\x1b[31mq: " in format_report(report)


def test_a_byte_order_mark_is_no_part_of_a_name(voc):
    marked = write(voc / "marked.txt", "a\r\nb\r\n".encode("utf-8-sig"))
    assert open_dataset(DataConfig(str(voc), str(marked))).ids == ALONE
    assert parse_classes(write(voc / "classes.txt", "cat\r\ndog\r\n".encode("utf-8-sig"))).names == ("cat", "dog")


def test_class_lists_without_bounds_are_refused_at_once(tmp_path):
    for text in (f"cat={'9' * 5000}", f"cat={'٣' * 5000}", "c" * 5000 + "=1,b=0", "cat,cat" + "x" * 5000 + ";"):
        with pytest.raises(UserError) as caught:
            parse_classes(text)
        assert len(str(caught.value)) < 300
    many = write(tmp_path / "many.txt", b"\n".join(b"c%d" % number for number in range(300_000)))
    with pytest.raises(UserError, match="300000 classes; masks have room for 254"):
        parse_classes(many)


def test_names_that_are_no_text_can_be_shown(voc, capsys):
    folder = voc / "JPEGImages"
    (folder / "a.jpg").rename(folder / "\udcff\x1b[2J.jpg")
    assert cli.main(["data", "check", "--data", str(folder), "--labels", "none", "--json", str(voc / "r.json")]) == 0
    (folder / "b.jpg").unlink()
    write(folder / "\udcfe\x1b[2J.jpg", b"")
    assert cli.main(["data", "check", "--data", str(folder), "--labels", "none", "--json", str(voc / "r.json")]) == 2
    shown = capsys.readouterr().out
    assert r"\udcfe\x1b[2J: " in shown and shown.isascii() and "\x1b" not in shown
    assert json.loads((voc / "r.json").read_text())["problems"][0]["kind"] == "empty"


def test_names_can_be_shown_in_every_locale(voc, monkeypatch):
    table = write(voc / "t.csv", "b.jpg,cat\ngrösse.jpg,cat\n".encode())
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, "ascii", write_through=True))
    assert (
        cli.main(["data", "check", "--data", str(voc / "JPEGImages"), "--labels", str(table), "--classes", "cat"]) == 2
    )
    assert rb"  gr\xf6sse: " in written.getvalue()


def test_class_names_hold_no_control_characters():
    with pytest.raises(UserError, match="holds a character that cannot be printed; rename it") as caught:
        parse_classes("cat,\x1b[2Jdog")
    assert "\x1b" not in str(caught.value)
    assert parse_classes("chat noir,猫").names == ("chat noir", "猫")


# Annotations

DECLARED = ["rot13", "hex", "base64", "zlib", "bz2", "uu", "quopri", "undefined", "idna", "punycode", "unicode_escape",
            "utf-7", "utf-16", "utf-32", "gbk", "no-such-encoding", "x" * 1000]  # fmt: skip


def test_annotations_in_odd_encodings_cost_their_own_image_alone(voc):
    for encoding in DECLARED:
        content = (
            f'<?xml version="1.0" encoding="{encoding}"?><annotation><object><name>cat</name></object></annotation>'
        )
        write(voc / "Annotations" / "a.xml", content.encode())
        problems = []
        dataset = open_dataset(DataConfig(str(voc), "train", classes="cat"), problems)
        assert dataset.labels[1].tolist() == [1]
        assert [(problem.id, problem.kind) for problem in problems] in ([("a", "bad-labels")], []), encoding
        assert problems or dataset.labels[0].tolist() == [1]
        if problems:
            assert "a.xml: not readable as XML (" in refused(root=voc, list="train", classes="cat")


LAUGHS = "".join(f'<!ENTITY e{level} "{f"&e{level - 1};" * 10}">' for level in range(1, 12))
ENTITIES = {  # how they are declared, and used
    "laughs": (f'<!ENTITY e0 "cat">{LAUGHS}', "&e11;"),
    "blow-up": (f'<!ENTITY e "{"x" * 50_000}">', "&e;" * 5000),
    "outside": ('<!ENTITY e SYSTEM "file:///etc/hostname">', "&e;"),
    "parameter": ('<!ENTITY % e SYSTEM "file:///etc/hostname">%e;', "cat"),
}


@pytest.mark.parametrize("attack", ENTITIES)
def test_entities_are_neither_multiplied_nor_fetched(voc, attack):
    declared, used = ENTITIES[attack]
    content = f"<!DOCTYPE a [{declared}]><annotation><object><name>{used}</name></object></annotation>"
    write(voc / "Annotations" / "a.xml", content.encode())
    problems = []
    tracemalloc.start()
    open_dataset(DataConfig(str(voc), "train", classes="cat"), problems)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [(problem.id, problem.kind) for problem in problems] == [("a", "bad-labels")] and peak < 2e6
    assert "declares the entity" in str(problems[0].message)


def test_deep_annotations_do_not_end_the_process(voc):
    write(voc / "Annotations" / "a.xml", b"<a>" * 200_000 + b"</a>" * 200_000)
    assert not open_dataset(DataConfig(str(voc), "train", classes="cat")).labels[0].any()


# Labels of a .npy


@pytest.mark.parametrize("value", [[0, 1, 0, 1], [], "cat", 1.0, [np.nan, 1, 0], [0, 2, 0], np.zeros((2, 3))])
def test_a_vector_unlike_the_others_costs_its_own_image_alone(voc, value):
    np.save(voc / "l.npy", {"b": np.array([0, 1, 0]), "a": value})
    problems = []
    dataset = open_dataset(DataConfig(str(voc), "train", labels=str(voc / "l.npy"), classes="cat,dog,cow"), problems)
    assert dataset.labels.tolist() == [[0, 0, 0], [0, 1, 0]]
    assert [(problem.id, problem.kind) for problem in problems] == [("a", "bad-labels")]
