"""One rank's phases: errors of one image cost that image, memory that does not suffice goes image by image."""

import errno
import os
import threading

import pytest
import torch
from finish_small import FinishMean
from jobs_small import CLASSES, OPTIONS, Mean, images, in_batches, replace
from label_jobs import BAD, jpeg

from pplfast.data import images as data_images
from pplfast.data.dataset import Dataset
from pplfast.data.images import BadImage
from pplfast.errors import UserError
from pplfast.jobs import feed, pipeline, screen
from pplfast.jobs.manifest import read_manifest
from pplfast.jobs.options import JobOptions
from pplfast.jobs.run import run_job

NUMBERS = (errno.EIO, errno.ESTALE, errno.ENAMETOOLONG, errno.EACCES, errno.ELOOP, errno.ENXIO, errno.ETIMEDOUT)


@pytest.fixture
def data(tmp_path):
    return images(tmp_path / "images", "abcdef")


def failing(monkeypatch, name, number, call):
    """Opening the image of that name fails, the first or the second time: for its header, or for its bytes."""
    plain, calls = data_images.open_regular, []

    def open_image(path):
        if os.path.basename(path) == name:
            calls.append(path)
            if len(calls) == call:
                raise OSError(number, os.strerror(number), str(path))
        return plain(path)

    monkeypatch.setattr(data_images, "open_regular", open_image)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("call", [1, 2])
def test_any_error_of_the_system_on_an_image_costs_that_image_and_it_is_tried_again(
    data, tmp_path, monkeypatch, number, call
):
    failing(monkeypatch, "c.jpg", number, call)
    outcome = run_job(Mean(data), tmp_path / "out", OPTIONS)
    assert outcome.written == 5 and [name for name, _ in outcome.bad] == ["c"] and outcome.exit_code == 3
    assert "c.jpg: cannot be read" in outcome.bad[0][1]
    monkeypatch.undo()
    assert run_job(again := Mean(data), tmp_path / "out", OPTIONS).written == 1 and again.seen == ["c"]


@pytest.mark.parametrize("kind", list(BAD))
def test_each_kind_of_bad_image_is_named_and_an_earlier_output_of_it_goes(data, tmp_path, kind):
    out, options = tmp_path / "out", JobOptions(memory=0.25, jobs=1, threads=1, rotated=False)
    assert run_job(Mean(data), out, options).written == 6
    make, _ = BAD[kind]
    data.images[1].unlink()
    if make is not None:
        data.images[1].write_bytes(make())
    assert (out / "b.png").exists()
    outcome = run_job(Mean(data), out, options)
    assert outcome.written == 0 and outcome.skipped == 5 and [name for name, _ in outcome.bad] == ["b"]
    record = read_manifest(out)["b"]
    assert record["kind"] == kind and "b.jpg" in record["reason"] and "files" not in record
    assert sorted(os.listdir(out)) == [f"{name}.png" for name in "acdef"] + ["manifest.jsonl", "settings.json"]
    again = run_job(job := Mean(data), out, options)
    assert again.bad == outcome.bad and not job.seen
    data.images[1].write_bytes(jpeg(seed=7))
    assert run_job(Mean(data), out, options).written == 1 and (out / "b.png").exists()


class RefuseC(FinishMean):
    def __call__(self, payload):
        if payload[0].name == "c.jpg":
            raise ValueError("no label")
        return super().__call__(payload)


def test_an_earlier_output_goes_too_where_the_image_fails_later_on(data, tmp_path):
    out = tmp_path / "out"
    job = Mean(data)
    run_job(job, out, OPTIONS)
    replace(data.images[1], jpeg(seed=7))
    replace(data.images[2], jpeg(seed=8))

    class Failing(Mean):
        def compute(self, batch, stopped):
            made = super().compute(batch, stopped)
            names = [self.dataset.ids[index] for index in batch.indices]
            return [BadImage("maps", "no number") if n == "b" else one for n, one in zip(names, made, strict=True)]

        def finish(self, settings):
            return RefuseC(self.suffixes, False)

    outcome = run_job(Failing(data), out, OPTIONS)
    assert [name for name, _ in outcome.bad] == ["b", "c"] and "no number" in outcome.bad[0][1]
    assert "ValueError('no label')" in outcome.bad[1][1]
    assert not (out / "b.png").exists() and not (out / "c.png").exists()
    assert run_job(again := Mean(data), out, OPTIONS).written == 2 and again.seen == ["b", "c"], "not the files' fault"


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("can't allocate memory")],
    ids=["torch", "python", "words"],
)
def test_a_batch_that_does_not_fit_goes_image_by_image_and_one_alone_is_bad(data, tmp_path, error, monkeypatch):
    in_batches(monkeypatch)

    class Tight(Mean):
        def compute(self, batch, stopped):
            self.sizes.append(len(batch.indices))
            if len(batch.indices) > 1 or self.dataset.ids[batch.indices[0]] == "b":
                raise error
            return super().compute(batch, stopped)

    out = tmp_path / "out"
    outcome = run_job(job := Tight(data), out, OPTIONS)
    assert outcome.written == 5 and [name for name, _ in outcome.bad] == ["b"] and job.seen == list("acdef")
    record = read_manifest(out)["b"]
    assert record["kind"] == "memory" and "even alone" in record["reason"]
    assert run_job(Mean(data), out, OPTIONS).written == 1, "the next machine may have more"


