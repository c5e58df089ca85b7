"""The tests themselves on a machine with a GPU: pretended here, in processes of their own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent
PRETEND = """
import os, torch
torch.cuda.is_available = lambda: True
def pytest_unconfigure(config):
    print("accelerator", os.environ.get("DS_ACCELERATOR"), "interpreter", os.environ.get("TRITON_INTERPRET"))
"""


def run_pytest(*arguments: str, **environment: str) -> str:
    cleared = {name: value for name, value in os.environ.items() if name not in ("DS_ACCELERATOR", "TRITON_INTERPRET")}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", *arguments],
        text=True,
        cwd=TESTS,
        env=cleared | environment,
        capture_output=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_only_tests_for_a_gpu_run_where_there_is_one(tmp_path):
    (tmp_path / "pretend_cuda.py").write_text(PRETEND)
    said = run_pytest("-p", "pretend_cuda", "test_kernels_patches.py", "test_train_parts.py", PYTHONPATH=str(tmp_path))
    assert "accelerator None interpreter None" in said
    assert " passed" not in said and re.search(r"SKIPPED .*CUDA_VISIBLE_DEVICES=", said)


def test_no_test_forces_triton_on_cpu_tensors_without_the_interpreter():
    said = run_pytest("test_kernels_patches.py", "test_kernels_walk.py", TRITON_INTERPRET="0")
    assert re.search(r"\d+ passed", said) and "TRITON_INTERPRET=1" in said
