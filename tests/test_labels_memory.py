"""The memory budget of the passes over a list: decided by the headers, before anything is decoded."""

import dataclasses
import json
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from labels_small import LABELS, SIZES, small_dataset, write_cams
from test_labels_cam import FakeClassifier
from torch import nn

from pplfast.data import inference
from pplfast.data.images import BadImage, inspect_image
from pplfast.data.inference import BATCHES_AHEAD, Fit, InferenceLoader
from pplfast.errors import UserError
from pplfast.labels import batches, memory
from pplfast.labels.batches import DECODED, BatchPlan, plan_batches
from pplfast.labels.cam import generate_cams
from pplfast.labels.camfile import Cam, save_cam
from pplfast.jobs.pool import map_unordered
from pplfast.labels.label import generate_labels
from pplfast.labels.rules import Prediction, refine_prediction
from pplfast.labels.segment import segment_images
from pplfast.jobs.screen import screen
from pplfast.labels.walk import walk_cams
from pplfast.recipe import CamConfig, LabelConfig, SegmentationConfig, WalkConfig

CONFIG = CamConfig(scales=(0.5, 1.0), flip=True, batch=2, precision="fp32")
GIB = 2**30
CPU = torch.device("cpu")


def claim(path, width, height):
    """Make the header of a small JPEG say that it is a large one."""
    comment = b"\xff\xfe" + struct.pack(">H", 60_002) + bytes(60_000)
    data = bytearray(path.read_bytes().replace(b"\xff\xd8", b"\xff\xd8" + 3 * comment, 1))  # bytes for so many pixels
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    path.write_bytes(data)


class Decoder:
    """In place of DALI's: all images are black and of one size."""

    def __init__(self, *options):
        pass

    def __call__(self, encoded):
        return [np.zeros((40, 53, 3), np.uint8) for _ in encoded]


class Scaler:
    def __init__(self, scales, flip, *options):
        self.scales, self.rows = scales, 1 + flip

    def __call__(self, images):
        height, width = images[0].shape[:2]
        count = len(images) * self.rows
        return [torch.zeros(count, 3, round(height * scale), round(width * scale)) for scale in self.scales]


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """The third image says that it has 13000 x 13000 pixels; to read it after its header fails."""
    found = small_dataset(tmp_path)
    claim(found.images[2], 13000, 13000)
    assert inspect_image(found.images[2]).width == 13000

    def read_encoded(path, inspect):
        assert path.stem != "im2", "an image that is too large is not read"
        return np.zeros(1, np.uint8)

    monkeypatch.setattr(inference, "read_encoded", read_encoded)
    monkeypatch.setattr(inference, "Decoder", Decoder)
    monkeypatch.setattr(inference, "Scaler", Scaler)
    return found


def refused(outcome, dataset, out):
    (name, reason), *others = outcome.bad
    assert name == dataset.ids[2] and not others and outcome.exit_code == 3 and outcome.written == 4
    assert json.loads((out / "bad.jsonl").read_text()) == {"id": name, "error": reason}
    assert reason.startswith(f"{dataset.images[2]}: 13000 x 13000 pixels, and the memory budget allows ")
    assert reason.endswith(" megapixels; raise --memory, or make it smaller")
    with pytest.raises(BadImage) as job:  # in the words of the labelling job
        screen(dataset.images[2], False, 10**7)
    assert str(job.value).split("allows")[0] in reason


def test_cams_refuse_a_small_file_of_a_large_image(dataset, tmp_path):
    refused(generate_cams(FakeClassifier().eval(), dataset, CONFIG, tmp_path / "out"), dataset, tmp_path / "out")


class Pixels(nn.Module):
    """A network of one number per class and cell."""

    def __init__(self, rows):
        super().__init__()
        self.backbone = SimpleNamespace(mean=(0.0,) * 3, std=(1.0,) * 3)
        self.head = self.edge = nn.Conv2d(3, rows, 4, 4)
        self.heads = [self.head]

    def forward(self, images):
        padded = nn.functional.pad(images, (0, -images.shape[3] % 4, 0, -images.shape[2] % 4))
        return self.head(padded) if self.head.out_channels > 1 else self.head(padded)[:, 0]


def test_the_segmentation_test_refuses_a_small_file_of_a_large_image(dataset, tmp_path):
    config = SegmentationConfig(
        scales=(1.0,), crf="none", optim=dataclasses.replace(SegmentationConfig().optim, precision="fp32")
    )
    outcome = segment_images(Pixels(4).eval(), dataset.classes, dataset, config, tmp_path / "out", jobs=1)
    refused(outcome, dataset, tmp_path / "out")


def test_the_walk_refuses_a_small_file_of_a_large_image(dataset, tmp_path):
    cams = write_cams(tmp_path / "cams", dataset)
    for name, labels in zip(dataset.ids, LABELS, strict=True):
        classes = np.flatnonzero(labels)
        save_cam(cams / f"{name}.npz", Cam(classes, np.ones((len(classes), 10, 14)), (40, 53)))
    refused(
        walk_cams(Pixels(1).eval(), cams, dataset, WalkConfig(steps=2), tmp_path / "out"), dataset, tmp_path / "out"
    )


