"""Parts of the labelling job: memory, tiles, workers that die, shards, status, its CRF."""

import dataclasses
import os
import tarfile

import numpy as np
import pytest
import torch
from torch import nn

from pplfast.errors import UserError, out_of_memory
from pplfast.files import write_json
from pplfast.labels import memory
from pplfast.jobs.folder import find_outputs
from pplfast.labels.stream import budget, job, maps, pipeline, refine, shards, status
from pplfast.jobs.manifest import ManifestWriter, merge, rank_file, read_manifest, read_records
from pplfast.jobs.meter import Meter, bottleneck
from pplfast.labels.rules import RefineConfig, Task
from pplfast.jobs.workers import Workers
from pplfast.lock import is_locked
from pplfast.models.backbone import BlockSpec
from pplfast.recipe import CamConfig, LabelConfig

pytestmark = pytest.mark.usefixtures("one_thread")


class Small(nn.Module):
    """Like a classifier, with a receptive field that a tile's overlap covers: tiles are then exact."""

    class backbone:
        specs = (BlockSpec("a", 2, 8), BlockSpec("b", 2, 3))
        mean, std = (127.0,) * 3, (64.0,) * 3

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 3, 3, 2, 1)
        self.rows = []  # of each call

    def maps(self, images, classes=None):
        if classes is not None:
            self.rows.append(tuple(images.shape))
        out = self.second(self.first(images).relu()).relu()
        return out if classes is None else torch.stack([m[c] for m, c in zip(out, classes, strict=True)])


def maker(model, pixels=None, batch=4):
    made = maps.MapMaker(model, CamConfig((0.5, 1.0), True), "fp32", 1 << 30, batch, 1)
    made.pixels = pixels or made.pixels
    return made


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (330, 610, 3), dtype=np.uint8) for _ in range(3)]
    return images, torch.tensor([[0, 2], [1, 2], [2, 0]])


def test_tiles_and_groups_of_rows_do_not_change_the_maps(pictures, monkeypatch):
    model = Small()
    whole = maker(model, 10**9)(*pictures)
    assert whole.shape == (3, 2, 330, 610) and torch.isclose(whole.amax(), torch.tensor(1.0), atol=1e-3)
    monkeypatch.setattr(maps, "SMALLEST_TILE", 64)
    model.rows.clear()
    tiled = maker(model, 330**2)(*pictures)
    torch.testing.assert_close(tiled, whole, atol=1e-5, rtol=1e-4)
    assert max(h * w for _, _, h, w in model.rows) <= 330**2 and len(model.rows) > 12


