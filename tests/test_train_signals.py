"""SIGINT and SIGTERM while training: a checkpoint after the step in work, and one line that says how to continue."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from train_data import write_images

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("signalled_train.py")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


def run(images, out, number: str, told: str, count: int = 1, world: int = 1) -> list[tuple[int, str]]:
    """Exit code and stderr of each rank."""
    environment = dict(os.environ, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    if world > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world)}
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, images, out, number, told, str(count)],
            stderr=subprocess.PIPE,
            text=True,
            env=environment | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {}),
        )
        for rank in range(world)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, errors, strict=True)]


@pytest.mark.parametrize("number, word", (("SIGTERM", "terminated"), ("SIGINT", "interrupted")))
def test_one_rank_writes_a_checkpoint_and_says_how_to_continue(images, tmp_path, number, word):
    [(code, text)] = run(images, tmp_path / "out", number, "0")
    assert code == 128 + signal.Signals[number], text
    assert text.rstrip().endswith(f"pplfast train: {word}; the same command with --resume continues")
    assert "Traceback" not in text and text.count("stopping after this step (once more: at once)") == 1
    [checkpoint] = (tmp_path / "out" / "checkpoints").iterdir()
    assert checkpoint.name == "stage1-0000003"


def test_two_ranks_agree_on_the_checkpoint(images, tmp_path):
    """They hear of it in different steps, as hosts of a cluster do."""
    (first, text), (second, other) = run(images, tmp_path / "out", "SIGTERM", "0,1", world=2)
    assert first == second == 143, text + other
    assert text.rstrip().endswith("pplfast train: terminated; the same command with --resume continues")
    assert "pplfast" not in other and "Traceback" not in text + other
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] in (
        [f"stage1-000000{step}"] for step in (4, 5)
    )


def test_one_of_two_ranks_that_is_told_to_end_is_worth_a_restart(images, tmp_path):
    (first, text), (second, other) = run(images, tmp_path / "out", "SIGTERM", "1", world=2)
    assert first == second == 75, text + other
    assert "error: rank 1 was told by a signal to end; this run ends on all hosts; start it again" in text
    assert list((tmp_path / "out" / "checkpoints").iterdir()) and "Traceback" not in text + other


def test_a_second_signal_ends_at_once(images, tmp_path):
    start = time.monotonic()
    [(code, text)] = run(images, tmp_path / "out", "SIGTERM", "0", count=2)
    assert code == 143 and time.monotonic() - start < 50, text
    assert not (tmp_path / "out" / "checkpoints").exists()
