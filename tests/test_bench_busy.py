"""The step beside other work: settings in turns, each in a process that has it from the start."""

import json
import subprocess

import pytest

from pplfast.benchmarks import busy

pytestmark = pytest.mark.slow


def test_a_setting_beside_a_neighbour(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(busy, "SETTLE", 0.0)
    out = tmp_path / "busy.json"
    words = ["--rounds", "2", "--seconds", "0.1", "--neighbours", "1", "--only", "one thread", "--out", str(out)]
    assert busy.main(words) == 0
    found = json.loads(out.read_text())
    assert found["complete"] and found["commit"] and found["hardware"] and found["versions"]["torch"]
    (row,) = found["busy"]
    assert (row["neighbours"], row["setting"], row["environment"]) == (1, "one thread", {"OMP_NUM_THREADS": "1"})
    assert row["threads"] == 1 and len(row["samples"]) == 2
    assert 0 < row["lowest"] <= row["images_per_second"]["median"] <= row["highest"]
    assert "1 neighbours  one thread" in capsys.readouterr().out


def test_neighbours_end_with_the_measurement():
    started = []

    class Started(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(subprocess, "Popen", Started)
        with busy.neighbours(2):
            assert [process.poll() for process in started] == [None, None]
            raise KeyboardInterrupt
    assert all(process.poll() is not None for process in started)