def test_out_of_memory_halves_and_goes_on(pictures, monkeypatch):
    model, whole = Small(), maker(Small(), 10**9)(*pictures)
    inner = model.maps

    def limited(images, classes=None):
        if images.shape[0] * images.shape[2] * images.shape[3] > 330 * 610:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return inner(images, classes)

    made = maker(model, 10**9)
    monkeypatch.setattr(model, "maps", limited)
    torch.testing.assert_close(made(*pictures), whole, atol=1e-5, rtol=1e-4)
    assert made.pixels < 6 * 330 * 610

    def never(images, classes=None):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "maps", never)
    with pytest.raises(maps.OutOfMemory):
        made(*pictures)
    monkeypatch.setattr(model, "maps", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made(*pictures)
    assert made(*pictures, stopped=lambda: True) is None


def test_activation_bytes_count_what_is_alive():
    """relu(x) is alive together with its argument and x's copy is not counted: 2 maps of 8 channels at half size."""
    convolution = nn.Conv2d(3, 8, 3, 2, 1)
    found = budget.activation_bytes(lambda x: convolution(x).relu(), torch.device("cpu"))
    assert found == pytest.approx(budget.MARGIN * 2 * 8 * 4 / 4, rel=0.1)


def test_room_lets_one_too_large_in_alone():
    room = budget.Room(10)
    assert room.take(100) and not room.take(1, lambda: True)
    room.give(100)
    assert room.take(6) and room.take(4) and not room.take(1, lambda: True)
    assert memory.most_pixels(budget.split_budget(8 << 30, torch.device("cpu"))[1], 2, 2.0) > 4032 * 3024


class Poison:
    """Ends the process that unpickles it, as the system does when memory runs out."""

    def __reduce__(self):
        return os._exit, (1,)


def task(index, maps_):
    pixels = np.zeros((12, 16, 3), np.uint8)
    return Task(f"im{index}", index, "", (0,), pixels, maps_, None)


@pytest.mark.slow
def test_a_worker_that_dies_costs_its_image_only(tmp_path):
    good = np.random.default_rng(0).random((1, 12, 16)).astype(np.float32)
    workers = Workers(RefineConfig(tmp_path, (7,), LabelConfig(value=0.5), None, ("png",)), 1)
    for index in range(4):
        assert workers.submit(task(index, Poison() if index == 1 else good), lambda: False)
    results = {done.index: result for done, result in (workers.finished.get(timeout=60) for _ in range(4))}
    assert "worker process died 3 times" in results[1].failure
    assert all(not results[i].failure and (tmp_path / f"im{i}.png").exists() for i in (0, 2, 3))
    workers.close(cancel=False)


@pytest.mark.slow
def test_workers_that_cannot_work_are_an_error_of_the_job(tmp_path):
    workers = Workers(RefineConfig(tmp_path, (7,), LabelConfig(value=0.5), None, ("png",)), 1)
    workers.submit(task(0, Poison()), lambda: False)
    error = workers.finished.get(timeout=60)[1]
    assert isinstance(error, UserError) and "die before they finish an image" in str(error)
    workers.close(cancel=True)


def test_a_torn_shard_is_closed_behind_its_last_recorded_sample(tmp_path):
    writer = shards.ShardWriter(tmp_path, 2, 10)
    records = {}
    for number in range(3):
        members = shards.sample(f"a/b.{number}", b"jpeg" * number, b"png", {"width": 3})
        places = writer.add(members)
        if number < 2:  # the kill comes before the third is recorded
            records[f"a/b.{number}"] = {
                "files": [
                    {"file": file, "offset": offset, "bytes": len(m.data)}
                    for m, (file, offset) in zip(members, places, strict=True)
                ]
            }
    open_name = tmp_path / "shards" / ".labels-00002-000000.tar.open"
    with open(open_name, "ab") as file:
        file.write(b"half a sample")
    shards.finish_torn_shards(tmp_path, records)
    path = tmp_path / "shards" / "labels-00002-000000.tar"
    with tarfile.open(path) as tar:
        assert tar.getnames() == [f"a/b%2E{n}.{kind}" for n in range(2) for kind in ("jpg", "png", "json")]
        assert tar.extractfile("a/b%2E1.jpg").read() == b"jpeg"
    assert path.stat().st_size % 512 == 0 and not open_name.exists()
    assert shards.ShardWriter(tmp_path, 2, 10)._number == 1
    (tmp_path / "shards" / ".labels-00000-000000.tar.open").write_bytes(b"never recorded")
    shards.finish_torn_shards(tmp_path, records)
    assert os.listdir(tmp_path / "shards") == [path.name]


def test_manifest_survives_a_torn_line_and_refuses_a_second_writer(tmp_path):
    writer = ManifestWriter(tmp_path, 0)
    writer.append({"id": "a", "state": "done", "time": 1})
    with pytest.raises(UserError, match="another `pplfast label` is writing"):
        ManifestWriter(tmp_path, 0)
    assert is_locked(rank_file(tmp_path, 0))
    writer.close()
    assert not is_locked(rank_file(tmp_path, 0))
    with open(rank_file(tmp_path, 1), "w") as file:
        file.write('{"id":"a","state":"bad","reason":"empty","time":2}\n{"id":"b","sta')
    assert read_manifest(tmp_path)["a"]["state"] == "bad" and len(read_manifest(tmp_path)) == 1
    merge(tmp_path, read_manifest(tmp_path).values())
    assert [r["state"] for r in read_records(tmp_path / "manifest.jsonl")] == ["bad"]
    assert os.listdir(tmp_path) == ["manifest.jsonl"]


def test_an_image_that_goes_while_it_is_labelled_costs_itself_alone(tmp_path, monkeypatch):
    config = RefineConfig(tmp_path, (1,), LabelConfig(), None, ("png", "shards"))
    monkeypatch.setattr(refine, "_config", config, raising=False)
    gone = Task("a", 0, tmp_path / "gone.jpg", (0,), None, None, np.zeros((4, 4), np.uint8))
    assert "No such file" in refine.refine(gone).failure and os.listdir(tmp_path) == []


def test_a_bad_image_in_the_manifest_explains_its_missing_label(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "manifest.jsonl").write_text('{"id":"b","state":"bad","reason":"empty file"}\n')
    assert find_outputs(tmp_path, ["a", "b"], ".png", "pplfast label") == {"b": "empty file"}
    with pytest.raises(UserError, match="have no .png here .first: c"):
        find_outputs(tmp_path, ["a", "b", "c"], ".png", "pplfast label")


def test_status_of_all_ranks_together(tmp_path):
    meter = Meter({"crf": 2})
    for stage, seconds in (("network", 0.5), ("crf", 3.0), ("encode", 0.1)):
        meter.add(stage, seconds)
    meter.count(done=3, bad=1)
    assert meter.utilisation()["crf"] > meter.utilisation()["network"] and bottleneck(meter.utilisation()) == "crf"
    beat = status.Heartbeat(tmp_path, "token", 1, 10, meter)
    assert status.read_status(tmp_path, 1, "another job") is None
    assert status.read_status(tmp_path, 1, "token").state == status.RUNNING
    beat.end(status.DONE)
    found = status.read_status(tmp_path, 1, "token")
    assert (found.done, found.bad, found.total, found.state) == (3, 1, 10, status.DONE) and found.memory > 1e6
    # rank 0 has been killed: it has no status and holds no manifest
    assert status.wait_for_ranks(lambda: [found], 2, lambda rank: False, lambda: False) == [0]
    status.write_prometheus(tmp_path / "m.prom", [found], 12, 2)
    text = (tmp_path / "m.prom").read_text()
    assert 'pplfast_label_images{state="pending"} 6' in text and 'rank="1",stage="crf"' in text
    assert all(line.startswith("#") or len(line.split()) == 2 for line in text.splitlines())


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), MemoryError(),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("std::bad_alloc"), RuntimeError("can't start new thread"), OSError(12, "Cannot allocate memory"),
])  # fmt: skip
def test_every_library_has_its_own_words_for_no_memory(error):
    assert out_of_memory(error)


