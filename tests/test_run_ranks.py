"""`pplfast run` on several ranks: when it starts them, and what each of them does."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pplfast.cli import main
from pplfast.cli import run as command
from pplfast.cluster.launch import LaunchOptions
from pplfast.data.demo import DemoConfig, make_demo

RECIPE = """
name = "ranks"
variants = ["plain"]
augment = { crop = 32, resize_long = [32, 48] }
optim = { batch = 4, precision = "fp32" }
cam = { scales = [1.0], flip = false, precision = "fp32" }
label = { crf = "none" }
[[stages]]
position = "group3"
grid = 2
epochs = 1
[affinity]
epochs = 1
crf = "none"
augment = { crop = 32, resize_long = [32, 48] }
optim = { batch = 4, precision = "fp32" }
"""


@pytest.fixture
def words(tmp_path) -> list[str]:
    (tmp_path / "photos").mkdir()
    return ["run", "--data", str(tmp_path / "photos"), "--recipe", "demo", "--out", str(tmp_path / "out")]


@pytest.fixture
def launched(monkeypatch) -> list:
    """The calls of `launch`, which start nothing here."""
    calls: list = []

    def launch(*call):
        calls.append(call[:2])
        return 75

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(command, "launch", launch)
    return calls


@pytest.mark.parametrize(
    "more, gpus, options",
    [
        (["--ranks", "3"], 0, LaunchOptions(ranks=3)),
        ([], 4, LaunchOptions()),
        (["--restarts", "2"], 1, LaunchOptions(restarts=2)),
        (["--hostfile", "HOSTS", "--master-addr", "node-a"], 0, LaunchOptions("HOSTS", master_addr="node-a")),
        ([], 1, None),
        ([], 0, None),
        (["--ranks", "1"], 8, None),
        (["--ranks", "2", "--dry-run"], 8, None),
    ],
)
def test_ranks_are_started_where_there_are_to_be_several(words, launched, monkeypatch, more, gpus, options, tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("node-a slots=2\n")
    more = [str(hosts) if word == "HOSTS" else word for word in more]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    code = main([*words, *more])
    if options is None:
        assert not launched and code == 2  # it looked for the images itself, and there are none
    else:
        [(started, given)] = launched
        assert started == [*words, *more] and code == 75  # what the launcher ended with
        assert (given.ranks, given.restarts, given.master_addr) == (
            options.ranks,
            options.restarts,
            options.master_addr,
        )
        assert bool(given.hostfile) == bool(options.hostfile)


def test_a_rank_starts_no_others(words, launched, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "")  # where it would go on
    assert main([*words, "--ranks", "2"]) == 2 and not launched


def test_other_ranks_than_the_launchers_are_refused(words, launched, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*words, "--ranks", "3"]) == 2 and not launched
    assert "--ranks 3: the launcher has started 2; leave --ranks away" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more, message",
    [
        (["--ranks", "-1"], "--ranks -1: must be 0 or more"),
        (["--ranks", "2", "--set", "label.crf=typo"], "typo"),
        (["--ranks", "2", "--jobs", "0"], "--jobs 0"),
        (["--hostfile", "/nowhere/hosts"], "/nowhere/hosts"),
    ],
)
def test_wrong_options_are_named_before_ranks_are_started(words, launched, capsys, more, message):
    assert main([*words, *more]) == 2 and not launched
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "number, code, said", [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_signals_end_a_run_with_their_code_and_say_that_it_continues(words, monkeypatch, capsys, number, code, said):
    def stopped(config):
        os.kill(os.getpid(), number)
        raise AssertionError("went on")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("pplfast.run.run", stopped)
    assert main([*words, "--ranks", "1"]) == code
    assert capsys.readouterr().err == f"\npplfast run: {said}; the same command continues\n"
    assert signal.getsignal(signal.SIGTERM) is before


def call(*words: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pplfast", "run", *words, "--threads", "1", "--jobs", "1"]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_ranks_that_are_done_at_other_times_or_fail_alone_stay_together():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    script = Path(__file__).with_name("apart_rank.py")
    processes = [
        subprocess.Popen(
            [sys.executable, script],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **place, "CUDA_VISIBLE_DEVICES": "", "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=120)[0].splitlines() for process in processes]
    for rank, lines in enumerate(said):
        assert lines[:2] == ["{'rank': 0}"] * 2  # rank 0's on both
        names = ["EveryRankError" if rank == failing else "OtherRankError" for failing in (1, 0)]
        assert lines[2:4] == [f"{names[0]} the disk of rank 1 is full", f"{names[1]} the disk of rank 0 is full"]
        assert lines[4:] == ["still together"]


@pytest.mark.slow
def test_two_ranks_do_the_chain_once_and_one_rank_finds_it_done(tmp_path):
    data, recipe, out = tmp_path / "data", tmp_path / "ranks.toml", tmp_path / "out"
    make_demo(data, DemoConfig(train=8, val=3, size=64), lambda: None)
    recipe.write_text(RECIPE)
    words = ["--data", str(data), "--recipe", str(recipe), "--out", str(out)]
    two = call(*words, "--ranks", "2")
    assert two.returncode == 0, two.stderr
    said = [line.split("] ")[1] for line in two.stdout.splitlines() if line.startswith("[")]
    assert said[:2] == ["check data", "plain: train"] and len(set(said)) == len(said)  # each line once
    assert two.stderr.count("2 ranks on cpu") == 2  # both trainings, and each says so once
    summary = json.loads((out / "summary.json").read_text())
    assert summary["plain"]["walk_label_miou"] is not None and (out / "report.html").is_file()
    assert json.loads((out / "run.json").read_text())["command"].endswith("--ranks 2 --threads 1 --jobs 1")
    assert not list(Path(out).rglob(".*"))  # no lock stays
    one = call(*words)
    assert one.returncode == 0 and one.stdout.count("done before, skipped") == len(said) - 1
    assert json.loads((out / "summary.json").read_text()) == summary
    (out / "plain" / "eval_cam.json").unlink()
    (out / "plain" / "eval_cam.json").mkdir()
    wrong = call(*words, "--ranks", "2")
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr
    assert wrong.stderr.count("eval_cam.json: is a folder, which the step does not make") == 1
