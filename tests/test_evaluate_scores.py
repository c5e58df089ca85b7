"""Scores against brute force, and what is said about lists, masks and sizes."""

import json

import numpy as np
import pytest
from labels_small import CLASSES, small_dataset, write_cams

from pplfast.data.classes import ClassList
from pplfast.data.masks import read_mask, write_mask
from pplfast.errors import UserError
from pplfast.evaluate import evaluate_cams, evaluate_labels
from pplfast.evaluate.confusion import class_ious, confusion_matrix, mean_iou
from pplfast.files import write_json
from pplfast.labels.camfile import load_cam
from pplfast.labels.label import generate_labels
from pplfast.recipe import LabelConfig

VALUES = (0, 6, 8, 15)


@pytest.fixture
def small(tmp_path):
    dataset = small_dataset(tmp_path)
    return dataset, write_cams(tmp_path / "cams", dataset), tmp_path


def brute_force(masks, predictions, values=VALUES):
    """IoU per class by set operations over all pixels of the list, in percent."""
    truth = np.concatenate([mask.ravel() for mask in masks])
    predicted = np.concatenate([prediction.ravel() for prediction in predictions])[truth != 255]
    truth = truth[truth != 255]
    ious = []
    for value in values:
        union = ((truth == value) | (predicted == value)).sum()
        ious.append(100 * ((truth == value) & (predicted == value)).sum() / union if union else None)
    return ious


