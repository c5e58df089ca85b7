"""The memory budget of the jobs: decided by the headers, before anything is decoded."""

import dataclasses
import struct

import numpy as np
import pytest
import torch
from bare_backbone import BareBackbone
from labels_small import small_dataset, write_cams
from test_labels_cam import FakeClassifier
from torch import nn

from pplfast.data.images import inspect_image
from pplfast.errors import UserError
from pplfast.jobs import JobOptions, feed
from pplfast.jobs.manifest import read_manifest
from pplfast.jobs.memory import DECODED, SCALED, Room, budget_bytes, crf_bytes, split_budget
from pplfast.kernels import Cells
from pplfast.labels.cam import CamJob, generate_cams
from pplfast.labels.camfile import Cam, save_cam
from pplfast.labels.camfolder import CamFolder
from pplfast.labels.device_crf import DeviceLabeller
from pplfast.labels.label import CamLabelJob, LabelJob, generate_labels, label_dataset
from pplfast.labels.segment import SegmentJob, segment_images
from pplfast.labels.walk import walk_cams
from pplfast.recipe import CamConfig, LabelConfig, SegmentationConfig, WalkConfig

CONFIG = CamConfig(scales=(0.5, 1.0), flip=True, batch=2, precision="fp32")
SEGMENTATION = SegmentationConfig(
    scales=(1.0,), crf="none", optim=dataclasses.replace(SegmentationConfig().optim, precision="fp32")
)
NO_CRF = LabelConfig(value=0.3, crf="none")
SMALL = JobOptions(memory=0.25, jobs=1, threads=1)
GIB = 2**30
CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


def claim(path, width, height):
    """Make the header of a small JPEG say that it is a large one."""
    comment = b"\xff\xfe" + struct.pack(">H", 60_002) + bytes(60_000)
    data = bytearray(path.read_bytes().replace(b"\xff\xd8", b"\xff\xd8" + 3 * comment, 1))  # bytes for so many pixels
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    path.write_bytes(data)


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """The third image says that it has 13000 x 13000 pixels; to read it after its header fails."""
    found, read = small_dataset(tmp_path), feed.read_encoded
    claim(found.images[2], 13000, 13000)
    assert inspect_image(found.images[2]).width == 13000

    def read_encoded(path):
        assert path.stem != "im2", "an image that is too large is not read"
        return read(path)

    monkeypatch.setattr(feed, "read_encoded", read_encoded)
    return found


class Pixels(nn.Module):
    """A network of one number per class and cell."""

    def __init__(self, rows):
        super().__init__()
        self.backbone, self.cells = BareBackbone(4), Cells.over(4, 1)
        self.head = self.edge = nn.Conv2d(3, rows, 4, 4)
        self.heads = [self.head]

    def forward(self, images):
        padded = nn.functional.pad(images, (0, -images.shape[3] % 4, 0, -images.shape[2] % 4))
        return self.head(padded) if self.head.out_channels > 1 else self.head(padded)[:, 0]


def cams_job(dataset, out, options):
    return generate_cams(FakeClassifier().eval(), dataset, CONFIG, out, options=options)


def labels_job(dataset, out, options):
    return label_dataset(FakeClassifier().eval(), dataset, CONFIG, NO_CRF, out, options=options)


def cam_labels_job(dataset, out, options):
    return generate_labels(write_cams(out.parent / "cams", dataset), dataset, NO_CRF, out, options)


def walk_job(dataset, out, options):
    cams = write_cams(out.parent / "cams", dataset)
    return walk_cams(Pixels(1).eval(), cams, dataset, WalkConfig(steps=2), out, options)


def segmentation_job(dataset, out, options):
    return segment_images(Pixels(4).eval(), dataset.classes, dataset, SEGMENTATION, out, options)


@pytest.mark.parametrize("work", [cams_job, labels_job, cam_labels_job, walk_job, segmentation_job])
def test_a_small_file_of_a_large_image_is_named_and_not_read(work, dataset, tmp_path):
    out = tmp_path / "out"
    outcome = work(dataset, out, SMALL)
    ((name, reason),) = outcome.bad
    assert name == "im2" and outcome.exit_code == 3 and outcome.written == 4
    assert reason.startswith(f"{dataset.images[2]}: 13000 x 13000 pixels, and the memory budget allows ")
    assert reason.endswith(" megapixels; raise --memory, or make it smaller")
    assert read_manifest(out)["im2"]["kind"] == "too-large"


