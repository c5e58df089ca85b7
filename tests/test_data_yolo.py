"""YOLO's text files: lines, names of classes, places, and what is wrong with them."""

import time
import tracemalloc

import pytest
from data_sets import save_image
from layout_sets import save_images, shown
from untrusted import refused

from pplfast.data.classes import ClassList
from pplfast.data.dataset import DataConfig, open_dataset
from pplfast.data.yolo_names import LARGEST, read_yaml_names


@pytest.fixture
def root(tmp_path):
    """Two images, one with labels: bee (1) and cow (2)."""
    save_images(tmp_path / "set" / "images" / "train", ("a", "b"))
    label(tmp_path / "set", "1 0.5 0.5 0.1 0.1\n2 0.1 0.1 0.9 0.9\n")
    (tmp_path / "set" / "data.yaml").write_text("names: [ant, bee, cow]\n")
    return tmp_path / "set"


def label(root, text, place="labels/train/a.txt"):
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_bytes(text.encode() if isinstance(text, str) else text)


def opened(root, problems=None, **settings):
    return open_dataset(DataConfig(str(root), **{"labels": "yolo"} | settings), problems)


# Lines


@pytest.mark.parametrize("text", [
    "1 0.5 0.5 0.1 0.1\n2 0 0 1 1", "2 .1 .1 .2 .1 .2 .2\r\n1 1e-3 1E+0 -0.1 0.5 0.9\r\n", "\ufeff1\n2\n1\n",
    "\n  2\t0.1 0.2 0.3 0.4  \n\n01 5. 5 1 1\n", "1 0.5 0.5 0.1 0.1\r2 0.5 0.5 0.1 0.1\r",
])  # fmt: skip
def test_only_the_class_of_a_line_counts(root, text):
    label(root, text)
    assert shown(opened(root)) == {"a": {"bee", "cow"}, "b": set()}


@pytest.mark.parametrize("line, words", [
    ("3 0.5 0.5 0.1 0.1", "line 2: class 3, where "), ("-1 0.5 0.5 0.1 0.1", "expected class x y w h"),
    ("1.0 0.5 0.5 0.1 0.1", "expected class x y w h"), ("cow 0.5 0.5 0.1 0.1", "line 2: 'cow 0.5"),
    ("1 0.5 0.5", "expected class"), ("2 ants on a branch", "expected class"), ("1 nan nan nan nan", "expected class"),
    ("9" * 5000, "expected class"), ("٣ 0.5 0.5 0.1 0.1", "expected class"), ("1 " + "." * 90_000, "expected class"),
    ("1" + " 5" * 90_000 + " x", "expected class"),
])  # fmt: skip
def test_a_line_that_is_none_of_yolos_costs_its_image_alone(root, line, words):
    label(root, f"1 0.5 0.5 0.1 0.1\n{line}\n")
    label(root, "0\n", "labels/train/b.txt")
    problems = []
    assert shown(opened(root, problems)) == {"a": set(), "b": {"ant"}}
    [problem] = problems
    assert (problem.id, problem.kind, problem.path) == ("images/train/a", "bad-labels", root / "labels/train/a.txt")
    assert "line 2: " in problem.message and words in problem.message
    assert f"{root}/labels/train/a.txt: line 2: " in refused(root=root, labels="yolo")


def test_a_file_that_is_no_text_costs_its_image_alone(root):
    label(root, b"\xff\xfe1\x00")
    problems = []
    opened(root, problems)
    assert [problem.kind for problem in problems] == ["bad-labels"]
    (root / "labels/train/b.txt").mkdir()
    assert "b.txt: cannot be read" in refused(root=root, labels="yolo", list=save(root, "images/train/b"))


def save(root, *lines):
    (root / "list.lst").write_text("\n".join(lines))
    return root / "list.lst"


# Places


@pytest.mark.parametrize("data", [".", "images", "images/train"])
def test_labels_are_found_from_the_root_and_from_its_parts(root, data, monkeypatch):
    assert shown(opened(root / data, labels="auto")) == {"a": {"bee", "cow"}, "b": set()}
    monkeypatch.chdir(root / data)
    assert shown(opened(".", labels="auto")) == {"a": {"bee", "cow"}, "b": set()}


