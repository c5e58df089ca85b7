"""How sure labels are: the IoU to expect against brute force over all truths; in records, and in the table."""

import csv
import itertools
import json

import numpy as np
import pytest
import torch
from labels_small import CLASSES, small_dataset, write_cams

from pplfast.benchmarks.confidence import image_iou, rank_correlation
from pplfast.jobs import JobOptions
from pplfast.labels.background import add_background
from pplfast.labels.confidence import expected_iou, image_confidence, write_confidence
from pplfast.labels.device_crf import DeviceLabeller, expected_ious
from pplfast.labels.label import generate_labels, label_cams
from pplfast.labels.rules import FinishPrediction, NetworkScores
from pplfast.recipe import LabelConfig
from pplfast.report.confidence import read_confidence

OPTIONS = JobOptions(memory=0.25, jobs=1, threads=1)


def test_it_is_near_the_mean_iou_over_all_truths():
    """Three pixels, two rows: 8 truths, each with its probability. The ratio of means stands for the mean of ratios."""
    probabilities = np.array([[[0.9, 0.8, 0.1]], [[0.1, 0.2, 0.9]]], np.float32)
    labels = np.array([[0, 0, 1]])
    intersections, unions = np.zeros(2), np.zeros(2)
    for truth in itertools.product((0, 1), repeat=3):
        chance = np.prod([probabilities[row, 0, place] for place, row in enumerate(truth)])
        for row in (0, 1):
            true, said = np.array(truth) == row, labels[0] == row
            intersections[row] += chance * (true & said).sum()
            unions[row] += chance * (true | said).sum()
    np.testing.assert_allclose(expected_iou(probabilities, labels), intersections / unions, rtol=1e-6)


def test_a_row_without_pixels_has_none_and_certainty_has_all():
    sure = np.zeros((3, 4, 5), np.float32)
    labels = np.zeros((4, 5), np.int64)
    labels[1:3, 1:4] = 2
    np.put_along_axis(sure, labels[None], 1, axis=0)
    np.testing.assert_array_equal(expected_iou(sure, labels), [1, 0, 1])


def test_the_device_finds_the_same():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), size=(2, 17, 13)).transpose(0, 3, 1, 2).astype(np.float32)
    labels = rng.integers(0, 3, (2, 17, 13))  # none of the last row
    found = expected_ious(torch.from_numpy(probabilities), torch.from_numpy(labels)).numpy()
    for row in (0, 1):
        np.testing.assert_allclose(found[row], expected_iou(probabilities[row], labels[row]), rtol=1e-6)


def test_the_device_labeller_says_it_of_each_image_s_own_classes():
    rng = np.random.default_rng(1)
    maps = torch.from_numpy(rng.random((2, 2, 12, 10), dtype=np.float32))
    pixels = [rng.integers(0, 256, (12, 10, 3), dtype=np.uint8) for _ in range(2)]
    config = LabelConfig("threshold", 0.3, "labels")
    made = DeviceLabeller(config, None, torch.device("cpu"))(pixels, maps, np.array([[1, 0, 1], [0, 1, 0]], np.uint8))
    for row, own in enumerate((2, 1)):
        scores = add_background(maps[row, :own].numpy(), "threshold", 0.3)
        expected = expected_iou(scores / scores.sum(0), made[row].labels.astype(np.int64))
        np.testing.assert_allclose(made[row].sure, expected, rtol=1e-5)
    unsure = DeviceLabeller(config, (0.1, 0.5), torch.device("cpu"))(pixels, maps, np.ones((2, 3), np.uint8)[:, :2])
    assert all(one.sure is None for one in unsure)


