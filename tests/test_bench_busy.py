"""The step beside other work: settings in turns, each in a process that has it from the start."""

import json
import subprocess

import pytest

from pplfast.benchmarks import busy

pytestmark = pytest.mark.slow


def test_settings_in_turns_quiet_and_beside_a_neighbour(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(busy, "SETTLE", 0.0)
    out = tmp_path / "busy.json"
    settings = ["one thread", "passive"]
    assert busy.main(["--rounds", "1", "--seconds", "0.1", "--only", *settings, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["complete"] and found["commit"] and found["hardware"] and found["versions"]["torch"]
    rows = found["busy"]
    assert [(row["neighbours"], row["setting"]) for row in rows] == [(n, name) for n in (0, 1) for name in settings]
    assert all(row["lowest"] <= row["images_per_second"]["median"] <= row["highest"] for row in rows)
    assert all(row["lowest"] > 0 and len(row["samples"]) == 1 for row in rows)
    assert rows[0]["threads"] == 1 and rows[1]["environment"] == {"OMP_WAIT_POLICY": "PASSIVE"}
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