def test_labels_of_a_small_cam_file_of_a_large_image_are_not_made(tmp_path):
    dataset = small_dataset(tmp_path)
    cams = write_cams(tmp_path / "cams", dataset)
    outcome = generate_labels(cams, dataset, LabelConfig(value=0.3, crf="none"), tmp_path / "a", jobs=1)
    assert outcome.written == 5
    room = memory.most_pixels(memory.budget_bytes(0.25), 3, 0.0)
    side = 4 * int(room**0.5 / 4) + 4
    save_cam(cams / "im2.npz", Cam(np.arange(3), np.ones((3, side // 4, side // 4)), (side, side)))
    outcome = generate_labels(cams, dataset, LabelConfig(value=0.3, crf="none"), tmp_path / "b", 1, memory=0.25)
    assert (
        outcome.written == 4 and outcome.bad[0][0] == "im2" and f"{side} x {side} pixels, and the" in outcome.bad[0][1]
    )


def plan(**changes):
    values = {"batch": 8, "rows_of_image": 2, "largest": 2.0, "others": 0.0, "scaled": 180.0, "result": 40.0}
    values |= {"activation": 200.0, "host": 8 * GIB, "network": 2 * GIB, "gpu": False}
    return BatchPlan(**{**values, **changes})


def test_batches_get_smaller_with_the_images_and_the_largest_are_refused():
    assert plan()(375, 500) == Fit(8, BATCHES_AHEAD)
    fits = [plan()(1000, width) for width in (500, 1000, 1500, 2000, 3000, 4000, 6000)]
    assert fits == sorted(fits, reverse=True) and fits[0].batch == 8 and fits[-1] == Fit(1, 0)
    with pytest.raises(BadImage, match=r"27000 x 1000 pixels, and the memory budget allows 6\.\d megapixels"):
        plan()(1000, 27000)
    most = 8 * GIB / (DECODED + 2.5 * 180 + 40 + 200 * 4)
    assert plan()(1, int(most)) == Fit(1, 0) and plan(host=64 * GIB)(1000, 27000).batch >= 1
    with pytest.raises(BadImage):
        plan()(1, int(most) + 2)


def test_rows_at_once_stay_within_the_networks_share(monkeypatch):
    given = []
    monkeypatch.setattr(batches, "give_freed_memory_back", lambda: given.append(1))
    assert plan().make_room(torch.empty(1, 3, 1, 1).expand(16, 3, 1000, 1000)) == 2 * GIB // (200 * 10**6)
    assert not given
    assert plan().make_room(torch.empty(1, 3, 1, 1).expand(16, 3, 10**4, 10**4)) == 1
    assert given  # malloc would keep the blocks of the other scales


def test_what_malloc_keeps_of_other_scales_is_counted():
    assert plan(others=5.0)(1000, 1000).batch < plan()(1000, 1000).batch


def test_on_a_gpu_its_memory_bounds_the_batch_and_the_hosts_the_image():
    small = plan(gpu=True, network=GIB // 2)
    assert small(375, 500).batch < plan(gpu=True, network=64 * GIB)(375, 500).batch == 8
    assert small(5000, 5000) == Fit(1, 0)
    with pytest.raises(BadImage, match="megapixels"):
        small(65000, 65000)


def test_what_the_network_takes_is_counted_on_a_small_image():
    convolution = nn.Conv2d(3, 8, 3, padding=1)
    found = plan_batches(convolution, CPU, (0.5, 2.0), True, 4, 10.0, 8 * GIB)
    assert (found.largest, found.scaled, found.rows_of_image) == (2.0, 12 * 2 * 4.25, 2)
    assert found.activation == pytest.approx(1.5 * 8 * 4, rel=0.1)


def test_the_loader_takes_few_of_the_large_ones_and_those_last(dataset):
    object.__setattr__(dataset, "images", (*dataset.images[:2], dataset.images[4], *dataset.images[3:]))

    def fit(height, width):
        return Fit(1, 0) if (height, width) == SIZES[0] else Fit(2, BATCHES_AHEAD)

    loader = InferenceLoader(dataset, (1.0,), False, (0.0,) * 3, (1.0,) * 3, 2, 1, fit=fit)
    assert [batch.indices for batch in loader] == [[2, 4], [3], [0], [1]]


def test_a_crf_that_is_too_large_is_that_images_failure(tmp_path):
    values = np.zeros((3, 40, 50), np.float32)
    prediction = Prediction("a", tmp_path / "a.jpg", tmp_path / "a.png", np.arange(3, dtype=np.uint8), values)
    assert "50 x 40 pixels, and the memory budget allows" in refine_prediction(prediction, "deeplab", 1000)
    assert refine_prediction(prediction, "none", 1000) == ""


@pytest.mark.slow
def test_tasks_under_way_stay_within_their_room():
    taken, most = set(), 0

    class Tasks(list):
        def __iter__(self):
            for task in super().__iter__():
                taken.add(task)
                yield task

    for task, _ in map_unordered(abs, Tasks([3, 4, 5, 6, 40, 1]), 4, room=10, size=int):
        most = max(most, sum(taken) - max(taken, default=0))
        taken.discard(task)
    assert most <= 10 and not taken


@pytest.mark.parametrize("value", (0.1, float("nan"), float("inf"), -1.0))
def test_a_budget_that_is_none_is_refused_before_anything_else(value, tmp_path):
    with pytest.raises(UserError, match="--memory .*: must be "):
        generate_cams(None, None, CONFIG, tmp_path, memory=value)
    assert memory.budget_bytes(0.25) == GIB // 4
