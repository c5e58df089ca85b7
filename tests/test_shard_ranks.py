"""Ranks of a job on a data set in shards are killed, and others go on: each image once, nothing torn."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from object_store import connected
from test_shard_jobs import SHARDS, Mean, run_job, shards

from pplfast import storage
from pplfast.benchmarks.object_store import local_store

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
TESTS = Path(__file__).resolve().parent
NAMES = "abcdefgh"


def start(world: int, root: Path, out: str, seconds: float) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = dict(
        os.environ, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(world), OMP_NUM_THREADS="1"
    )
    command = [sys.executable, TESTS / "shard_job_rank.py", root, out, str(seconds)]
    return [
        subprocess.Popen(
            list(map(str, command)),
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def marks(out: str) -> set[str]:
    found = {storage.last_part(file.path) for file in storage.list_folder(storage.join(out, "manifest"))}
    return {name.removesuffix(".json") for name in found if name.endswith(".json")}


def wait_for_marks(out: str, count: int, ranks: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + 60
    while len(marks(out)) < count:
        assert time.monotonic() < deadline and any(rank.poll() is None for rank in ranks), "no shard was made"
        time.sleep(0.1)


@pytest.fixture(params=["folder", "store"])
def place(request, tmp_path):
    """Where the outputs go."""
    if request.param == "folder":
        yield str(tmp_path / "out")
        return
    with local_store(fail=0.05, fail_writes=0.05) as store, connected(store):
        yield f"{store.url}/out"


def test_a_killed_rank_holds_nobody_up_and_others_do_its_part(tmp_path, place):
    data = shards(tmp_path / "in", (6,) * len(NAMES))
    run_job(Mean(data), tmp_path / "expected", SHARDS)
    ranks = start(2, tmp_path / "in", place, 0.3)
    wait_for_marks(place, 2, ranks)
    ranks[1].kill()
    said, errors = ranks[0].communicate(timeout=120)
    assert ranks[0].returncode == 1 and "[1]" in said and "ranks [1] ended early: " in errors
    ranks[1].communicate()
    early = marks(place)
    assert set("aceg") <= early < set(NAMES), "rank 0's part is whole"
    ranks = start(3, tmp_path / "in", place, 0.1)
    wait_for_marks(place, len(early) + 1, ranks)
    for rank in ranks:
        rank.send_signal(signal.SIGKILL)
        rank.communicate()
    ranks = start(1, tmp_path / "in", place, 0.0)
    said, errors = ranks[0].communicate(timeout=120)
    assert ranks[0].returncode == 0 and said.split()[-1] == "[]", errors
    written, skipped = (int(part.split()[0]) for part in said.split(", ")[:2])
    assert written + skipped == 48 and skipped >= 6 * (len(early) + 1), "no shard is made twice"
    for name in NAMES:
        expected = (tmp_path / "expected" / f"{name}.tar").read_bytes()
        assert storage.read_file(storage.join(place, f"{name}.tar")) == expected
    left = {storage.last_part(file.path) for file in storage.list_folder(place, deep=True)}
    assert left == {"settings.json"} | {f"{name}.{kind}" for name in NAMES for kind in ("tar", "json", "jsonl")}
