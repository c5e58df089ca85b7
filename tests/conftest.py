"""Environment of all tests: set before triton or deepspeed is imported by any of them."""

import os
import re
import signal
from pathlib import Path

import pytest
from guard import Plugin

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A shell starts a job in the background with Ctrl-C ignored, and so would be what a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The others compare with the CPU to the last bit, place tensors there, or run Triton's interpreter.
FOR_A_GPU = re.compile(r"test_gpu_.*|test_kernels_gpu|test_doctor")
HIDDEN = "runs on the CPU: hide the GPU from it with CUDA_VISIBLE_DEVICES="


def pytest_configure(config):
    if not torch.cuda.is_available():  # Triton starts a compiler for the first kernel on a GPU
        config.pluginmanager.register(Plugin())


def pytest_collection_modifyitems(items):
    """In a process that sees a GPU only the tests that are written for one."""
    if torch.cuda.is_available():
        for item in items:
            if not FOR_A_GPU.fullmatch(item.path.stem):
                item.add_marker(pytest.mark.skip(reason=HIDDEN))


VOC_MINI = Path(__file__).resolve().parent.parent.parent / "shared" / "voc-mini" / "VOCdevkit" / "VOC2012"


@pytest.fixture(scope="session")
def voc_mini() -> Path:
    """Root of the real VOC images kept beside the project; they are not part of it."""
    if not VOC_MINI.is_dir():
        pytest.skip(f"{VOC_MINI} is absent: the real VOC images are not part of the project")
    return VOC_MINI


@pytest.fixture(scope="module")
def one_thread():
    """Tiny tensors: a second thread costs more than it brings, and sums in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
