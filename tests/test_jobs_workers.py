"""Who finishes images: threads and processes, and what becomes of an image whose process dies."""

import os
from dataclasses import dataclass

import pytest
from finish_small import FinishMean

from pplfast.errors import UserError
from pplfast.jobs.job import Finish, Finished
from pplfast.jobs.manifest import checksum
from pplfast.jobs.workers import Item, Workers, finish
from pplfast.labels.rules import FinishLabels
from pplfast.recipe import LabelConfig
from pplfast.recipe.crf_presets import NONE


class Poison:
    """Ends the process that unpickles it, as the system does when memory runs out."""

    def __reduce__(self):
        return os._exit, (1,)


def task(index, payload, name=None):
    return Item(name or f"im{index}", index, (12, 16), payload)


@dataclass
class Fails(Finish):
    error: Exception

    def __call__(self, payload) -> Finished:
        raise self.error


MEAN = FinishMean((".png",), False)
GOOD = (None, "1.5")


def drain(workers, count):
    return {done.index: result for done, result in (workers.finished.get(timeout=60) for _ in range(count))}


def test_the_files_of_an_image_are_written_and_described(tmp_path):
    result = finish(tmp_path, FinishMean((".png", ".npy"), False), task(0, GOOD, "a/b"))
    names = ("a/b.png", "a/b.npy")
    assert result.files == [{"file": name, "bytes": 3, "sha256": checksum(b"1.5")} for name in names]
    assert all((tmp_path / name).read_bytes() == b"1.5" for name in names) and len(list(tmp_path.rglob("*"))) == 3


@pytest.mark.parametrize(
    "error", [ValueError("x"), MemoryError(), OSError(5, "Input/output error"), UserError("bad map")]
)
def test_whatever_finishing_raises_is_the_images_failure(tmp_path, error):
    result = finish(tmp_path, Fails(error), task(0, GOOD))
    assert result.failure == ("bad map" if isinstance(error, UserError) else repr(error))
    assert not result.files and not list(tmp_path.iterdir())


def test_an_output_that_cannot_be_written_ends_the_job(tmp_path):
    (tmp_path / "im0.png").mkdir()
    with pytest.raises(UserError, match=r"im0\.png: is a folder"):
        finish(tmp_path, MEAN, task(0, GOOD))


def test_threads_finish_every_task_and_a_stopped_job_waits_for_no_place(tmp_path):
    workers = Workers(tmp_path, MEAN, 2, processes=False)
    assert all(workers.submit(task(index, GOOD), lambda: False) for index in range(8))
    assert set(drain(workers, 8)) == set(range(8))
    workers.close(cancel=False)
    assert len(list(tmp_path.glob("*.png"))) == 8
    full = Workers(tmp_path, MEAN, 1, processes=False)
    while full._slots.acquire(blocking=False):
        pass
    assert not full.submit(task(9, GOOD), lambda: True)
    full.close(cancel=True)


def test_labels_are_finished_in_processes_where_pydensecrf_holds_pythons_lock():
    def in_processes(crf, engine):
        from jobs_small import CLASSES

        from pplfast.data.dataset import Dataset
        from pplfast.labels.label import _Labelling

        dataset = Dataset("x", (), (), CLASSES, None, ())
        rule = _Labelling(dataset, LabelConfig(value=0.3, crf=crf), None, ("png",), engine)
        return rule.finish({"crf_engine": engine}).in_processes

    assert in_processes("labels", "pydensecrf") and not in_processes("labels", "device")
    assert not in_processes(NONE, "pydensecrf")
    assert isinstance(FinishLabels((7,), LabelConfig(), None), Finish)


@pytest.mark.slow
def test_a_worker_that_dies_costs_its_image_only(tmp_path):
    workers = Workers(tmp_path, MEAN, 1, processes=True)
    for index in range(4):
        assert workers.submit(task(index, Poison() if index == 1 else GOOD), lambda: False)
    results = drain(workers, 4)
    assert "worker process died 3 times" in results[1].failure
    assert all(not results[i].failure and (tmp_path / f"im{i}.png").exists() for i in (0, 2, 3))
    workers.close(cancel=False)


@pytest.mark.slow
def test_workers_that_cannot_work_are_an_error_of_the_job(tmp_path):
    workers = Workers(tmp_path, MEAN, 1, processes=True)
    workers.submit(task(0, Poison()), lambda: False)
    error = drain(workers, 1)[0]
    assert isinstance(error, UserError) and "die before they finish an image" in str(error)
    workers.close(cancel=True)
