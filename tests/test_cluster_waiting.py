"""Rank 0 works for as long as it takes while the others wait; two real processes over gloo."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pplfast.cluster.ranks import EveryRankError, Ranks, while_others_wait
from pplfast.errors import UserError

SCRIPT = Path(__file__).with_name("waiting_rank.py")
ALONE = Ranks(0, 1, 1, torch.device("cpu"))


def test_alone_there_is_no_store_and_the_same_result():
    assert while_others_wait(ALONE, lambda: {"a": (1, None)}) == {"a": [1, None]}

    def refuse():
        raise UserError("x: no such file")

    with pytest.raises(EveryRankError, match="^x: no such file$"):
        while_others_wait(ALONE, refuse)


def start(fate: str) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = dict(os.environ, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", OMP_NUM_THREADS="1")
    common |= {"CUDA_VISIBLE_DEVICES": "", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    return [
        subprocess.Popen(
            [sys.executable, SCRIPT, fate],
            stderr=subprocess.PIPE,
            text=True,
            env=dict(common, RANK=str(rank), LOCAL_RANK=str(rank)),
        )
        for rank in (0, 1)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "fate, codes, survivor, message",
    (
        ("rank 0 ends well", [0, 0], 1, ""),
        ("rank 0 is killed", [-signal.SIGKILL, 75], 1, "the connection to rank 0 at 127.0.0.1:"),
        ("rank 0 is stopped", [-signal.SIGKILL, 75], 1, "rank 0 gave no sign of life for 3 s"),
        ("rank 1 is killed", [75, -signal.SIGKILL], 0, f"rank 1 on {socket.gethostname()} did not wait for rank 0"),
    ),
)
def test_the_outcome_of_rank_0_or_the_news_of_its_death(fate, codes, survivor, message):
    processes = start(fate)
    try:
        _, error = processes[survivor].communicate(timeout=60)
        if fate == "rank 0 is stopped":
            processes[0].kill()
        other = processes[1 - survivor].communicate(timeout=20)[1]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == codes, error + other
    of_rank_0, of_rank_1 = (other, error) if survivor else (error, other)
    assert "EveryRankError photo7.jpg: damaged; replace it" in of_rank_0
    assert "OtherRankError photo7.jpg: damaged; replace it" in of_rank_1
    if message:
        found = re.search(r"after ([0-9.]+) s: (.*)", error)
        assert found and found[2].startswith(message) and float(found[1]) < 10, error
