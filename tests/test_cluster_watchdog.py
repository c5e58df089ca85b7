"""A lost, hanging or failing rank ends the run on all ranks, in time, with its name; two real processes over gloo."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("watched_rank.py")


def start(fate: str, ranks: tuple[int, ...] = (0, 1)) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = dict(
        os.environ,
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        WORLD_SIZE="2",
        OMP_NUM_THREADS="1",
        CUDA_VISIBLE_DEVICES="",
    )
    return [
        subprocess.Popen(
            [sys.executable, SCRIPT, fate],
            stderr=subprocess.PIPE,
            text=True,
            env=dict(common, RANK=str(rank), LOCAL_RANK=str(rank)),
        )
        for rank in ranks
    ]


def finish(processes: list[subprocess.Popen]) -> tuple[list[int], str]:
    try:
        errors = [process.communicate(timeout=60)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], errors[0]


@pytest.mark.parametrize(
    "fate, code, message",
    (
        ("killed", -signal.SIGKILL, "gave no sign of life for"),
        ("hangs", 75, "has made no progress for"),
    ),
)
def test_all_ranks_end_with_a_message(fate, code, message):
    start_time = time.monotonic()
    codes, text = finish(start(fate))
    assert codes == [75, code], text
    [line] = [line for line in text.splitlines() if line.startswith("pplfast: error:")]
    assert f"rank 1 on {socket.gethostname()} {message}" in line
    assert time.monotonic() - start_time < 45


def test_bad_input_of_one_rank_ends_all_and_is_not_worth_a_restart():
    codes, text = finish(start("bad input"))
    assert codes[0] == 2 and f"rank 1 on {socket.gethostname()} failed: photo7.jpg: damaged; replace it" in text


def test_a_rank_that_does_not_come_is_named():
    codes, text = finish(start("absent", ranks=(0,)))
    assert codes == [75] and "rank 1 of 2 did not come within 4 s" in text
