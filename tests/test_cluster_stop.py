"""Whoever ends a launch ends its ranks: DeepSpeed's real launcher, and ranks that a script stands for."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pplfast.cluster import launch as launching
from pplfast.cluster.launch import LaunchOptions, launch

RANK = """
import os, signal, subprocess, sys, time
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
dies = "dies" in sys.argv
deaf = "signal.signal(15, signal.SIG_IGN);" if not dies or os.environ["RANK"] == "1" else ""
worker = subprocess.Popen([sys.executable, "-c", f"import signal, time; {deaf} time.sleep(300)"])
with open(os.environ["STARTED"], "a") as file:
    file.write(f"{os.getpid()}\\n{worker.pid}\\n")
if dies and os.environ["RANK"] == "1":
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(300)
"""
LAUNCH = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # where the tests run under nohup it is ignored
from pplfast.cluster import launch as launching
launching.PROGRAM = (sys.argv[1],)
launching.LEASH = ("-c", "import sys; from pplfast.cluster import leash; leash.ENDING = leash.LEFTOVERS = 2\\n"
                   "sys.exit(leash.main(sys.argv[1:]))")
options = launching.LaunchOptions(ranks=2, restarts=2)
sys.exit(launching.launch(sys.argv[2:], options, lambda text: print(text, file=sys.stderr, flush=True)))
"""


class Launched:
    """Two ranks with a worker process each that ignores SIGTERM; waits until all run."""

    def __init__(self, folder: Path, fate: str) -> None:
        self._started = folder / "started"
        (folder / "rank.py").write_text(RANK)
        environment = dict(os.environ, DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1", STARTED=str(self._started))
        command = [sys.executable, "-c", LAUNCH, str(folder / "rank.py"), fate]
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while len(self.pids()) < 4 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(self.pids()) == 4

    def pids(self) -> list[int]:
        return [int(line) for line in self._started.read_text().split()] if self._started.exists() else []

    def running(self) -> list[int]:
        return [pid for pid in self.pids() if is_running(pid)]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def start(tmp_path):
    launched: list[Launched] = []

    def start(fate: str) -> Launched:
        launched.append(Launched(tmp_path, fate))
        return launched[-1]

    yield start
    for one in launched:
        for pid in one.running():
            os.kill(pid, signal.SIGKILL)
        one.process.kill()


@pytest.mark.slow
@pytest.mark.parametrize(
    "number, fate", ((signal.SIGTERM, "plain"), (signal.SIGHUP, "stubborn"), (signal.SIGINT, "plain"))
)
def test_a_signal_ends_all_ranks_and_their_workers_and_there_is_no_restart(start, number, fate):
    launched = start(fate)
    launched.process.send_signal(number)
    _, said = launched.process.communicate(timeout=40)
    assert launched.process.returncode == 128 + number, said
    assert not launched.running() and len(launched.pids()) == 4
    assert f"{number.name}: ending all ranks" in said and "attempt" not in said


@pytest.mark.slow
def test_ranks_do_not_outlive_a_launch_that_was_killed(start):
    launched = start("plain")
    launched.process.kill()
    deadline = time.monotonic() + 30
    while launched.running() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not launched.running()


@pytest.mark.slow
def test_workers_do_not_outlive_a_rank_that_was_killed(start):
    launched = start("dies")
    while "attempt 1 ended with exit code 75" not in launched.process.stderr.readline():
        assert launched.process.poll() is None
    assert not any(is_running(pid) for pid in launched.pids()[:4])


@pytest.mark.slow
@pytest.mark.parametrize("kill", ("-KILL", "-TERM"))
def test_a_connection_that_is_killed_is_a_lost_host(tmp_path, monkeypatch, kill):
    (tmp_path / "ssh").write_text(f"#!/bin/sh\nkill {kill} $$\n")
    (tmp_path / "ssh").chmod(0o755)
    (tmp_path / "hosts").write_text("node-a slots=1\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(launching, "answering", lambda hosts: hosts)
    assert launch(["label"], LaunchOptions(str(tmp_path / "hosts")), lambda _: None) == 75


def test_what_a_user_wants_ignored_stays_ignored(monkeypatch):
    """As nohup does it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with launching._signals() as received:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
        assert received == [signal.SIGTERM] and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGHUP, signal.SIGINT))
def test_a_signal_between_two_attempts(monkeypatch, tmp_path, number):
    """While it is asked which hosts answer: nothing is started."""
    (tmp_path / "hosts").write_text("node-a slots=1\n")

    def answering(hosts):
        signal.raise_signal(number)
        return hosts

    monkeypatch.setattr(launching, "answering", answering)
    monkeypatch.setattr(launching.subprocess, "Popen", None)
    before = signal.signal(number, signal.SIG_DFL)  # under nohup SIGHUP is ignored, and stays so
    try:
        assert launch(["label"], LaunchOptions(str(tmp_path / "hosts")), lambda _: None) == 128 + number
    finally:
        signal.signal(number, before)
