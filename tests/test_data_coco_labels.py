"""Image labels from COCO files: which images, which classes, and where the file is looked for."""

import json

import pytest
from data_sets import make_voc
from layout_sets import save_images, shown, write_coco
from untrusted import refused

from pplfast.data import coco_labels
from pplfast.data.dataset import DataConfig, open_dataset
from pplfast.data.layout import describe_layout

CATEGORIES = {1: "person", 17: "cat", 18: "dog"}


def one(image, category):
    return {"image_id": image, "category_id": category, "iscrowd": 0}


@pytest.fixture
def root(tmp_path):
    """train2017 with the images 1 to 3 and annotations beside: a cat, a cat with its person, nothing."""
    images = save_images(tmp_path / "coco" / "train2017", ("000000000001", "000000000002", "000000000003"))
    write_coco(
        tmp_path / "coco" / "annotations" / "instances_train2017.json",
        ("000000000001", "000000000002", "000000000003", "000000000009"),
        [one(0, 17), one(1, 1), one(1, 17), one(1, 17), one(3, 18)],
        CATEGORIES,
    )
    return images


def instances(root):
    return root.parent / "annotations" / "instances_train2017.json"


def opened(root, problems=None, **settings):
    return open_dataset(DataConfig(str(root), **{"labels": str(instances(root))} | settings), problems)


# Images


def test_the_images_of_the_file_that_are_there_are_the_list(root):
    save_images(root, ("000000000004", "extra/5"))
    dataset = opened(root, problems := [])
    assert dataset.ids == ("000000000001", "000000000002", "000000000003") and dataset.name == "train2017"
    assert shown(dataset) == {"000000000001": {"cat"}, "000000000002": {"person", "cat"}, "000000000003": set()}
    assert [(problem.id, problem.kind) for problem in dataset.left_out] == [
        ("000000000004.jpg", "left-out"), ("extra/5.jpg", "left-out"),
    ]  # fmt: skip
    assert "is not in " in dataset.left_out[0].message and instances(root).name in dataset.left_out[0].message
    assert [problem.message for problem in problems] == [f"1 image of its 4 not in {root}"]


def test_a_list_is_looked_up_by_id(root, tmp_path):
    (tmp_path / "list.txt").write_text("000000000002.jpg\n000000000007\n")
    problems = []
    dataset = opened(root, problems, list=str(tmp_path / "list.txt"))
    assert dataset.labels.tolist() == [[1, 1, 0], [0, 0, 0]]
    assert [(problem.id, problem.kind) for problem in problems] == [("000000000007", "no-labels")]
    assert "has no image that fits 000000000007" in refused(
        root=root, labels=instances(root), list=tmp_path / "list.txt"
    )


def test_a_file_of_other_images_shows_a_name_of_each(root, tmp_path):
    save_images(tmp_path / "photos", ("mine",))
    message = refused(root=tmp_path / "photos", labels=instances(root))
    assert "none of its images lies in" in message and "'000000000001.jpg'" in message and "'mine'" in message


def test_two_images_of_one_name_are_not_given_the_labels_of_one(root):
    save_images(root / "more", ("000000000001",))
    problems = []
    dataset = opened(root, problems)
    assert dataset.labels.sum() == 3
    assert [(problem.id, problem.kind) for problem in problems if problem.id] == [
        ("more/000000000001", "bad-labels"),
    ]  # fmt: skip


def test_a_voc_layout_may_have_its_labels_in_a_coco_file(root, tmp_path):
    voc = make_voc(tmp_path / "voc", {"000000000002": ("dog",)})
    dataset = opened(voc, list="train", labels=str(instances(root)))
    assert shown(dataset) == {"000000000002": {"person", "cat"}}


# Classes


@pytest.mark.parametrize("classes, names, values", [
    ("", ("person", "cat", "dog"), (1, 17, 18)), ("cat,person", ("cat", "person"), (17, 1)),
    ("17,1", ("cat", "person"), (17, 1)), ("17", ("cat",), (17,)), ("dog=12,cat=8", ("dog", "cat"), (12, 8)),
])  # fmt: skip
def test_classes_are_categories_by_name_or_id_and_keep_their_values(root, classes, names, values):
    dataset = opened(root, classes=classes)
    assert (dataset.classes.names, dataset.classes.ids) == (names, values)
    assert shown(dataset)["000000000002"] == {"person", "cat"} & set(names)


def test_a_class_that_is_no_category_is_refused(root):
    message = refused(root=root, labels=instances(root), classes="cat,zebra")
    assert "zebra" in message and instances(root).name in message and "person, cat, dog" in message


def test_categories_that_are_not_chosen_are_counted(root):
    opened(root, problems := [], classes="person")
    assert "objects of no class: 'cat' (2 images)" in [problem.message for problem in problems]
    assert "none of the 3 images has any of the classes dog" in refused(
        root=root, labels=instances(root), classes="dog"
    )


# Where it is


def test_the_file_of_a_part_is_found_beside_the_folder_of_its_images(root, monkeypatch):
    write_coco(root.parent / "annotations" / "instances_val2017.json", ("x",), [one(0, 1)], CATEGORIES)
    expected = "labels: COCO annotations instances_train2017.json, 3 classes"
    assert describe_layout(DataConfig(str(root))) == expected
    monkeypatch.chdir(root)
    assert describe_layout(DataConfig(".")) == expected
    deeper = root.rename(root.parent / "images")
    deeper.rename(root.parent / "moved")
    (root.parent / "images").mkdir()
    (root.parent / "moved").rename(root.parent / "images" / "train2017")
    assert describe_layout(DataConfig(str(root.parent / "images" / "train2017"))) == expected


def test_the_only_file_of_a_root_is_found_and_several_are_named(root):
    assert shown(open_dataset(DataConfig(str(root.parent))))["000000000001"] == {"cat"}
    write_coco(root.parent / "annotations" / "instances_val2017.json", ("x",), [one(0, 1)], CATEGORIES)
    message = refused(root=root.parent)
    assert f"{instances(root)}, instances_val2017.json, and --data the folder of its images" in message


def test_a_file_is_read_again_only_when_it_changes(root, monkeypatch):
    read = []
    reading = coco_labels.read_coco
    monkeypatch.setattr(coco_labels, "read_coco", lambda path: read.append(path) or reading(path))
    for _ in range(3):
        opened(root)
    assert len(read) == 1
    content = json.loads(instances(root).read_text())
    content["annotations"].append({"id": 900, "image_id": 2, "category_id": 18})
    instances(root).write_text(json.dumps(content))
    assert shown(opened(root))["000000000003"] == {"dog"} and len(read) == 2


def test_a_file_that_is_not_there_or_none_of_cocos_is_one_line(root, tmp_path):
    assert f"{tmp_path}/gone.json: no such file" in refused(root=root, labels=tmp_path / "gone.json")
    for text in ("", "[]", "{}", '{"images": [], "annotations": [], "categories": []}', "[" * 100_000):
        (tmp_path / "x.json").write_text(text)
        assert f"{tmp_path}/x.json: " in refused(root=root, labels=tmp_path / "x.json")
