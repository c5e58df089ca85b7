"""What a machine without a GPU can tell about a run on one: dry_gpu/run.py, on a CUDA device that computes nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dry_gpu import machine
from dry_gpu.table import TABLE

RUN = Path(__file__).with_name("dry_gpu") / "run.py"
SECONDS = 60  # of processor time for all cases
FAULTS = {  # what the run has to say
    "D1": "should be the same",
    "D12": "waits, 0 allowed: bincount",
    "nchw": "NCHW tensors, 0 allowed",
    "copy": "copies, 0 allowed",
    "item": "waits, 0 allowed: item",
    "mix": "CPU and CUDA tensors in aten::convolution",
    "gradient": "has no gradient",
    "memory": "MiB alive at once",
}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(machine.missing()), reason=machine.missing())]


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    return machine.build(tmp_path_factory.mktemp("guard"))


def dry_run(guard: Path, *arguments: str) -> dict:
    results = guard.with_name("results.json")
    results.unlink(missing_ok=True)
    command = [sys.executable, RUN, "--guard", guard, "--json", results, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if not results.exists():
        pytest.fail(f"the dry run ended with {run.returncode}:\n{run.stderr}")
    return json.loads(results.read_text())


@pytest.fixture(scope="module")
def results(guard):
    return dry_run(guard)


@pytest.mark.parametrize("name", TABLE)
def test_case(results, name):
    found = results["cases"][name]
    assert not found["findings"], "\n".join(found["findings"])
    assert found["operators"] and found["mib"]


def test_all_cases_within_a_minute(results):
    assert list(results["cases"]) == list(TABLE) and results["seconds"] < SECONDS


@pytest.fixture(scope="module")
def faults(guard):
    return dry_run(guard, "--fault", *FAULTS)["cases"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(faults, fault):
    (findings,) = (found["findings"] for name, found in faults.items() if name.startswith(f"{fault} in "))
    assert any(FAULTS[fault] in finding for finding in findings), findings