def test_confusion_and_iou_by_hand():
    truth = np.array([[0, 0, 1], [1, 2, -1]])
    predicted = np.array([[0, 1, 1], [-1, 0, 2]])
    matrix = confusion_matrix(truth, predicted, 4)
    np.testing.assert_array_equal(matrix, [[1, 1, 0, 0, 0], [0, 1, 0, 0, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    ious = class_ious(matrix, CLASSES)
    assert [entry.iou for entry in ious] == [pytest.approx(100 / 3), pytest.approx(100 / 3), 0.0, None]
    assert [(entry.name, entry.id, entry.truth_pixels) for entry in ious] == [
        ("background", 0, 2),
        ("bus", 6, 2),
        ("cat", 8, 1),
        ("person", 15, 0),
    ]
    assert mean_iou(ious) == pytest.approx(200 / 9)


@pytest.mark.slow
def test_labels_equal_brute_force_also_in_a_pool(small):
    dataset, _, folder = small
    rng = np.random.default_rng(0)
    masks = [read_mask(mask) for mask in dataset.masks]
    predictions = [rng.choice(np.array([0, 6, 15, 255], np.uint8), mask.shape) for mask in masks]
    for name, prediction in zip(dataset.ids, predictions, strict=True):
        write_mask(folder / "labels" / f"{name}.png", prediction)
    scores = evaluate_labels(folder / "labels", dataset, jobs=1)
    expected = brute_force(masks, predictions)
    assert [entry.iou for entry in scores.classes] == [pytest.approx(value) for value in expected]
    assert scores.miou == pytest.approx(np.mean(expected))
    assert (scores.list, scores.images, scores.listed, scores.warnings) == ("small/val", 5, 5, [])
    many = dataset.subset([n % 5 for n in range(40)])
    assert evaluate_labels(folder / "labels", many, jobs=2) == evaluate_labels(folder / "labels", many, jobs=1)
    json.dumps(scores.to_dict())


def test_sweep_equals_brute_force_at_every_threshold(small):
    dataset, cams, _ = small
    masks = [read_mask(mask) for mask in dataset.masks]
    # A score that occurs in the maps is the hardest threshold: such pixels are background.
    first, second = (load_cam(cams / f"{name}.npz").full() for name in ("im0", "im1"))
    thresholds = [0.1, 0.5, float(first.max()), float(second[0, 5, 5])]
    scores = evaluate_cams(cams, dataset, thresholds, jobs=1)
    for threshold, miou in scores.sweep:
        predictions = []
        for name in dataset.ids:
            cam = load_cam(cams / f"{name}.npz")
            full = np.pad(cam.full(), ((1, 0), (0, 0), (0, 0)), constant_values=np.float32(threshold))
            predictions.append(np.array([0, *(CLASSES.ids[c] for c in cam.classes)])[full.argmax(0)])
        expected = brute_force(masks, predictions)
        assert miou == pytest.approx(np.mean(expected)), threshold
        if threshold == scores.threshold:
            assert [entry.iou for entry in scores.classes] == [pytest.approx(value) for value in expected]
    assert [threshold for threshold, _ in scores.sweep] == sorted(thresholds)
    assert scores.miou == max(miou for _, miou in scores.sweep)


def test_default_sweep_equals_the_pngs_of_its_threshold(small):
    dataset, cams, folder = small
    sweep = evaluate_cams(cams, dataset, jobs=2)
    assert [threshold for threshold, _ in sweep.sweep] == pytest.approx(np.arange(0.05, 0.605, 0.01))
    assert sweep == evaluate_cams(cams, dataset, jobs=1)
    for threshold in (0.05, sweep.threshold, 0.6):
        out = folder / f"labels{threshold}"
        generate_labels(cams, dataset, LabelConfig(value=threshold, crf="none"), out)
        assert evaluate_labels(out, dataset, jobs=1).miou == pytest.approx(dict(sweep.sweep)[threshold], abs=1e-9)


def test_table_says_what_was_scored(small):
    dataset, cams, _ = small
    text = evaluate_cams(cams, dataset, [0.3, 0.4], jobs=1).table()
    assert "scored on small/val, 5 of 5 images" in text and "over 4 classes, background included" in text
    assert "best of 2 thresholds, 0.3 to 0.4" in text and "at the end of the sweep" in text


def test_class_of_nobody_is_left_out_and_reported(small):
    dataset, _, folder = small
    for name, mask in zip(dataset.ids, dataset.masks, strict=True):
        ids = read_mask(mask)
        ids[ids == 8] = 0
        write_mask(mask, ids)
        write_mask(folder / "labels" / f"{name}.png", np.zeros_like(ids))
    scores = evaluate_labels(folder / "labels", dataset, jobs=1)
    assert scores.classes[2].iou is None and scores.classes[1].iou == 0.0
    assert scores.miou == pytest.approx(scores.classes[0].iou / 3)
    assert "cat         absent, not counted" in scores.table()


def test_warnings(small):
    dataset, cams, _folder = small
    object.__setattr__(dataset, "name", "VOC2012/train_aug")
    object.__setattr__(dataset, "masks", (None, *dataset.masks[1:]))
    object.__setattr__(dataset, "classes", ClassList(("bus", "cat", "person"), (6, 8, 14)))
    (cams / "im1.npz").unlink()
    note = {"id": "im1", "state": "bad", "kind": "truncated", "reason": "im1.jpg: truncated"}
    (cams / "manifest.jsonl").write_text(json.dumps(note) + "\n")
    scores = evaluate_cams(cams, dataset, jobs=1)
    assert (scores.images, scores.listed) == (3, 5)
    text = "\n".join(scores.warnings)
    assert "1 of the list's 5 images have no mask" in text and "1 images failed earlier" in text
    assert "looks like train_aug" in text and "masks hold the values 15, which are no class" in text
    assert "warning: " in scores.table()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"class_names": ["cat", "bus", "person"]}, "the classes cat,bus,person, not bus,cat,person; give --classes"),
        ({"class_names": ["bus", "cat"]}, "the classes bus,cat, not bus,cat,person"),
    ],
)
def test_cams_of_another_class_list_are_not_scored(small, settings, message):
    dataset, cams, _folder = small
    write_json(cams / "settings.json", settings)
    with pytest.raises(UserError, match=f"cams: was made for {message}"):
        evaluate_cams(cams, dataset, jobs=1)


def test_cams_can_be_scored_on_masks_of_other_values(small):
    """CAM files hold places in a class list, not the values that masks have for them."""
    dataset, cams, _folder = small
    write_json(cams / "settings.json", {"class_names": list(dataset.classes.names), "class_ids": [1, 2, 3]})
    assert evaluate_cams(cams, dataset, jobs=1).miou > 0