def test_labels_lie_beside_the_images_too(tmp_path):
    save_images(tmp_path, ("a", "b", "c.d"))
    for name in ("a", "c.d"):
        label(tmp_path, "0 0.5 0.5 0.1 0.1\n", f"{name}.txt")
    (tmp_path / "classes.txt").write_text("ant\nbee\n")
    assert shown(opened(tmp_path, labels="auto")) == {"a": {"ant"}, "b": set(), "c.d": {"ant"}}


def test_the_last_folder_called_images_counts(tmp_path):
    root = tmp_path / "images" / "set"
    save_image(root / "images" / "a.jpg")
    label(root, "0\n", "labels/a.txt")
    label(tmp_path, "1\n", "labels/set/images/a.txt")
    assert shown(opened(root, classes="ant,bee")) == {"a": {"ant"}}


def test_the_parts_of_an_export_are_one_data_set(tmp_path):
    """Roboflow: train/images, train/labels, valid/images, ... with one data.yaml."""
    for part, number in (("train", 0), ("valid", 1)):
        save_images(tmp_path / part / "images", (part,))
        label(tmp_path, f"{number}\n", f"{part}/labels/{part}.txt")
    (tmp_path / "data.yaml").write_text("names:\n- ant\n- bee\n")
    assert shown(opened(tmp_path, labels="auto")) == {"train": {"ant"}, "valid": {"bee"}}
    assert shown(opened(tmp_path / "valid", labels="auto")) == {"valid": {"bee"}}


def test_no_file_at_all_is_an_error(root):
    (root / "labels/train/a.txt").unlink()
    assert "none of the 2 images has a text file of YOLO labels" in refused(root=root, labels="yolo")
    assert "no image labels" in refused(root=root, list=save(root, "images/train/b"))


def test_files_without_an_object_are_labels(root):
    label(root, "")
    assert shown(opened(root, labels="auto")) == {"a": set(), "b": set()}


@pytest.mark.parametrize("bad", ["no labels here\n", b"\xff\xfe1\x00"])
def test_a_bad_file_does_not_hide_the_good_ones(root, bad):
    label(root, bad)
    label(root, "0 0.5 0.5 0.1 0.1\n", "labels/train/b.txt")
    dataset = opened(root, problems := [], labels="auto")
    assert shown(dataset) == {"a": set(), "b": {"ant"}}
    assert [(problem.id, problem.kind) for problem in problems] == [("images/train/a", "bad-labels")]


def test_captions_of_which_one_is_empty_are_not_labels(root):
    label(root, "an ant\n")
    label(root, "", "labels/train/b.txt")
    assert "no image labels" in refused(root=root)


# Names


@pytest.mark.parametrize("name, text", [
    ("data.yaml", "names:\n  - ant\n  - bee\n  - cow\n"), ("data.yaml", "\ufeffnames: {0: ant, 1: bee, 2: cow}"),
    ("data.yaml", "path: ../x\nnc: 3\nnames:\n  0: ant\n  2: cow\n  1: bee\n"), ("x.yml", "names: ['ant', bee, cow]"),
    ("data.yaml", '{"names": ["ant", "bee", "cow"]}'), ("classes.txt", "ant\r\nbee\r\ncow\r\n"),
    ("obj.names", "ant\nbee\ncow\n"), ("data.yaml", "names: [ant, bee, cow]\n--- !!python/object:os.system x\n"),
])  # fmt: skip
def test_names_are_read_from_every_file_that_people_have_them_in(root, name, text):
    (root / "data.yaml").unlink()
    (root / name).write_text(text)
    dataset = opened(root)
    assert dataset.classes.names == ("ant", "bee", "cow") and shown(dataset)["a"] == {"bee", "cow"}
    assert dataset.labelled_by == f"labels: YOLO text files, named by {name}, 3 classes"


def test_classes_name_the_numbers_where_no_file_does(root):
    (root / "data.yaml").unlink()
    assert shown(opened(root, classes="x,y,z"))["a"] == {"y", "z"}
    message = refused(root=root, labels="yolo")
    assert "nothing names the classes" in message and "data.yaml with names, or give --classes" in message
    assert "class 2, where --classes names 0 to 1" in refused(root=root, labels="yolo", classes="x,y")


