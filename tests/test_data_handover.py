"""What a loader's thread hands over: on a GPU complete copies, made in its own queue; on a CPU DALI's own memory."""

import fake_streams
import numpy as np
import pytest
import torch
from fake_streams import GPU
from loader_helpers import MEAN, STD, small_dataset

from pplfast.data import handover as module
from pplfast.data.handover import Handover, HostCopy, to_device
from pplfast.data.loader import TrainLoader
from pplfast.data.masks import write_mask
from pplfast.data.pipelines import Resizer
from pplfast.recipe import AugmentConfig

AUGMENT = AugmentConfig(crop=32, resize_long=(40, 96))


class FakeBatch:
    """Of DALI: its tensor shares this array."""

    def __init__(self, value):
        self.array = np.full((2, 3), value, np.uint8)

    def as_tensor(self):
        return self.array


@pytest.fixture
def streams(monkeypatch):
    return fake_streams.install(monkeypatch)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    made = small_dataset(folder, 7, ((60, 80), (50, 50)))
    for index, name in enumerate(made.ids):
        write_mask(folder / f"{name}.png", np.full(((60, 80), (50, 50))[index % 2], index % 3, np.uint8))
    object.__setattr__(made, "masks", tuple(folder / f"{name}.png" for name in made.ids))
    return made


def test_on_a_cpu_a_single_batch_is_not_copied():
    one, handover = FakeBatch(1), Handover(torch.device("cpu"))
    shared = handover.from_dali(one)
    one.array[0, 0] = 9
    assert shared[0, 0] == 9
    assert handover.from_dali(one, dtype=torch.int64).dtype == torch.int64
    host = torch.zeros(3)
    assert handover.from_host(host) is host and to_device(host, torch.device("cpu")) is host


@pytest.mark.parametrize("dtype", [None, torch.int64])
def test_on_a_gpu_the_buffer_goes_back_only_when_it_has_been_read(streams, dtype):
    batch = FakeBatch(5)
    tensor = Handover(GPU).from_dali(batch, dtype=dtype)
    batch.array[:] = 0  # DALI uses the buffer again
    assert (tensor == 5).all() and tensor.dtype == (dtype or torch.uint8)
    assert [(event.what, event.stream) for event in streams.events] == [
        ("from DALI", "own 0"),
        ("synchronize", "own 0"),
        ("record_stream", "default"),
        ("released", "default"),
    ]
    assert streams.of("record_stream")[0].storage == tensor.untyped_storage().data_ptr()


def test_the_consumer_is_the_stream_where_the_object_is_made(streams):
    side = streams.new()
    with streams.use(side):
        handover = Handover(GPU)
    handover.from_host(torch.zeros(2))
    assert [event.stream for event in streams.of("record_stream")] == [side.name]


def assert_handed_over(streams, tensors, thread):
    """Nothing of the loader's thread ran, or waited, in the consumer's queue, and nothing is DALI's any more."""
    own = {stream.name for stream in streams.made}
    assert streams.of("synchronize") and {event.stream for event in streams.of("synchronize")} <= own
    assert {event.stream for event in streams.of("from DALI")} <= own
    assert all(event.stream in own and event.pinned and not event.blocking for event in streams.of("transfer", thread))
    recorded = {event.storage for event in streams.of("record_stream", thread) if event.stream == "default"}
    for tensor in tensors:
        assert tensor.untyped_storage().data_ptr() in recorded, "made outside the loader's queue, or DALI's memory"


@pytest.mark.parametrize("masks", [False, True])
def test_training_batches(streams, dataset, masks):
    expected = list(TrainLoader(dataset, AUGMENT, MEAN, STD, 4, threads=1, masks=masks).epoch(0))
    streams.events.clear()
    found = list(TrainLoader(dataset, AUGMENT, MEAN, STD, 4, threads=1, masks=masks, device=GPU).epoch(0))
    assert_handed_over(
        streams, [tensor for batch in found for tensor in (batch.images, batch.targets, batch.weights)], "augment"
    )
    assert len(streams.of("transfer", "augment")) == len(found) * (1 if masks else 2)
    for batch, one in zip(found, expected, strict=True):
        for name in ("images", "targets", "weights"):
            assert torch.equal(getattr(batch, name), getattr(one, name))
        assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_scales_of_the_jobs(streams):
    resizer = Resizer(MEAN, STD, 2, 1, Handover(GPU))
    pixels = [np.full((24, 40, 3), 200, np.uint8)] * 2
    scaled = [resizer(pixels, scale) for scale in (0.5, 1.0)]
    assert [images.shape for images in scaled] == [(2, 3, 12, 20), (2, 3, 24, 40)]
    assert_handed_over(streams, scaled, "MainThread")


class OnGpu(torch.Tensor):
    device = GPU


def test_a_host_copy_waits_for_its_own_event(streams, monkeypatch):
    waited = []

    class FakeEvent:
        def __init__(self, blocking):
            assert blocking, "a thread that waits would keep a core busy"

        def record(self, stream):
            waited.append(f"recorded on {stream.name}")

        def synchronize(self):
            waited.append("waited")

    empty = torch.empty
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(module.torch, "empty", lambda *args, pin_memory, **more: empty(*args, **more))
    copy = HostCopy(torch.arange(3).as_subclass(OnGpu))
    assert waited == ["recorded on default"] and not streams.of("synchronize")
    assert copy.numpy().tolist() == [0, 1, 2] and waited[-1] == "waited"
    on_cpu = torch.arange(3)
    assert np.shares_memory(HostCopy(on_cpu).numpy(), on_cpu.numpy())