def test_an_image_that_exif_turns_is_taken_as_soon_as_it_may_be(data, tmp_path):
    data.images[3].write_bytes(BAD["rotated"][0]())
    strict, taken = (JobOptions(memory=0.25, jobs=1, threads=1, rotated=rotated) for rotated in (False, True))
    assert "orientation 6" in run_job(Mean(data), tmp_path / "out", strict).bad[0][1]
    outcome = run_job(Mean(data), tmp_path / "out", taken)
    assert outcome.written == 1 and not outcome.bad, "as the message advises"


def test_other_errors_of_the_network_end_the_job(data, tmp_path):
    class Broken(Mean):
        def compute(self, batch, stopped):
            raise RuntimeError("an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal"):
        run_job(Broken(data), tmp_path / "out", OPTIONS)
    assert run_job(Mean(data), tmp_path / "out", OPTIONS).written == 6, "the folder is free again"


@pytest.mark.parametrize("number", [252, 253, 254, 255])
def test_an_id_too_long_for_its_output_is_a_bad_image(tmp_path, number):
    short = images(tmp_path / "images", ("a", "long", "b"))
    name = "x/" + "é" * ((number - 1) // 2) + "y" * (number - (number - 1) // 2 * 2)
    assert len(os.fsencode(name)) == number + 2
    data = Dataset("small", ("a", name, "b"), short.images, CLASSES, short.labels, short.masks)
    outcome = run_job(Mean(data), tmp_path / "out", OPTIONS)
    assert outcome.written == 2 and outcome.bad[0][0] == name and f"would have {number + 4} bytes" in outcome.bad[0][1]
    fits = Dataset("small", ("a", "z" * 251, "b"), short.images, CLASSES, short.labels, short.masks)
    assert run_job(Mean(fits), tmp_path / "out", OPTIONS).written == 1


def test_an_image_replaced_while_it_is_read_is_tried_again(data, tmp_path, monkeypatch):
    plain = feed.read_encoded

    def swap(path):
        if path.name == "d.jpg":
            path.write_bytes(jpeg(64, 48))
        return plain(path)

    monkeypatch.setattr(feed, "read_encoded", swap)
    outcome = run_job(Mean(data), tmp_path / "out", OPTIONS)
    assert [name for name, _ in outcome.bad] == ["d"] and "changed while it was read" in outcome.bad[0][1]
    monkeypatch.undo()
    assert run_job(Mean(data), tmp_path / "out", OPTIONS).written == 1


def test_what_is_recorded_of_an_image_is_what_was_read(data, tmp_path, monkeypatch):
    """Replaced by one of its size between its being looked at and its being read: the next start finds out."""
    plain = feed.read_encoded

    def swap(path):
        if path.name == "d.jpg":
            replace(path, jpeg(seed=99))
        return plain(path)

    monkeypatch.setattr(feed, "read_encoded", swap)
    assert run_job(Mean(data), tmp_path / "out", OPTIONS).written == 6
    monkeypatch.undo()
    assert run_job(again := Mean(data), tmp_path / "out", OPTIONS).written == 1 and again.seen == ["d"]


def test_an_image_larger_than_the_budget_is_named_and_no_byte_of_it_decoded(data, tmp_path, monkeypatch):
    big = jpeg(400, 300)
    data.images[0].write_bytes(big)
    monkeypatch.setattr(Mean, "pixel_bytes", lambda self: 0.75 * 0.25 * 2**30 / 100_000)
    outcome = run_job(job := Mean(data), tmp_path / "out", OPTIONS)
    assert outcome.written == 5 and "400 x 300 pixels, and the memory budget allows 0.1 megapixels" in outcome.bad[0][1]
    assert read_manifest(tmp_path / "out")["a"]["kind"] == "too-large"
    assert max(job.sizes) <= 4
    larger = JobOptions(memory=0.5, jobs=1, threads=1)
    assert run_job(Mean(data), tmp_path / "out", larger).written == 1, "a larger budget tries it again"


def test_memory_of_the_images_under_way_stays_within_the_room(tmp_path, monkeypatch):
    data = images(tmp_path / "images", [f"im{n}" for n in range(30)], (64, 64))
    in_batches(monkeypatch)
    highest, plain = [0], pipeline.Room.take

    def take(self, size, stop=lambda: False):
        admitted = plain(self, size, stop)
        highest.append(self.taken / self.size)
        return admitted

    monkeypatch.setattr(pipeline.Room, "take", take)
    monkeypatch.setattr(Mean, "pixel_bytes", lambda self: 0.75 * 0.25 * 2**30 / (64 * 64 * 8.1))
    outcome = run_job(job := Mean(data), tmp_path / "out", OPTIONS)
    assert outcome.written == 30 and max(highest) <= 1 and max(job.sizes) == 2, "a quarter of the room at most"


def test_all_room_is_given_back(data, tmp_path, monkeypatch):
    rooms = []
    plain = pipeline.Pipeline.__init__
    monkeypatch.setattr(
        pipeline.Pipeline, "__init__", lambda self, *given: (rooms.append(given[3]), plain(self, *given))[1]
    )
    data.images[0].write_bytes(BAD["damaged"][0]())
    data.images[1].write_bytes(b"")
    run_job(Mean(data), tmp_path / "out", OPTIONS)
    assert rooms[0].taken == 0


def test_the_first_bad_image_ends_a_strict_job(data, tmp_path):
    data.images[0].write_bytes(b"")
    strict = JobOptions(memory=0.25, jobs=1, threads=1, strict=True)
    with pytest.raises(UserError, match=r"a\.jpg: empty file; restore it \(--fail-on-bad\)"):
        run_job(Mean(data), tmp_path / "out", strict)
    data.images[0].write_bytes(jpeg())
    assert run_job(Mean(data), tmp_path / "out", strict).exit_code == 0
    assert not [thread for thread in threading.enumerate() if thread.name in ("write", "sync", "heartbeat")]


def test_a_full_disk_ends_the_job_in_one_line_and_it_continues(data, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        plain = os.replace
        patch.setattr(os, "replace", lambda a, b: full() if str(b).endswith("d.png") else plain(a, b))
        with pytest.raises(UserError, match=r"d\.png: the disk is full; make space"):
            run_job(Mean(data), tmp_path / "out", OPTIONS)
    assert not list((tmp_path / "out").glob(".*.partial"))
    assert run_job(Mean(data), tmp_path / "out", OPTIONS).exit_code == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 6


def test_images_of_one_size_go_together_and_each_goes_once(tmp_path, monkeypatch):
    in_batches(monkeypatch)
    ids = [f"im{n:02d}" for n in range(40)]
    data = images(tmp_path / "images", ids)
    for path in data.images[::2]:
        path.write_bytes(jpeg(24, 40, seed=hash(path.name) % 1000))
    job = Mean(data)
    assert run_job(job, tmp_path / "out", OPTIONS).written == 40
    assert sorted(job.seen) == ids and job.sizes == [4] * 10


def test_on_a_cpu_an_image_goes_alone_so_that_its_last_bits_depend_on_no_other(data, tmp_path):
    run_job(job := Mean(data), tmp_path / "out", OPTIONS)
    assert job.sizes == [1] * 6


def test_headers_are_looked_at_before_anything_is_decoded(tmp_path):
    for kind, (make, words) in BAD.items():
        if make is None or kind == "damaged":
            continue
        path = tmp_path / f"{kind}.jpg"
        path.write_bytes(make())
        with pytest.raises(BadImage, match=words) as refusal:
            screen.screen(path, False, 10**8)
        assert refusal.value.kind == kind
    upright = screen.screen(tmp_path / "rotated.jpg", True, 10**8)
    assert (upright.width, upright.height) == (40, 24), "as stored"
