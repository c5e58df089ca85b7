"""Memory of a job: the budget, what the network takes, and how many images may be under way."""

import threading
import time

import pytest
import torch
from torch import nn

from pplfast.errors import UserError, out_of_memory
from pplfast.jobs import activations, memory

CPU = torch.device("cpu")


def test_activation_bytes_count_what_is_alive():
    """relu(x) is alive together with its argument and x's copy is not counted: 2 maps of 8 channels at half size."""
    convolution = nn.Conv2d(3, 8, 3, 2, 1)
    found = activations.activation_bytes(lambda x: convolution(x).relu(), CPU)
    assert found == pytest.approx(activations.MARGIN * 2 * 8 * 4 / 4, rel=0.1)


def test_room_lets_one_too_large_in_alone():
    room = memory.Room(10)
    assert room.take(100) and not room.take(1, lambda: True)
    room.give(100)
    assert room.take(6) and room.take(4) and not room.take(1, lambda: True)


def test_who_waits_for_room_is_let_in_when_some_is_given_back():
    room, order = memory.Room(10), []
    room.take(8)

    def wait():
        order.append(room.take(5))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    assert not order
    room.give(8)
    thread.join(5)
    assert order == [True] and room.taken == 5


def test_a_photo_of_12_megapixels_with_a_crf_fits_8_gib():
    network, room = memory.split_budget(8 << 30, CPU)
    assert network + room == 8 << 30 and room > 4032 * 3024 * (memory.DECODED + 4 * memory.SCALED + memory.crf_bytes(2))


def test_without_a_budget_the_ranks_of_a_machine_share_half_of_what_is_free(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 32 << 30)
    assert memory.budget_bytes(None) == 16 << 30 and memory.budget_bytes(None, 8) == 2 << 30
    assert memory.budget_bytes(3.5, 8) == int(3.5 * 2**30), "--memory is of each rank"
    monkeypatch.setattr(memory, "free_bytes", lambda: 0)
    assert memory.budget_bytes(None, 4) == memory.LEAST_MEMORY * 2**30


def test_what_is_free_is_what_the_control_group_leaves(tmp_path, monkeypatch):
    limit, used = tmp_path / "limit", tmp_path / "used"
    monkeypatch.setattr(memory, "CONTROL_GROUPS", ((str(limit), str(used)),))
    machine = memory.free_bytes()
    assert machine > 0
    limit.write_text("1000000\n")
    used.write_text("400000\n")
    assert memory.free_bytes() == 600_000
    used.write_text("1400000\n")
    assert memory.free_bytes() == 0
    limit.write_text("max\n")
    assert memory.free_bytes() > 10**6


@pytest.mark.parametrize("value", [0.0, 0.2, -1.0, float("nan"), float("inf"), 1e10])
def test_a_budget_that_is_none_is_refused(value):
    with pytest.raises(UserError, match=r"--memory .*: must be"):
        memory.budget_bytes(value)


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
