"""The processes of `pplfast sweep`, played by objects that end when they are told to."""

import signal
from pathlib import Path

import pytest

from pplfast.errors import UserError
from pplfast.sweep import runs
from pplfast.sweep.runs import Slot, make_slots, visible_gpus, work_through


class Done:
    """A run that has ended when it is first looked at."""

    def __init__(self, code: int = 0) -> None:
        self.code, self.ended = code, []

    def poll(self) -> int | None:
        return self.code

    def terminate(self) -> None:
        self.ended.append("terminated")

    def kill(self) -> None:
        self.ended.append("killed")


class Endless(Done):
    """One that goes on until it is told to end."""

    def poll(self) -> int | None:
        return 143 if self.ended else None


class Named(str):
    log = Path("nowhere")


def test_ctrl_c_ends_the_runs_and_a_second_one_kills_them(monkeypatch):
    monkeypatch.setattr(runs, "POLL", 0.0)
    processes, said = [Endless(), Endless(), Endless()], []
    waiting = iter(processes)

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs.time, "sleep", interrupted)
    names = [Named(name) for name in "abc"]
    with pytest.raises(KeyboardInterrupt):
        next(work_through(names, [Slot(), Slot()], said.append, lambda run, slot: next(waiting)))
    assert [process.ended[:1] for process in processes] == [["terminated"], ["terminated"], []]
    assert said[-1] == "ending 2 runs; checkpoints are saved"
    stubborn = Endless()
    stubborn.terminate = lambda: None
    with pytest.raises(KeyboardInterrupt):
        runs._end([stubborn], said.append)
    assert stubborn.ended == ["killed"]


def test_a_run_whose_folder_is_refused_leaves_its_place_to_the_next(monkeypatch):
    monkeypatch.setattr(runs, "POLL", 0.0)

    def begin(run, slot):
        if run == "a":
            raise UserError("is in use")
        return Done(-signal.SIGKILL if run == "b" else 0)

    ended = dict(work_through([Named("a"), Named("b"), Named("c")], [Slot()], lambda line: None, begin))
    assert ended["a"] == "is in use" and ended["c"] == ""
    assert ended["b"] == "ended by SIGKILL; give it more memory, or a lower --at-once (log: nowhere)"


def test_no_slot_is_empty_while_the_caller_is_busy_with_a_run_that_has_ended(monkeypatch):
    monkeypatch.setattr(runs, "POLL", 0.0)
    started = []

    def begin(run, slot):
        started.append(run)
        return Done()

    busy = [(str(run), len(started)) for run, _ in work_through(map(Named, "abcd"), [Slot()], lambda line: None, begin)]
    assert busy == [("a", 2), ("b", 3), ("c", 4), ("d", 4)]


def test_each_run_at_a_time_has_its_gpu_or_its_share_of_the_cores(monkeypatch):
    assert make_slots(1, [], 8, 4.0) == [Slot()]
    share = ("--threads", "3", "--jobs", "3", "--memory", "1.500")
    assert make_slots(2, [], 7, 1.5) == [Slot(share, (("OMP_NUM_THREADS", "3"),))] * 2
    slots = make_slots(3, ["2", "GPU-5"], 4, 1.0)
    assert [dict(slot.environment)["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["2", "GPU-5", "2"]
    assert make_slots(1, ["0"], 4, 1.0)[0].environment == (("CUDA_VISIBLE_DEVICES", "0"),)
    monkeypatch.setattr(runs.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-5")
    assert visible_gpus() == ["2", "GPU-5"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus() == ["0", "1"]
