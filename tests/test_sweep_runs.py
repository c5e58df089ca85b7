"""A real `pplfast sweep`: ended by a signal, killed, and continued by the same command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pplfast.data.demo import DemoConfig, make_demo
from pplfast.lock import is_locked

pytestmark = pytest.mark.slow
RECIPE = """
name = "tiny"
augment = { crop = 32, resize_long = [32, 48] }
optim = { batch = 4, precision = "fp32" }
cam = { scales = [1.0], flip = false, precision = "fp32" }
[[stages]]
position = "group3"
grid = 2
epochs = 2
"""
LIMIT = 200.0  # seconds, of each wait


class Sweep:
    """One call of the command in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "out"
        data = ["--data", str(folder / "data"), "--recipe", str(folder / "tiny.toml"), "--variants", "ppl"]
        points = ["--vary", "stages.0.grid=2,4", "--seeds", "0-1", "--at-once", "2", "--choose-on", "0.5"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pplfast", "sweep", *data, *points, "--out", str(self.out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )

    def until(self, happened) -> None:
        deadline = time.monotonic() + LIMIT
        while not happened():
            assert self.process.poll() is None and time.monotonic() < deadline, self.process.communicate()
            time.sleep(0.02)

    def runs_at_work(self) -> int:
        return sum(map(is_locked, self.out.glob("*/seed*/.lock")))

    def asked_to_end(self) -> int:
        """How often a run was."""
        return sum(log.read_text().count("pplfast run: terminated") for log in self.out.glob("*/*.log"))

    def done(self) -> int:
        try:
            return json.loads((self.out / "sweep.json").read_text())["runs"]["done"]
        except FileNotFoundError:
            return 0

    def end(self) -> tuple[int, str, str]:
        said, error = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, said, error


def test_a_sweep_that_was_ended_and_one_that_was_killed_are_continued(tmp_path):
    make_demo(tmp_path / "data", DemoConfig(train=8, val=6, size=64), lambda: None)
    (tmp_path / "tiny.toml").write_text(RECIPE)

    ended = Sweep(tmp_path)
    ended.until(lambda: ended.runs_at_work() == 2)
    ended.process.send_signal(signal.SIGTERM)
    code, said, error = ended.end()
    assert code == 143 and "ending 2 runs; checkpoints are saved" in said
    assert error.endswith("pplfast sweep: terminated; the same command continues\n")
    assert ended.runs_at_work() == 0 and not list(ended.out.glob(".*"))

    killed = Sweep(tmp_path)
    killed.until(lambda: killed.done() >= 1 and killed.runs_at_work() >= 1)
    asked = killed.asked_to_end()
    killed.process.kill()
    killed.end()
    deadline = time.monotonic() + LIMIT
    while killed.runs_at_work() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert killed.asked_to_end() > asked  # its runs do not go on without it
    before = {path: path.stat().st_mtime_ns for path in killed.out.glob("*/*/summary.json")}
    assert before

    continued = Sweep(tmp_path)
    code, said, error = continued.end()
    assert code == 0, said + error
    assert f"4 runs, {len(before)} done before, 2 at a time" in said and "failed" not in said
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    value = json.loads((continued.out / "sweep.json").read_text())
    assert value["runs"] == {"wanted": 4, "done": 4, "failed": 0} and value["versions"]["pplfast"]
    assert value["figures"] == ["cam_miou", "cam_miou_first", "cam_miou_second"] and value["chosen"]["variants"]["ppl"]
    for point in value["points"].values():
        assert point["figures"]["cam_miou"]["n"] == 2 and point["figures"]["cam_miou"]["se"] is not None
    assert (continued.out / "sweep.svg").is_file() and not continued.runs_at_work()
