"""On a CUDA device: images reach the network whole however late it reads them, and nobody waits for its queue.

What would go wrong shows only under a full queue, so the network is kept behind the loaders by `torch.cuda._sleep`.
Without a CUDA device there is no queue; those tests that can are rehearsed on the CPU, with less, so that the next GPU
does not find them out of date.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from label_jobs import pngs
from labels_small import small_dataset as dataset_with_masks
from loader_helpers import MEAN, STD, small_dataset
from torch import nn

from pplfast.benchmarks.label_data import label_arguments, make_images
from pplfast.data.handover import Handover, HostCopy, to_device
from pplfast.data.loader import TrainLoader
from pplfast.data.masks import read_mask
from pplfast.kernels.cells import Cells
from pplfast.labels.cam import MapMaker, generate_cams
from pplfast.labels.camfile import load_cam
from pplfast.models.backbone import BlockSpec
from pplfast.recipe import AugmentConfig, CamConfig

CUDA = torch.cuda.is_available()
needs_cuda = pytest.mark.skipif(not CUDA, reason="needs a CUDA device")

DEVICE = torch.device("cuda", 0) if CUDA else torch.device("cpu")
BATCHES, SIDE = (16, (375, 500)) if CUDA else (2, (30, 40))
BEHIND = 50_000_000  # cycles, about 30 ms: the loader makes several batches meanwhile
LONG = 4_000_000_000  # about 2 s
AUGMENT = AugmentConfig(crop=192, resize_long=(160, 320), flip=0.5)


class Averages(nn.Module):
    """A classifier whose maps are averages of the image's own pixels: a pixel that was overwritten shows, and nothing
    rounds differently in another run. `pause` is called before its kernels are queued."""

    class backbone:
        specs = (BlockSpec("a", 4, 3),)
        mean, std = MEAN, STD

        @staticmethod
        def cells():
            return Cells(1.5, 4)

    def __init__(self, pause=lambda: None):
        super().__init__()
        self.classifier = nn.Conv2d(3, 3, 1)  # names the classifier, and holds its device
        self.pause = pause

    def maps(self, images, classes=None):
        self.pause()
        maps = F.avg_pool2d(images, 4, ceil_mode=True).float().relu()
        return maps if classes is None else maps.gather(1, classes[:, :, None, None].expand(-1, -1, *maps.shape[2:]))


def sleep():
    if CUDA:
        torch.cuda._sleep(BEHIND)


def wait():
    if CUDA:
        torch.cuda.synchronize()


def asleep():
    """The default stream sleeps; the event has happened when it is awake."""
    awake = torch.cuda.Event()
    torch.cuda._sleep(LONG)
    awake.record()
    return awake


def assert_equal_maps(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.isfinite().all() and torch.equal(one, other), f"{(one != other).float().mean():.2%} differ"


@pytest.fixture(scope="module")
def pictures():
    """Batches of 8 images: at scale 2 DALI's uint8 buffer has the size of scale 1's float32 one."""
    rng = np.random.default_rng(0)
    return [[rng.integers(0, 256, (*SIDE, 3), dtype=np.uint8) for _ in range(8)] for _ in range(BATCHES)]


def test_the_maps_of_a_late_network_are_those_of_a_prompt_one(pictures):
    classes = torch.tensor([[0, 1], [1, 2]] * 4)

    def maps(pause):
        model = Averages(pause).to(DEVICE)
        made = MapMaker(model, CamConfig((1.0, 2.0, 0.5), True), "fp32", 1 << 40, 8, 4)
        return [made(batch, classes).cpu() if pause is wait else made(batch, classes) for batch in pictures]

    expected = maps(wait)
    assert_equal_maps([one.cpu() for one in maps(sleep)], expected)


def test_cam_files_of_a_late_network_are_those_of_a_prompt_one(tmp_path):
    dataset = small_dataset(tmp_path, 24, ((375, 500), (320, 240), (200, 200)))
    dataset.labels[:] = 0
    dataset.labels[:, :3] = [[1, 0, 1]]
    object.__setattr__(dataset, "classes", dataset_with_masks(tmp_path / "masked").classes)
    object.__setattr__(dataset, "labels", dataset.labels[:, :3].copy())
    config = CamConfig((1.0, 2.0, 0.5), True, batch=4, precision="fp32")
    for name, pause in (("prompt", wait), ("late", sleep)):
        torch.manual_seed(0)
        outcome = generate_cams(Averages(pause).to(DEVICE).eval(), dataset, config, tmp_path / name, npy=True)
        assert outcome.written == 24 and not outcome.bad
    for image_id in dataset.ids:
        one, other = (load_cam(tmp_path / name / f"{image_id}.npz") for name in ("prompt", "late"))
        np.testing.assert_array_equal(one.maps, other.maps)
        np.testing.assert_array_equal(one.classes, other.classes)
    assert len(list((tmp_path / "late").glob("*.npy"))) == 24


@pytest.fixture(scope="module")
def training_set(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("images"), 24, ((200, 300), (300, 200), (256, 256)))


def loader(dataset, **options):
    return TrainLoader(dataset, AUGMENT, MEAN, STD, 4, threads=2, cache_mb=256, **options)


def test_training_batches_equal_those_of_the_cpu(training_set):
    """Up to the decoder: nvJPEG and libjpeg round otherwise, and so do the two resizings."""
    on_gpu, on_cpu = loader(training_set, device=DEVICE), loader(training_set)
    for found, expected in zip(on_gpu.epoch(0), on_cpu.epoch(0), strict=True):
        assert found.images.device == found.targets.device == found.weights.device == DEVICE
        assert found.images.is_contiguous(memory_format=torch.channels_last) and found.total == expected.total
        assert torch.equal(found.targets.cpu(), expected.targets) and torch.equal(found.weights.cpu(), expected.weights)
        assert torch.equal(found.indices, expected.indices)
        images = found.images.cpu()
        padded = (images == 0).all(1) != (expected.images == 0).all(1)
        assert padded.float().mean() < 1e-3
        grey = (images - expected.images).abs() * torch.tensor(STD)[:, None, None]
        assert grey.mean() < 1 and grey.quantile(0.999) < 12


def test_training_batches_of_a_late_step_are_those_of_a_prompt_one(training_set):
    one = loader(training_set, device=DEVICE)
    list(one.epoch(0))  # fills the cache: both see the same decoded images

    def read(pause):
        kept = []
        for epoch in (1, 2, 3):
            for batch in one.epoch(epoch):
                pause()
                kept += [batch.images.clone(), batch.targets.clone(), batch.weights.clone()]
                del batch
        return [tensor.cpu() for tensor in kept]

    expected = read(wait)
    assert_equal_maps(read(sleep), expected)


@needs_cuda
def test_no_loader_thread_waits_for_the_training_queue(training_set):
    one = loader(training_set, device=DEVICE)
    list(one.epoch(0))  # memory for later, pinned and not, is there afterwards
    torch.cuda.synchronize()
    awake = asleep()
    kept = list(one.epoch(1))
    assert not awake.query(), "a batch was ready only when the queue had run empty"
    awake.synchronize()
    assert len(kept) == 6


@needs_cuda
def test_nothing_of_the_handover_waits():
    handover, host = Handover(DEVICE), torch.arange(1 << 20)
    on_device = to_device(host, DEVICE)
    for allocated in (False, True):  # the first time new pinned memory may wait, as every allocation may
        torch.cuda.synchronize()
        awake = asleep()
        handed, queued, back = handover.from_host(host), to_device(host, DEVICE), HostCopy(on_device)
        assert not (allocated and awake.query())
    assert (back.numpy() == host.numpy()).all() and awake.query()
    assert torch.equal(handed.cpu(), host) and torch.equal(queued.cpu(), host)


@needs_cuda
def test_labels_are_those_of_blocking_launches(tmp_path):
    """The command as it is, with the CRF on the device: sums of floats may come in another order, so a few pixels on
    the border of two classes may differ, but no image."""
    root = make_images(tmp_path, 64, ((496, 376), (376, 496), (256, 256)))
    for name, blocking in (("free", "0"), ("blocking", "1")):
        command = [
            sys.executable,
            "-m",
            "pplfast",
            *label_arguments(root, tmp_path / name, "--scales", "1,2,0.5", "--batch", "8"),
        ]
        run = subprocess.run(
            command, env={**os.environ, "CUDA_LAUNCH_BLOCKING": blocking}, capture_output=True, text=True, timeout=300
        )
        assert run.returncode == 0, run.stdout + run.stderr
        assert json.loads((tmp_path / name / "settings.json").read_text())["crf_engine"] == "device"
    names = list(pngs(tmp_path / "free"))
    assert len(names) == 64 and names == list(pngs(tmp_path / "blocking"))
    for name in names:
        one, other = (read_mask(tmp_path / run / f"{name}.png") for run in ("free", "blocking"))
        assert (one != other).mean() < 1e-3, name
