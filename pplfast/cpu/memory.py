"""Memory of freed tensors on a CPU: kept by the process for the next ones."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

KEPT = 1 << 30  # bytes: of a block that is kept when freed, and of free memory at the heap's end
USUAL = 1 << 25  # where glibc's own threshold ends, once a program has freed a block so large; twice that at the end
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def keep_freed_memory() -> bool:
    """Have glibc's malloc keep what is freed; False where the C library has no such setting.

    It gives a block of more than 32 MB back to the kernel and takes the next one from there, filled with zeros page by
    page: a tenth to half of the CPU time of a network's forward pass over a large image, and a training step of
    EfficientNet-Lite0 at 256 x 256 takes 4 to 23 % longer (two CPUs). For the whole process, which holds up to a fifth
    more in return (500 images of as many sizes, EfficientNet-Lite0: 2.7 GB instead of 2.2; training, whose sizes
    repeat: 5 % less to 7 % more).
    """
    global _keeps
    _keeps = _set_thresholds(KEPT, KEPT)
    return _keeps


def give_freed_memory_back() -> bool:
    """What malloc does unless it is told otherwise, as far as it can be had again; False where it cannot be set."""
    global _keeps
    _keeps = False
    return _set_thresholds(USUAL, 2 * USUAL) and ctypes.CDLL(None).malloc_trim(0) in (0, 1)


@contextmanager
def no_memory_kept() -> Iterator[None]:
    """For one large image among small ones: what it leaves would fit no other, and all that was kept before is given
    back first. Afterwards as before."""
    kept = _keeps
    give_freed_memory_back()
    try:
        yield
    finally:
        give_freed_memory_back()
        if kept:
            keep_freed_memory()


_keeps = False


def _set_thresholds(block: int, end: int) -> bool:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_THRESHOLD, block) and mallopt(M_TRIM_THRESHOLD, end))
