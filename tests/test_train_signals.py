"""SIGINT and SIGTERM while training: a checkpoint after the step in work, and one line that says how to continue."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from train_data import make_recipe, open_images, write_images

from pplfast.cli import main
from pplfast.cli import train as command
from pplfast.cluster import watchdog
from pplfast.cluster.ranks import EveryRankError, Ranks
from pplfast.cluster.watchdog import Watchdog
from pplfast.errors import Terminated
from pplfast.train import TrainOptions, step, train, trainer

ALONE = Ranks(0, 1, 1, torch.device("cpu"))
RECIPE = {"stages": [{"position": "group3", "grid": 2, "epochs": 20}]}


@pytest.mark.slow
@pytest.mark.parametrize("number, word", ((signal.SIGTERM, "terminated"), (signal.SIGINT, "interrupted")))
def test_one_rank_writes_a_checkpoint_and_says_how_to_continue(number, word, tmp_path, monkeypatch, capsys):
    dataset, steps = open_images(write_images(tmp_path / "data")), []
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def train_step(*arguments):
        steps.append(1)
        if len(steps) == 3:
            os.kill(os.getpid(), number)
            time.sleep(0.5)  # longer than it takes to be heard
        return step.train_step(*arguments)

    def run(args):
        options = TrainOptions(threads=1, log_every=1)
        return command.report(lambda: train(make_recipe(**RECIPE), dataset, tmp_path / "out", options=options))

    monkeypatch.setattr(trainer, "train_step", train_step)
    monkeypatch.setattr(command, "run", run)
    assert main(["train", "--data", "x", "--recipe", "demo", "--out", "x"]) == 128 + number
    text = capsys.readouterr().err
    assert text.rstrip().endswith(f"pplfast train: {word}; the same command with --resume continues")
    assert text.count("stopping after this step (once more: at once)") == 1 and len(steps) == 3
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == ["stage1-0000003"]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.slow
def test_two_ranks_agree_on_the_checkpoint(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = dict(os.environ, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", WORLD_SIZE="2")
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    images, script = write_images(tmp_path / "data"), Path(__file__).with_name("signalled_train.py")
    processes = [
        subprocess.Popen(
            [sys.executable, script, images, tmp_path / "out"],
            stderr=subprocess.PIPE,
            text=True,
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    try:
        text, other = (process.communicate(timeout=120)[1] for process in processes)
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [143, 143], text + other
    assert text.rstrip().endswith("pplfast train: terminated; the same command with --resume continues")
    assert "pplfast" not in other and "Traceback" not in text + other
    [checkpoint] = (tmp_path / "out" / "checkpoints").iterdir()
    assert checkpoint.name > "stage1-0000003"


def test_signals_to_some_ranks_alone_are_worth_a_restart(monkeypatch):
    for numbers, expected in (
        ([0, 0], None),
        ([15, 15], Terminated),
        ([2, 2], KeyboardInterrupt),
        ([0, 15], EveryRankError),
    ):
        for rank in (0, 1):
            run = SimpleNamespace(ranks=Ranks(rank, 2, 2, torch.device("cpu")), watchdog=Mock(), checkpoints=Mock())
            monkeypatch.setattr(trainer, "gather", lambda *_, numbers=numbers: numbers)
            if expected is None:
                trainer._end_if_told(run)
                continue
            with pytest.raises(SystemExit if expected is EveryRankError and rank else expected) as error:
                trainer._end_if_told(run)
            if expected is EveryRankError:
                assert getattr(error.value, "exit_code", None) == 75 or error.value.code == 75
            run.checkpoints.finish.assert_called_once()


def told(wait: float, numbers: tuple[int, ...], pause: float = 0.0) -> tuple[list[int], Watchdog]:
    """Exit codes that a watchdog of one rank would have ended with within `wait` seconds of the signals."""
    codes: list[int] = []
    with pytest.raises(KeyboardInterrupt), Watchdog(ALONE, 2.0, 60.0, codes.append) as watched:
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(pause)
        time.sleep(wait)
    return codes, watched


def test_a_second_signal_ends_at_once(monkeypatch, capsys):
    monkeypatch.setattr(watchdog, "REPEATED", 0.1)
    assert told(0.2, (signal.SIGTERM, signal.SIGTERM), pause=0.2)[0][:1] == [143]
    assert told(0.2, (signal.SIGINT, signal.SIGINT), pause=0.2)[0][:1] == [130]
    # A launcher passes on what came from the terminal, by a signal of its own.
    codes, watched = told(0.2, (signal.SIGINT, signal.SIGTERM), pause=0.2)
    assert codes == [] and watched.stop == signal.SIGINT
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert told(0.2, (signal.SIGTERM, signal.SIGTERM), pause=0.2)[0] == []
    assert told(0.2, (signal.SIGINT, signal.SIGINT), pause=0.2)[0][:1] == [130]
    assert capsys.readouterr().err.count("stopping after this step") == 5


def test_what_takes_too_long_is_ended(monkeypatch, capsys):
    monkeypatch.setattr(watchdog, "STOP_LIMIT", 0.1)
    codes, _ = told(0.4, (signal.SIGTERM,))
    assert codes[:1] == [143]
    assert "before the step was done; the last checkpoint is where it goes on" in capsys.readouterr().err


def test_a_signal_when_the_training_is_done_ends_what_would_come_next():
    for number, expected in ((signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)):
        with pytest.raises(expected) as error, Watchdog(ALONE, 2.0, 60.0):
            os.kill(os.getpid(), number)
            time.sleep(0.3)
        assert type(error.value) is expected


def test_a_thread_of_a_program_may_train(capsys):
    """Python hears signals in its main thread alone."""
    entered = []

    def work():
        with Watchdog(ALONE, 2.0, 60.0):
            entered.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [signal.getsignal(signal.SIGTERM)]