def test_a_folder_whose_name_sounds_like_a_list_is_none(small):
    dataset, cams, _folder = small
    object.__setattr__(dataset, "name", "august photos")
    assert not any("train_aug" in text for text in evaluate_cams(cams, dataset, jobs=1).warnings)


def test_errors_name_the_file_and_the_remedy(small):
    dataset, cams, folder = small
    with pytest.raises(UserError, match="labels: no such folder; make it with `pplfast label`"):
        evaluate_labels(folder / "labels", dataset, jobs=1)
    for name, mask in zip(dataset.ids, dataset.masks, strict=True):
        write_mask(folder / "labels" / f"{name}.png", read_mask(mask))
    assert evaluate_labels(folder / "labels", dataset, jobs=1).miou == 100
    write_mask(folder / "labels" / "im4.png", np.zeros((5, 7), np.uint8))
    with pytest.raises(UserError, match="im4.png: is 7 x 5 pixels, but .*masks/im4.png is 29 x 37"):
        evaluate_labels(folder / "labels", dataset, jobs=2)
    write_mask(folder / "labels" / "im4.png", np.full((37, 29), 3, np.uint8))
    with pytest.raises(UserError, match="im4.png: holds the value 3, which is no class"):
        evaluate_labels(folder / "labels", dataset, jobs=1)
    object.__setattr__(dataset, "masks", (None,) * 5)
    with pytest.raises(UserError, match="small/val: none of its 5 images has a mask; .*--masks"):
        evaluate_cams(cams, dataset, jobs=1)
    with pytest.raises(UserError, match="no thresholds"):
        evaluate_cams(cams, dataset, [], jobs=1)


def black_and_white(dataset, folder):
    for name in dataset.ids:
        mask = read_mask(folder / "masks" / f"{name}.png")
        write_mask(folder / "masks" / f"{name}.png", np.where((mask == 0) | (mask == 255), 0, 255).astype(np.uint8))


@pytest.mark.parametrize("images", (1, 5))
def test_masks_of_0_and_255_alone_are_a_warning_of_both_scores(small, images):
    dataset, cams, folder = small
    black_and_white(dataset.subset(range(images)), folder)
    for name, mask in zip(dataset.ids, dataset.masks, strict=True):
        write_mask(folder / "empty" / f"{name}.png", np.zeros_like(read_mask(mask)))
    for scores in (evaluate_labels(folder / "empty", dataset, jobs=1), evaluate_cams(cams, dataset, jobs=1)):
        text = "\n".join(scores.warnings)
        assert f"{images} of 5 masks hold 255 and no class (as {folder}/masks/im0.png): 255 is 'ignore'" in text
        assert ("no pixel of the masks is of a class" in text) == (images == 5)
        assert scores.miou < 50


def test_masks_of_images_without_a_class_may_hold_255_alone(small):
    dataset, cams, folder = small
    black_and_white(dataset.subset([0]), folder)
    dataset.labels[0] = 0
    assert evaluate_cams(cams, dataset, jobs=1).warnings == []


def test_a_score_over_no_class_does_not_read_as_perfect(small):
    dataset, _, folder = small
    black_and_white(dataset, folder)
    for name, mask in zip(dataset.ids, dataset.masks, strict=True):
        write_mask(folder / "empty" / f"{name}.png", np.zeros_like(read_mask(mask)))
    scores = evaluate_labels(folder / "empty", dataset, jobs=1)
    assert scores.miou == 0 and scores.classes[0].iou == 100
    assert "  mIoU        of no class\n" in scores.table() and scores.table().count("100.0") == 1


def test_labels_of_0_and_255_alone_are_a_warning(small):
    dataset, _, folder = small
    for name, mask in zip(dataset.ids, dataset.masks, strict=True):
        write_mask(folder / "labels" / f"{name}.png", np.where(read_mask(mask), 255, 0).astype(np.uint8))
    (warning,) = evaluate_labels(folder / "labels", dataset, jobs=1).warnings
    assert "labels hold 0 and 255 alone: 255 is no label" in warning
    write_mask(folder / "labels" / "im0.png", read_mask(dataset.masks[0]))
    assert evaluate_labels(folder / "labels", dataset, jobs=1).warnings == []
