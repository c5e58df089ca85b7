"""What label PNGs say without masks: hand-made label maps, and figures worked out by hand."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pplfast.data.classes import ClassList
from pplfast.data.dataset import Dataset
from pplfast.data.masks import write_mask
from pplfast.errors import UserError
from pplfast.evaluate.unscored import LabelFacts, inspect_labels

CLASSES = ClassList(("cat", "dog", "kite"), (8, 12, 30))


def label(**areas: int) -> np.ndarray:
    """uint8 (10, 10); areas: number of pixels of each value, `v8=30`; the rest is background."""
    flat = np.zeros(100, np.uint8)
    place = 0
    for name, count in areas.items():
        flat[place : place + count] = int(name.removeprefix("v"))
        place += count
    return flat.reshape(10, 10)


def make(folder: Path, labels: dict[str, np.ndarray], declared: list[list[int]] | None) -> Dataset:
    """declared: the image labels, a row of zeros and ones per image."""
    for name, pixels in labels.items():
        write_mask(folder / f"{name}.png", pixels)
    return Dataset(
        "photos",
        tuple(labels),
        tuple(folder / f"{name}.jpg" for name in labels),
        CLASSES,
        None if declared is None else np.array(declared, np.uint8),
        (None,) * len(labels),
    )


LABELS = {
    "a": label(v8=30),  # 30 % foreground, its own class
    "b": label(v8=91),  # 91 %: almost all; the dog that it has too is nowhere
    "c": label(v12=90),  # 90 %: not over 90 %
    "d": label(v30=20, v8=20, v255=20),  # 40 of 80 pixels that count: 50 %; the cat is not in this image
    "e": label(),  # nothing, and its kite is nowhere
}
DECLARED = [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]


@pytest.mark.parametrize("jobs", [1, 2])
def test_counts_are_those_of_the_maps(tmp_path, jobs):
    facts = inspect_labels(tmp_path, make(tmp_path, LABELS, DECLARED), jobs)
    assert facts == LabelFacts(
        source=str(tmp_path),
        dataset="photos",
        images=5,
        listed=5,
        foreground=(30 + 91 + 90 + 50 + 0) / 5,
        almost_all=1,
        declared=6,
        empty=2,
        absent=100 * 20 / (30 + 91 + 90 + 40),
    )
    assert facts.to_dict()["empty"] == 2


@pytest.mark.slow
def test_many_images_go_through_the_pool_and_give_the_sum(tmp_path):
    labels = {f"im{index}": label(v8=index) for index in range(40)}  # three tasks
    facts = inspect_labels(tmp_path, make(tmp_path, labels, [[1, 0, 0]] * 40), jobs=2)
    assert (facts.images, facts.foreground, facts.empty) == (40, sum(range(40)) / 40, 1)


def test_without_image_labels_only_the_foreground_is_known(tmp_path):
    facts = inspect_labels(tmp_path, make(tmp_path, LABELS, None), jobs=1)
    assert (facts.declared, facts.empty, facts.absent) == (None, None, None)
    assert facts.foreground == (30 + 91 + 90 + 50) / 5 and facts.concerns() == {}


def test_labels_without_foreground_have_no_share_of_other_classes(tmp_path):
    facts = inspect_labels(tmp_path, make(tmp_path, {"e": label()}, [[0, 0, 1]]), jobs=1)
    assert (facts.foreground, facts.absent, facts.empty) == (0, 0, 1)


def test_failed_images_are_left_out_and_missing_ones_are_an_error(tmp_path):
    dataset = make(tmp_path, LABELS, DECLARED)
    (tmp_path / "b.png").unlink()
    with pytest.raises(UserError, match=r"first: b"):
        inspect_labels(tmp_path, dataset, jobs=1)
    (tmp_path / "manifest.jsonl").write_text('{"id": "b", "state": "bad", "reason": "broken"}\n')
    facts = inspect_labels(tmp_path, dataset, jobs=1)
    assert (facts.images, facts.listed, facts.almost_all, facts.declared) == (4, 5, 0, 4)


def test_a_value_of_no_class_names_the_file(tmp_path):
    with pytest.raises(UserError, match=r"x\.png: holds the value 9,"):
        inspect_labels(tmp_path, make(tmp_path, {"x": label(v9=1)}, [[1, 0, 0]]), jobs=1)


FINE = LabelFacts("d", "photos", 100, 100, foreground=40.0, almost_all=25, declared=120, empty=30, absent=10.0)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({}, []),  # at each threshold, over none
        ({"almost_all": 26}, ["26 of 100 images are foreground on over 90 % of their area"]),
        ({"empty": 31}, ["31 of 120 image labels have no pixel"]),
        ({"absent": 30.1}, ["30.1 % of the foreground is of classes that its image does not have"]),
        ({"declared": 0, "empty": 0}, []),
        ({"almost_all": 100, "absent": 90.0}, ["100 of 100", "90.0 %"]),
    ],
)
def test_concerns_start_above_the_thresholds(changes, words):
    concerns = list(dataclasses.replace(FINE, **changes).concerns().values())
    assert len(concerns) == len(words)
    assert all(word in concern for word, concern in zip(words, concerns, strict=True))


def test_labels_without_any_class_are_told_the_values():
    facts = dataclasses.replace(FINE, foreground=0.0, empty=120)
    assert (
        "255 no label" in facts.concerns()["empty"]
        and "255" not in dataclasses.replace(FINE, empty=31).concerns()["empty"]
    )
