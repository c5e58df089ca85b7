"""run_gpu.sh with an interpreter that only writes what it is told to write: the steps, and what a cut-off leaves."""

import os
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "run_gpu.sh"
INTERPRETER = """#!/bin/bash
case "$*" in *import*) exit 1 ;; -\\ *) cat > /dev/null; echo "fake torch"; exit 0 ;; esac
echo "ran $*"
while [ $# -gt 0 ]; do
    [ "$1" = bench ] && which=$2
    [ "$1" = --out ] && echo '{"complete": true}' > "$2"
    shift
done
[ "${which:-none}" != "${FAILS:-}" ] || exit 3
[ "${which:-none}" != "${HANGS:-}" ] || sleep 60
"""


@pytest.fixture
def start(tmp_path):
    """Starts a run; its archive is then tmp_path/out/cpu_<run>.tar.gz."""
    python = tmp_path / "python"
    python.write_text(INTERPRETER)
    python.chmod(0o755)
    started = []

    def begin(run: str, **environment: str) -> subprocess.Popen:
        environment = {
            **os.environ,
            "PYTHON": str(python),
            "PPLFAST_DEVICE": "cpu",
            "PPLFAST_COMMIT": "abc123",
            "OUT": str(tmp_path / "out"),
            "KEEP": str(tmp_path / "keep"),
            **environment,
        }
        started.append(
            subprocess.Popen(
                [SCRIPT, run],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )
        return started[-1]

    yield begin
    for process in started:
        process.stdout.close()


def archive(folder: Path, run: str) -> dict[str, str]:
    path = folder / "out" / f"cpu_{run}.tar.gz"
    if not path.exists():
        return {}
    with tarfile.open(path) as tar:
        return {Path(member.name).name: tar.extractfile(member).read().decode() for member in tar if member.isfile()}


def wait_for(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


def test_all_results_and_the_log_are_in_one_archive(start, tmp_path):
    printed, _ = start("D").communicate(timeout=60)
    files = archive(tmp_path, "D")
    assert set(files) == {"cpu_train.json", "cpu_cam.json", "cpu_crf.json", "cpu_walk.json", "cpu_D.log"}
    assert "run D on cpu, commit abc123" in files["cpu_D.log"]
    assert "bench walk: exit code 0" in files["cpu_D.log"] and "run D: exit code 0" in files["cpu_D.log"]
    assert "ran -m pplfast bench train" in printed


def test_a_failed_step_does_not_stop_the_next(start, tmp_path):
    process = start("D", FAILS="cam")
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "FAILED: bench cam" in printed and "bench walk: exit code 0" in printed


def test_a_killed_run_leaves_the_archive_of_what_it_had(start, tmp_path):
    process = start("D", HANGS="crf")
    wait_for(lambda: "cpu_cam.json" in archive(tmp_path, "D"))
    # Rows of a step that runs are packed too, every few seconds.
    wait_for(lambda: "cpu_crf.json" in archive(tmp_path, "D"))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    files = archive(tmp_path, "D")
    assert {"cpu_train.json", "cpu_cam.json", "cpu_crf.json", "cpu_D.log"} <= set(files)
    assert "bench cam: exit code 0" in files["cpu_D.log"]


def test_a_terminated_run_ends_at_once_and_packs(start, tmp_path):
    process = start("D", HANGS="train")
    wait_for(lambda: "cpu_D.tar.gz" in os.listdir(tmp_path / "out") if (tmp_path / "out").exists() else False)
    begin = time.monotonic()
    process.terminate()
    assert process.wait(timeout=20) == 143 and time.monotonic() - begin < 10
    assert "exit code 143" in archive(tmp_path, "D")["cpu_D.log"]


def test_unknown_runs_are_refused_with_the_commands(start):
    process = start("G")
    printed, _ = process.communicate(timeout=20)
    assert process.returncode == 2 and "run_gpu.sh F" in printed


def test_the_sweep_takes_the_data_set_and_more_options(start, tmp_path):
    (tmp_path / "photos").mkdir()
    process = start("E", IMAGES=str(tmp_path / "photos"), SWEEP="--train-list some --seeds 0", CLASSES="cat,dog")
    printed, _ = process.communicate(timeout=60)
    (line,) = (line for line in printed.splitlines() if line.startswith("ran -m pplfast sweep"))
    assert f"--data {tmp_path / 'photos'} --classes cat,dog --recipe own-images" in line
    assert "--train-list some --seeds 0 --out" in line and "augment.resize_long=[320,640]" in line
    process = start("E")
    assert "E needs IMAGES=DIR" in process.communicate(timeout=60)[0] and process.returncode == 1
