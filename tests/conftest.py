"""Environment of all tests: set before torch, triton or deepspeed is imported by any of them."""

import os
import signal
from pathlib import Path

import pytest

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import torch  # noqa: E402

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A shell starts a job in the background with Ctrl-C ignored, and so would be what a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

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
