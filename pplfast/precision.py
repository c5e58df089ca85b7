"""The device and how it computes: the precision that "auto" stands for, what float32 is, cuDNN's convolutions."""

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

MARGIN = 1.25  # bf16 has to be so much faster: nobody loses digits, or changes precision between calls, for less
SIZE = 512  # of the square product that is timed: 0.27 GFLOP, milliseconds on one core


def exact_float32() -> None:
    """From here on in this process, float32 is IEEE's on GPUs too. By default cuDNN's convolutions take the leading 10
    of their operands' 23 bits (TF32), and matrix products do not.

    Set by the names that torch has had since 1.7: the newer `fp32_precision` makes torch refuse to read these, and
    `torch.backends.cudnn.flags` reads them.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


@contextmanager
def fastest_convolutions() -> Iterator[None]:
    """cuDNN tries its algorithms on each new shape inside: for training, where every step of a stage has the same ones.
    What comes after it in the process may have a new one for each image. Not by cudnn.flags, which turns cuDNN off
    unless told otherwise."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def default_device() -> str:
    """Where nothing else is said: "cuda" where there is a GPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_precision(name: str, device: torch.device) -> str:
    """For "auto": "bf16" on a GPU that computes it natively and on a CPU where it is the faster one, else "fp32"."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if cpu_prefers_bf16() else "fp32"


@functools.cache
def cpu_prefers_bf16() -> bool:
    """Timed, since having the instructions says little: AVX512-BF16 made training a fifth faster on an AMD EPYC, but
    its products are half as fast as float32's on a Sapphire Rapids without AMX (86 against 164 GFLOP/s).
    """
    if not cpu_has_bf16():
        return False
    single = torch.ones(SIZE, SIZE)
    return MARGIN * _seconds(single.bfloat16()) < _seconds(single)


def cpu_has_bf16() -> bool:
    """Whether the CPU has instructions for products in bf16; elsewhere they are emulated, far slower than float32's."""
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return native and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _seconds(matrix: Tensor) -> float:
    """CPU time of one product on one thread: what else the machine is doing must not decide."""
    threads, best = torch.get_num_threads(), float("inf")
    torch.set_num_threads(1)
    try:
        for _ in range(6):  # the first call compiles; the best of the others is what the core can do
            start = time.thread_time()
            matrix @ matrix
            best = min(best, time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    return best
