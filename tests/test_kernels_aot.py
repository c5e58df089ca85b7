"""Every Triton kernel compiles for the GPUs of interest, within its register budget, on a machine without one."""

import os
import subprocess
import sys

import pytest

from pplfast.kernels import backend

pytestmark = pytest.mark.slow


@pytest.mark.skipif(not backend.available(), reason="Triton is not installed")
def test_kernels_compile_without_spills():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "pplfast.kernels.aot", "--jobs", "2"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    print(run.stdout)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 over budget" in run.stdout
    for column in (
        "sm_80",
        "sm_90",
        "sm_100",
        "fp32",
        "fp16",
        "bf16",
        "cam_head 4",
        "patch_pool lse backward",
        "K=1",
        "no flip",
        "scale_act odd",
    ):
        assert column in run.stdout


def test_interpreted_kernels_are_refused():
    run = subprocess.run([sys.executable, "-m", "pplfast.kernels.aot"], env={**os.environ, "TRITON_INTERPRET": "1"},
                         capture_output=True, text=True)  # fmt: skip
    assert run.returncode == 2 and "unset TRITON_INTERPRET" in run.stderr