def test_classes_choose_among_the_names_of_a_file(root):
    dataset = opened(root, problems := [], classes="cow,ant")
    assert dataset.labels.tolist() == [[1, 0], [0, 0]]
    assert [problem.message for problem in problems] == ["objects of no class: 'bee' (1 image)"]
    assert "has no class zebra; give --classes some of ant, bee, cow" in refused(
        root=root, labels="yolo", classes="zebra"
    )
    assert "none of the 2 images has any of the classes ant" in refused(root=root, labels="yolo", classes="ant")


def test_numbers_need_not_follow_each_other_and_background_is_no_class(root):
    (root / "data.yaml").write_text("names: {0: __background__, 1: bee, 2: cow, 7: elk}")
    label(root, "0\n7\n")
    dataset = opened(root)
    assert dataset.classes.names == ("bee", "cow", "elk") and shown(dataset)["a"] == {"elk"}
    label(root, "5\n")
    assert "class 5" in refused(root=root, labels="yolo")


@pytest.mark.parametrize("name", ["classes.txt", "obj.names", "data.yaml"])
@pytest.mark.parametrize("first", ["background", "__Background__", "ignore", "none"])
def test_a_name_that_is_no_class_keeps_its_number(root, name, first):
    (root / "data.yaml").unlink()
    names = (first, "bee", "Negative", "cow")
    (root / name).write_text(f"names: [{', '.join(names)}]" if name == "data.yaml" else "\n".join(names))
    label(root, "0\n3\n")
    label(root, "2\n", "labels/train/b.txt")
    for labels in ("yolo", "auto"):
        dataset = opened(root, problems := [], labels=labels)
        assert dataset.classes == ClassList(("bee", "cow"), (1, 2)) and shown(dataset) == {"a": {"cow"}, "b": set()}
        others = ["objects of no class: 'ignore' (1 image)"] if first == "ignore" else []
        assert [problem.message for problem in problems] == others
    assert shown(opened(root, classes="cow"))["a"] == {"cow"}


def test_classes_of_a_file_keep_their_values_in_masks_beside_the_background(root):
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("background=0\nbee=7\ncow=9\n")
    assert opened(root).classes == ClassList(("bee", "cow"), (7, 9)) and shown(opened(root))["a"] == {"bee", "cow"}
    (root / "classes.txt").write_text("background\nnone\n")
    assert f"{root}/classes.txt: names no class; give --classes" in refused(root=root, labels="yolo")


def test_names_that_yaml_takes_for_something_else_stay_names(root):
    (root / "data.yaml").write_text("names: [yes, null, 2021-01-01, 1:30]")
    assert opened(root).classes.names == ("yes", "null", "2021-01-01", "1:30")


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{b}: &{b} [{','.join(f'*{a}' for _ in range(9))}]\n"
                                                 for a, b in zip("abcdefgh", "bcdefghi"))  # fmt: skip


@pytest.mark.parametrize("text", [
    LAUGHS + "names: *i", "x: &n [ant]\nnames: *n", "names: &n [ant]", "names: [a, [b]]", "names: {a: ant}",
    "names: {-1: ant}", "names: {0: ant, 0: bee}", "names: {" + "9" * 5000 + ": ant}", "names: 5", "names: [a",
    "names: {[a]: b}", "\tnames: [a]", "[" * 100_000, "- " * 100_000, "? " * 100_000, "names: !!python/name:os.x [[a]]",
    "names: ['\x01']", "{" * 50_000, "names: {0: {}}", "x" * (LARGEST + 1), "&a " * 10, "names: [\udcff]",
])  # fmt: skip
def test_a_data_yaml_that_holds_no_names_in_bounds_is_refused_at_once(root, text):
    (root / "data.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    started = time.process_time()
    assert str(root / "data.yaml") in refused(root=root, labels="yolo")
    assert time.process_time() - started < 0.5


def test_what_a_data_yaml_holds_beside_names_takes_no_memory(tmp_path):
    path = tmp_path / "data.yaml"
    path.write_text("names: [" + "a," * 4000 + "]")
    tracemalloc.start()
    names = read_yaml_names(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(names) == 4000 and peak < 1e6


@pytest.mark.parametrize("text", ["nc: 3\n", "", "names:\n", "- names\n", "names: []", "names: {}", "# nothing"])
def test_a_yaml_without_names_names_nothing(root, text):
    (root / "data.yaml").write_text(text)
    assert read_yaml_names(root / "data.yaml") == {}
    assert "nothing names the classes" in refused(root=root, labels="yolo")