def test_other_errors_are_not_for_lack_of_memory():
    for text in ("CUDNN_STATUS_EXECUTION_FAILED", "CUDA error: an illegal memory access", "size mismatch"):
        assert not out_of_memory(RuntimeError(text))


def test_a_lattice_that_does_not_fit_costs_its_image_only():
    sizes = []

    def labeller(pixels, maps_, rows):
        sizes.append(len(pixels))
        if any(image.max() == 9 for image in pixels) or len(pixels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [np.full(image.shape[:2], row[0], np.uint8) for image, row in zip(pixels, rows, strict=True)]

    pixels = [np.full((4, 6, 3), value, np.uint8) for value in (1, 9, 2)]
    rows = np.array([[5], [6], [7]], np.uint8)
    labels = pipeline.labels_that_fit(labeller, pixels, torch.zeros(3, 1, 4, 6), rows)
    assert [None if one is None else int(one[0, 0]) for one in labels] == [5, None, 7] and sizes == [3, 1, 1, 1]
    with pytest.raises(RuntimeError, match="illegal"):
        pipeline.labels_that_fit(lambda *_: (_ for _ in ()).throw(RuntimeError("illegal")), pixels, None, rows)


@pytest.mark.parametrize(
    ("device", "preset", "engine"),
    [("cpu", "probabilities", "pydensecrf"), ("cuda:0", "probabilities", "device"), ("cuda:0", "none", "pydensecrf")],
)
def test_the_crf_is_computed_where_the_network_is(tmp_path, device, preset, engine):
    config = job.JobConfig(tmp_path, label=LabelConfig(value=0.3, crf=preset))
    assert job.resolve_engine(config, torch.device(device)) == engine
    for chosen in ("pydensecrf", "device"):
        assert job.resolve_engine(dataclasses.replace(config, engine=chosen), torch.device(device)) == chosen


def test_a_job_goes_on_with_the_crf_that_it_began_with(tmp_path):
    write_json(tmp_path / "settings.json", {"crf_engine": "pydensecrf"})
    assert job.resolve_engine(job.JobConfig(tmp_path), torch.device("cuda", 0)) == "pydensecrf"
    write_json(tmp_path / "settings.json", {"cams": "of another command"})
    assert job.resolve_engine(job.JobConfig(tmp_path), torch.device("cuda", 0)) == "device"
