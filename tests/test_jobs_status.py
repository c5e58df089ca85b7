"""Heartbeats of the ranks, what is shown of them, and who is waited for."""

import json
import time
from pathlib import Path

import pytest

from pplfast.jobs import status
from pplfast.jobs.meter import Meter, bottleneck
from pplfast.jobs.progress import ProgressBar


def test_status_of_all_ranks_together(tmp_path):
    meter = Meter({"crf": 2})
    for phase, seconds in (("network", 0.5), ("crf", 3.0), ("encode", 0.1)):
        meter.add(phase, seconds)
    meter.count(done=3, bad=1)
    assert meter.utilisation()["crf"] > meter.utilisation()["network"] and bottleneck(meter.utilisation()) == "crf"
    beat = status.Heartbeat(tmp_path, "token", 1, 10, meter)
    assert status.read_status(tmp_path, 1, "another job") is None
    assert status.read_status(tmp_path, 1, "token").state == status.RUNNING
    beat.end(status.DONE)
    found = status.read_status(tmp_path, 1, "token")
    assert (found.done, found.bad, found.total, found.state) == (3, 1, 10, status.DONE) and found.memory > 1e6
    # rank 0 has been killed: it has no status and holds no manifest
    assert status.wait_for_ranks(lambda: [found], 2, lambda rank: False, lambda: False) == [0]
    status.write_prometheus(tmp_path / "m.prom", [found], 12, 2)
    text = (tmp_path / "m.prom").read_text()
    assert 'pplfast_label_images{state="pending"} 6' in text and 'rank="1",phase="crf"' in text
    assert all(line.startswith("#") or len(line.split()) == 2 for line in text.splitlines())


def of(rank, state):
    return status.Status("token", rank, state, 5, 2, 0, 1.0)


def test_ranks_that_ended_stopped_failed_or_died_are_told_apart():
    states = [of(0, status.DONE), of(1, status.STOPPED), of(2, status.FAILED), of(3, status.RUNNING)]
    assert status.wait_for_ranks(lambda: states, 5, lambda rank: False, lambda: False) == [1, 2, 3, 4]
    assert status.wait_for_ranks(lambda: states, 4, lambda rank: True, lambda: True) == [1, 2, 3], "stopped itself"
    calls = []

    def later():
        calls.append(time.monotonic())
        return states[:1] if len(calls) < 3 else [of(0, status.DONE), of(1, status.DONE)]

    assert status.wait_for_ranks(later, 2, lambda rank: True, lambda: False) == [] and len(calls) >= 3


@pytest.mark.parametrize(
    "change",
    [
        {"done": -1}, {"done": "3"}, {"total": True}, {"busy": []}, {"busy": {"crf": "0.5"}}, {"seconds": None},
        {"memory": 1.5}, {"extra": 1}, {"token": 5}, {"rank": 2},
    ],
)  # fmt: skip
def test_a_status_that_no_rank_writes_is_none(tmp_path, change):
    (tmp_path / "manifest").mkdir()
    good = {"token": "token", "rank": 1, "state": "done", "total": 5, "done": 1, "bad": 0, "seconds": 1.0}
    Path(status.status_file(tmp_path, 1)).write_text(json.dumps(good))
    assert status.read_status(tmp_path, 1, "token").done == 1
    Path(status.status_file(tmp_path, 1)).write_text(json.dumps(good | change))
    assert status.read_status(tmp_path, 1, "token") is None
    Path(status.status_file(tmp_path, 1)).write_text("[" * 10**5)
    assert status.read_status(tmp_path, 1, "token") is None


def test_the_rate_counts_this_start_alone_and_the_count_all(capsys):
    with ProgressBar("labels", 10, earlier=30) as progress:
        progress._start -= 2.0
        progress.show(4, ", 1 bad", last=True)
    said = capsys.readouterr().err
    assert "labels: 34/40, 2.0 images/s, 1 bad, 3 s left" in said and said.count("\n") == 1
