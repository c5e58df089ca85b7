"""OpenMP's threads sleep while they wait as long as other processes want the cores, and only then."""

import os
import subprocess
import sys
import textwrap
import threading

import pytest
import torch

from pplfast import cpu
from pplfast.cpu import waiting
from pplfast.cpu.waiting import Sample, is_busy

QUIET = Sample(10.0, 100.0, 50.0, {"1": 2.0, "2": 3.0})


@pytest.mark.parametrize(
    "machine, own, delays, busy",
    (
        (2.0, 1.3, {"1": 0.4, "2": 0.1}, True),  # a neighbour computes, and a thread waits for its core
        (2.0, 1.98, {"1": 0.4, "2": 0.4}, False),  # only threads of this process want the cores
        (2.0, 1.0, {"1": 0.02, "2": 0.01}, False),  # the neighbour has a core of its own
        (2.0, 1.3, {"3": 0.4}, True),  # of a thread that is new
        (1.0, 1.0, {}, False),
    ),
)
def test_busy_are_cores_that_others_use_while_own_threads_wait_for_one(machine, own, delays, busy):
    later = {task: QUIET.delays.get(task, 0.0) + delay for task, delay in delays.items()}
    assert is_busy(QUIET, Sample(11.0, 100.0 + machine, 50.0 + own, later)) == busy


def test_the_kernel_s_counters_are_read():
    before = waiting.take_sample()
    sum(range(10**6))
    after = waiting.take_sample()
    assert before.now < after.now and before.own < after.own and before.machine <= after.machine
    assert str(threading.get_native_id()) in after.delays


@pytest.fixture
def started(monkeypatch):
    """The watches that are started, without starting one."""
    found = []
    monkeypatch.setattr(waiting, "_watched", set())
    monkeypatch.setattr(waiting, "_watch", found.append)
    for name in waiting.CHOSEN:
        monkeypatch.delenv(name, raising=False)
    return found


def test_one_watch_per_process(started):
    assert waiting.yield_to_neighbours() and waiting.yield_to_neighbours()
    assert len(started) == 1


@pytest.mark.parametrize("name", waiting.CHOSEN)
def test_what_the_user_has_set_stays(started, monkeypatch, name):
    monkeypatch.setenv(name, "1000")
    assert not waiting.yield_to_neighbours()
    assert started == [] and os.environ[name] == "1000"


def test_without_the_kernel_s_counters_nothing_is_watched(started, monkeypatch, tmp_path):
    monkeypatch.setattr(waiting, "_STAT", tmp_path / "stat")
    assert not waiting.yield_to_neighbours() and started == []


def test_networks_on_a_cpu_yield_those_on_a_gpu_do_not(started):
    cpu.install(torch.nn.ReLU(), torch.device("cuda"))
    assert started == []
    cpu.install(torch.nn.ReLU(), torch.device("cpu"))
    assert len(started) == 1


def test_spins_again_only_after_several_quiet_looks(monkeypatch):
    looks = iter((False, True, False, False, False, True))
    monkeypatch.setattr(waiting, "is_busy", lambda before, after: next(looks))
    monkeypatch.setattr(waiting, "take_sample", lambda: QUIET)
    monkeypatch.setattr(waiting, "PERIOD", 0)
    assert waiting._until(True, QUIET, 1) is QUIET
    waiting._until(False, QUIET, 3)
    assert next(looks)


def test_one_thread_has_no_team_to_shorten_and_is_looked_at_again(monkeypatch, one_thread):
    looks = []

    def until(busy, before, count):
        looks.append(busy)
        if len(looks) == 3:
            raise RuntimeError("the end of this test")
        return before

    monkeypatch.setattr(waiting, "_until", until)
    monkeypatch.setattr(waiting, "_start_team", None)
    waiting._watch(QUIET)
    assert looks == [True, True, True]


def test_a_machine_that_gives_no_more_threads_ends_the_watch_without_a_word(monkeypatch, capfd):
    def fails():
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(waiting, "_until", lambda busy, before, looks: before)
    monkeypatch.setattr(waiting, "short_spins", fails)
    waiting._watch(QUIET)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two threads on one core never spin for long")
def test_short_spins_end_the_spinning_and_nothing_else():
    """CPU time after an operation of two threads, while the main one sleeps: other work does not stretch it."""
    script = """
        import os, time, torch
        from pplfast.cpu.waiting import short_spins

        x = torch.ones(1 << 18)

        def spun():
            total = 0.0
            for _ in range(20):
                x.add_(1)
                before = time.process_time()
                time.sleep(0.03)
                total += time.process_time() - before
            return total

        first, threads = spun(), len(os.listdir("/proc/self/task"))
        with short_spins() as started:
            assert started
            assert len(os.listdir("/proc/self/task")) > threads
            short = spun()
        again = spun()
        assert len(os.listdir("/proc/self/task")) == threads
        assert short < 0.2 * min(first, again), (first, short, again)
        assert x.unique().tolist() == [61.0]
    """
    environment = {name: value for name, value in os.environ.items() if name not in waiting.CHOSEN}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**environment, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
