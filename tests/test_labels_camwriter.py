"""The pool that writes CAM files: what it counts, what it holds, and what it leaves behind when something fails."""

import errno
import threading

import numpy as np
import pytest
import torch

from pplfast.errors import UserError
from pplfast.labels import camwriter
from pplfast.labels.camfile import load_cam, save_cam
from pplfast.labels.camwriter import BATCHES_WAITING, CamWriter, Row
from pplfast.jobs.folder import OutputFolder

SIZE = (9, 13)


@pytest.fixture
def folder(tmp_path):
    return OutputFolder(tmp_path / "cams", ".npz", {})


def batch(number, images=3):
    """Rows, and maps float32 (B, 2, 3, 4) whose values say which image they are of; row i has i % 2 + 1 classes."""
    rows = [Row(i, f"b{number}i{i}", np.arange(i % 2 + 1, dtype=np.int16)) for i in range(images)]
    maps = torch.arange(images, dtype=torch.float32).div(128).add(number / 32)[:, None, None, None].expand(-1, 2, 3, 4)
    return rows, SIZE, maps.contiguous()


def partials(folder):
    return list(folder.path.glob(".*"))


def test_every_row_is_written_in_another_thread_and_counted(folder, monkeypatch):
    threads = set()
    monkeypatch.setattr(camwriter, "save_cam", lambda *args: (threads.add(threading.current_thread()), save_cam(*args)))
    with CamWriter(folder) as writer:
        for number in range(5):
            writer.add(*batch(number))
    assert folder.outcome.written == 15 and threading.main_thread() not in threads and not partials(folder)
    for number in range(5):
        for i in range(3):
            cam = load_cam(folder.output(f"b{number}i{i}"))
            assert (
                cam.size == SIZE and cam.maps.shape == (i % 2 + 1, 3, 4) and (cam.maps == number / 32 + i / 128).all()
            )


def test_rows_that_are_not_finite_fail_alone_and_in_order(folder):
    with CamWriter(folder) as writer:
        for number in range(4):
            rows, size, maps = batch(number)
            maps[1, 0, 0, 0] = float("nan")
            maps[0, 1] = float("inf")  # a class that row 0 does not have
            writer.add(rows, size, maps)
    assert folder.outcome.written == 8
    assert [name for name, _ in folder.outcome.bad] == [f"b{number}i1" for number in range(4)]


def test_a_full_disk_is_an_error_with_the_files_name(folder, monkeypatch):
    def full(path, cam):
        if path.name == "b1i0.npz":
            raise UserError(f"{path}: the disk is full; make space")
        save_cam(path, cam)

    monkeypatch.setattr(camwriter, "save_cam", full)
    with pytest.raises(UserError, match=r"b1i0\.npz: the disk is full"), CamWriter(folder) as writer:
        for number in range(20):
            writer.add(*batch(number))
    assert len(list(folder.path.glob("*.npz"))) < 60, "went on after the error"
    assert all(load_cam(path).size == SIZE for path in folder.path.glob("*.npz")) and not partials(folder)


def test_a_write_error_leaves_no_half_file(folder, monkeypatch):
    def torn(file, **arrays):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", torn)
    with pytest.raises(UserError, match=r"b0i0\.npz: the disk is full"), CamWriter(folder) as writer:
        writer.add(*batch(0))
    assert sorted(path.name for path in folder.path.iterdir()) == ["settings.json"]


@pytest.fixture
def gate(monkeypatch):
    """Writers wait for it."""
    event = threading.Event()
    monkeypatch.setattr(camwriter, "save_cam", lambda *args: (event.wait(30), save_cam(*args)))
    yield event
    event.set()


def test_no_more_than_a_few_batches_wait(folder, gate):
    handed = []

    def produce():
        with CamWriter(folder) as writer:
            for number in range(6):
                writer.add(*batch(number))
                handed.append(number)

    producer = threading.Thread(target=produce)
    producer.start()
    producer.join(1)
    assert handed == list(range(BATCHES_WAITING)), "returns at once while there is room, and waits then"
    gate.set()
    producer.join(30)
    assert len(handed) == 6 and folder.outcome.written == 18


def test_ctrl_c_drops_what_has_not_begun_and_finishes_the_rest(folder, gate):
    with pytest.raises(KeyboardInterrupt), CamWriter(folder) as writer:
        writer.add(*batch(0, 12))
        threading.Timer(0.3, gate.set).start()
        raise KeyboardInterrupt
    written = list(folder.path.glob("*.npz"))
    assert 0 < len(written) <= camwriter.THREADS and all(load_cam(path).size == SIZE for path in written)
    assert not partials(folder)


def test_the_copy_is_waited_for_by_the_writers_alone(folder, monkeypatch):
    arrived = threading.Event()

    class Late:
        def __init__(self, tensor):
            self.tensor = tensor

        def numpy(self):
            assert threading.current_thread() is not threading.main_thread() and arrived.wait(30)
            return self.tensor.numpy()

    monkeypatch.setattr(camwriter, "HostCopy", Late)
    with CamWriter(folder) as writer:
        rows, size, maps = batch(0)
        writer.add(rows, size, maps, torch.ones(3, 2, *SIZE))
        assert not list(folder.path.glob("*.np?"))
        arrived.set()
    assert folder.outcome.written == 3 and len(list(folder.path.glob("*.npy"))) == 3
