"""A real `pplfast sweep`: killed, and continued by the same command."""

import json
import os
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
        points = ["--vary", "stages.0.grid=2,3,4", "--seeds", "0", "--at-once", "2", "--choose-on", "0.5"]
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

    def done(self) -> int:
        try:
            return json.loads((self.out / "sweep.json").read_text())["runs"]["done"]
        except FileNotFoundError:
            return 0

    def end(self) -> tuple[int, str, str]:
        said, error = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, said, error


def test_a_sweep_that_was_killed_is_continued(tmp_path):
    make_demo(tmp_path / "data", DemoConfig(train=8, val=6, size=64), lambda: None)
    (tmp_path / "tiny.toml").write_text(RECIPE)

    killed = Sweep(tmp_path)
    killed.until(lambda: killed.done() >= 1 and killed.runs_at_work() >= 1)
    killed.process.kill()
    killed.end()
    deadline = time.monotonic() + LIMIT
    while killed.runs_at_work() and time.monotonic() < deadline:
        time.sleep(0.02)
    before = {path: path.stat().st_mtime_ns for path in killed.out.glob("*/*/summary.json")}
    assert 1 <= len(before) < 3  # its runs do not go on to their ends without it

    continued = Sweep(tmp_path)
    code, said, error = continued.end()
    assert code == 0, said + error
    assert f"3 runs, {len(before)} done before, 2 at a time" in said and "failed" not in said
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    value = json.loads((continued.out / "sweep.json").read_text())
    assert value["runs"] == {"wanted": 3, "done": 3, "failed": 0} and value["versions"]["pplfast"]
    assert value["figures"] == ["cam_miou", "cam_miou_first", "cam_miou_second"] and value["chosen"]["variants"]["ppl"]
    for point in value["points"].values():
        assert point["figures"]["cam_miou"]["n"] == 1
    assert (continued.out / "sweep.svg").is_file() and not continued.runs_at_work()