def test_records_and_the_table_of_labels_from_cams(tmp_path):
    dataset = small_dataset(tmp_path)
    cams = write_cams(tmp_path / "cams", dataset)
    out = tmp_path / "labels"
    generate_labels(cams, dataset, LabelConfig("threshold", 0.3, "none"), out, OPTIONS)
    records = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    for record in records:
        assert list(record["confidence"]) == ["0", *map(str, record["classes"])]
        assert all(0 <= value <= 1 for value in record["confidence"].values())
    with open(out / "confidence.csv", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["image", "confidence", "background", *CLASSES.names]
    assert [row[0] for row in rows] == [record["id"] for record in sorted(records, key=image_confidence)]
    assert [float(row[1]) for row in rows] == sorted(float(row[1]) for row in rows)
    of_first = next(record for record in records if record["id"] == rows[0][0])["confidence"]
    assert [float(cell) for cell in rows[0][2:] if cell] == list(of_first.values())


def test_confident_labels_have_no_table(tmp_path):
    dataset = small_dataset(tmp_path)
    cams = write_cams(tmp_path / "cams", dataset)
    label_cams(cams, dataset, LabelConfig("threshold", 0.0, "none"), tmp_path / "sure", (0.1, 0.4), options=OPTIONS)
    assert not (tmp_path / "sure" / "confidence.csv").exists()
    assert "confidence" not in (tmp_path / "sure" / "manifest.jsonl").read_text()


@pytest.mark.parametrize("told", (True, False))
def test_a_class_without_a_pixel_counts_where_the_image_is_said_to_have_it(told):
    probabilities = np.array([0.7, 0.25, 0.05], np.float32)[:, None, None].repeat(6, 1).repeat(5, 2)
    probabilities[:2, :3] = [[[0.2]], [[0.75]]]
    ids = np.array([0, 8, 15], np.uint8)
    facts = FinishPrediction("none")(NetworkScores(None, ids, probabilities, told=told)).facts
    assert facts["confidence"].keys() == ({"0", "8", "15"} if told else {"0", "8"})
    assert facts["confidence"]["8"] == pytest.approx(3 * 0.75 / (3 + 3 * 0.25), abs=1e-4)
    assert facts["confidence"].get("15", 0) == 0


def test_an_image_that_a_class_fills_has_no_background_to_be_unsure_of():
    filled = np.array([0.1, 0.9], np.float32)[:, None, None].repeat(6, 1).repeat(5, 2)
    facts = FinishPrediction("none")(NetworkScores(None, np.array([0, 8], np.uint8), filled, told=True)).facts
    assert facts["confidence"] == {"8": pytest.approx(0.9, abs=1e-4)}
    facts = FinishPrediction("none")(NetworkScores(None, np.array([8], np.uint8), filled[1:])).facts
    assert facts["confidence"] == {"8": pytest.approx(0.9, abs=1e-4)}  # its probability is too low to take part


def test_records_of_an_earlier_version_make_no_table(tmp_path):
    write_confidence(tmp_path, [{"id": "a", "classes": [8]}], CLASSES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ("a\rb", "a\nb", "\r", 'a"b', "a,b", "a b/c", "caf\udce9", "\ufeffa"))
def test_the_report_reads_any_name_in_the_table(tmp_path, name):
    records = [{"id": "z", "confidence": {"0": 0.75}}, {"id": name, "confidence": {"0": 0.5, "8": 0.25}}]
    write_confidence(tmp_path, records, CLASSES)
    assert list(read_confidence(tmp_path).items()) == [(name, 0.375), ("z", 0.75)]


def test_the_iou_of_an_image_that_the_benchmark_compares_with():
    labels, mask = np.uint8([[8, 8], [6, 0]]), np.uint8([[8, 6], [6, 255]])
    assert image_iou(labels, mask) == pytest.approx((1 / 2 + 1 / 2) / 2)  # the background is in neither
    assert image_iou(np.uint8([[0, 8]]), np.uint8([[8, 8]])) == pytest.approx((0 + 1 / 2) / 2)
    assert np.isnan(image_iou(labels, np.full((2, 2), 255, np.uint8)))
    # ranks 1, 3.5, 3.5, 2, 5 and 4, 1, 2.5, 2.5, 5, around 3
    values = np.array([0.1, 0.4, 0.4, 0.2, 0.9]), np.array([3.0, 1.0, 2.0, 2.0, 5.0])
    assert rank_correlation(*values) == pytest.approx((-2 * 1 - 0.5 * 2 - 0.5 * 0.5 + 1 * 0.5 + 2 * 2) / 9.5)
