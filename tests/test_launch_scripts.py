"""The scripts of launch/, executed: what they start, what they start again, and their exit codes. Slurm's programs and
`pplfast` are stubs; torchrun is the real one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pplfast.cluster.launch import NOT_WORTH_A_RESTART

pytestmark = pytest.mark.slow

LAUNCH = Path(__file__).parent.parent / "launch"
SRUN = """#!/bin/sh
shift
SLURM_PROCID=3 SLURM_LOCALID=1 exec "$@"
"""
PPLFAST = """#!{python}
import json, os, sys, time
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
with open("{folder}/started", "a") as file:
    file.write(json.dumps([sys.argv[1:], {{name: os.environ.get(name) for name in names}}]) + "\\n")
codes = open("{folder}/codes").read().split()
done = len(open("{folder}/started").readlines())
if codes[0] == "sleep":
    time.sleep(100)
sys.exit(int(codes[min(done, len(codes)) - 1]))
"""
TRAIN = ["--data", "a b", "--out", "$(x)"]


class Scripts:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "bin").mkdir()
        python = Path(sys.executable).parent
        stubs = {"srun": SRUN, "pplfast": PPLFAST.format(python=sys.executable, folder=folder)}
        # as of a large allocation: more than a pipe holds
        stubs["scontrol"] = f"#!{sys.executable}\nprint('\\n'.join(f'node-{{k}}' for k in range(100000)))\n"
        for name, text in stubs.items():
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        self.environment = dict(os.environ, PATH=f"{folder / 'bin'}:{python}:{os.environ['PATH']}", OMP_NUM_THREADS="1")
        self.environment |= {"SLURM_JOB_NODELIST": "node-[0-9]", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}
        self.environment |= {"SLURM_NTASKS_PER_NODE": "2", "RANKS": "1", "PORT": "0", "TMPDIR": str(folder)}

    def start(self, script: str, words: list[str], codes: str, **variables: str) -> subprocess.Popen:
        (self._folder / "codes").write_text(codes)
        return subprocess.Popen(["bash", LAUNCH / script, *words], env={**self.environment, **variables})

    def run(self, script: str, words: list[str], codes: str, **variables: str) -> tuple[int, list]:
        """Its exit code, and the words and variables of each start of a rank."""
        code = self.start(script, words, codes, **variables).wait(60)
        return code, self.started()

    def started(self) -> list:
        path = self._folder / "started"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def scripts(tmp_path) -> Scripts:
    return Scripts(tmp_path)


@pytest.mark.parametrize(
    "command, resumed",
    (
        (["train"], True),
        (["refine", "train"], True),
        (["segment", "train"], True),
        (["run"], False),
        (["label"], False),
        (["segment", "test"], False),
    ),
)
def test_slurm_resumes_whatever_trains(scripts, command, resumed):
    code, started = scripts.run("slurm.sbatch", [*command, *TRAIN], "75 0")
    assert code == 0 and len(started) == 2
    for words, variables in started:
        assert words == [*command, *TRAIN, *(["--resume"] if resumed else [])]
        assert variables.pop("MASTER_PORT").isdecimal() and variables == {
            "RANK": "3",
            "LOCAL_RANK": "1",
            "WORLD_SIZE": "4",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "node-0",
        }


def test_slurm_does_not_repeat_what_a_repetition_cannot_mend(scripts):
    for tries, code in enumerate((0, *NOT_WORTH_A_RESTART), 1):
        assert scripts.run("slurm.sbatch", ["label"], str(code))[0] == code and len(scripts.started()) == tries


def test_slurm_gives_up_after_its_restarts(scripts):
    code, started = scripts.run("slurm.sbatch", ["label"], "137", RESTARTS="2")
    assert code == 137 and len(started) == 3 and len({variables["MASTER_PORT"] for _, variables in started}) == 3


@pytest.mark.parametrize("codes, code, tries", (("75 0", 0, 2), ("3", 3, 1), ("75 2", 2, 2), ("1", 1, 2)))
def test_torchrun(scripts, codes, code, tries):
    found, started = scripts.run("torchrun.sh", ["segment", "train", *TRAIN], codes, RESTARTS="1")
    assert found == code and len(started) == tries
    assert all(words == ["segment", "train", *TRAIN, "--resume"] for words, _ in started)


def test_sigterm_ends_torchrun_and_its_ranks(scripts, tmp_path):
    process = scripts.start("torchrun.sh", ["label"], "sleep")
    while not scripts.started():
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143 and len(scripts.started()) == 1
    found = subprocess.run(["pgrep", "-f", str(tmp_path / "bin" / "pplfast")], capture_output=True, text=True)
    assert found.stdout == "" and not list(tmp_path.glob("tmp.*"))


def test_the_scripts_name_the_exit_codes_that_launch_knows():
    codes = " | ".join(map(str, sorted(NOT_WORTH_A_RESTART)))
    assert codes in (LAUNCH / "slurm.sbatch").read_text() and codes in (LAUNCH / "torchrun.sh").read_text()