def test_an_image_is_tried_again_with_more_memory(tmp_path, monkeypatch):
    dataset, out = small_dataset(tmp_path), tmp_path / "out"
    monkeypatch.setattr(CamJob, "pixel_bytes", lambda self: split_budget(GIB // 4, CPU)[1] / 1500)
    assert [name for name, _ in cams_job(dataset, out, SMALL).bad] == ["im0", "im1"]
    again = cams_job(dataset, out, dataclasses.replace(SMALL, memory=1.0))
    assert again.written == 2 and not again.bad


def test_a_cam_file_of_a_large_image_is_not_that_of_a_small_one(tmp_path):
    dataset = small_dataset(tmp_path)
    cams = write_cams(tmp_path / "cams", dataset)
    save_cam(cams / "im2.npz", Cam(np.arange(3), np.ones((3, 1000, 1000)), (4000, 4000)))
    outcome = generate_labels(cams, dataset, NO_CRF, tmp_path / "out", SMALL)
    assert outcome.written == 4 and [name for name, _ in outcome.bad] == ["im2"]
    assert "im2.npz: is for 4000 x 4000 pixels, the image has 44 x 31" in outcome.bad[0][1]


def test_what_a_pixel_takes_counts_scales_classes_and_the_crf(tmp_path):
    dataset = small_dataset(tmp_path)
    model, crf = FakeClassifier(), LabelConfig(value=0.3)

    def cams(config, npy):
        return CamJob(model, dataset, config, npy).pixel_bytes()

    def labels(config):
        return LabelJob(model, dataset, CONFIG, config, None, ("png",), "auto", 1).pixel_bytes()

    least = DECODED + SCALED + 4 * 3 * 2  # 3 classes: their sum over the scales, and what is added
    assert cams(CONFIG, False) >= least and cams(CONFIG, True) >= cams(CONFIG, False) + 4 * 3
    assert cams(CamConfig(scales=(2.0,)), False) >= cams(CONFIG, False) + 3 * SCALED
    assert labels(crf) >= DECODED + SCALED + crf_bytes(3) > labels(NO_CRF) >= least
    folder = CamFolder(write_cams(tmp_path / "cams", dataset), dataset)
    assert CamLabelJob(folder, dataset, crf, None, "auto").pixel_bytes() >= DECODED + crf_bytes(3)
    assert SegmentJob(Pixels(4), dataset.classes, dataset, SEGMENTATION).pixel_bytes() >= DECODED + SCALED + 4 * 4 * 6


def test_images_under_way_stay_within_the_room(tmp_path, monkeypatch):
    """The smallest budget holds two of these at a time; each batch is of one."""
    dataset = small_dataset(tmp_path)
    dataset = dataset.subset([0, 0, 1, 1, 0])
    object.__setattr__(dataset, "ids", tuple("abcde"))
    room = split_budget(budget_bytes(0.25), CPU)[1]
    monkeypatch.setattr(CamLabelJob, "pixel_bytes", lambda self: room / 2.5 / (40 * 53))
    taken, take = [], Room.take

    def recorded(self, size, stop):
        result = take(self, size, stop)
        taken.append((self.taken, self.size))
        return result

    monkeypatch.setattr(Room, "take", recorded)
    cams = tmp_path / "cams"
    for name, classes in zip(dataset.ids, dataset.labels, strict=True):
        own = np.flatnonzero(classes)
        save_cam(cams / f"{name}.npz", Cam(own, np.ones((len(own), 10, 14)), (40, 53)))
    assert generate_labels(cams, dataset, NO_CRF, tmp_path / "out", SMALL).written == 5
    assert len(taken) == 5 and all(now <= most == room for now, most in taken)


def test_a_crf_without_memory_costs_its_image(tmp_path, monkeypatch):
    """It is bad alone, and tried again."""
    dataset, out, labelled = small_dataset(tmp_path), tmp_path / "labels", DeviceLabeller.__call__
    model = FakeClassifier().eval()

    def without_memory(self, pixels, maps, labels):
        if labels.all():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return labelled(self, pixels, maps, labels)

    monkeypatch.setattr(DeviceLabeller, "__call__", without_memory)
    outcome = label_dataset(model, dataset, CONFIG, LabelConfig(value=0.3), out, engine="device", options=SMALL)
    assert outcome.written == 4 and [name for name, _ in outcome.bad] == ["im2"]
    assert "does not fit into the memory of the device" in outcome.bad[0][1]
    monkeypatch.undo()
    again = label_dataset(model, dataset, CONFIG, LabelConfig(value=0.3), out, engine="device", options=SMALL)
    assert again.written == 1


@pytest.mark.parametrize("value", (0.1, float("nan"), float("inf"), -1.0))
def test_a_budget_that_is_none_is_refused_before_anything_else(value, tmp_path):
    dataset = small_dataset(tmp_path)
    with pytest.raises(UserError, match="--memory .*: must be "):
        cams_job(dataset, tmp_path / "out", JobOptions(memory=value))
    assert budget_bytes(0.25) == GIB // 4 and not (tmp_path / "out").exists()
