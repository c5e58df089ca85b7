"""malloc keeps what is freed, and gives it back: seen in the page faults of a process of its own."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

FAULTS = """
import resource, torch
from pplfast.cpu.memory import give_freed_memory_back, keep_freed_memory

def faults(blocks=5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(blocks):
        torch.empty(64 << 20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
assert keep_freed_memory()
faults(20)  # the cut-offs of aligned blocks keep the first few apart
kept = faults()
assert give_freed_memory_back()
print(kept, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_freed_blocks_are_kept_and_given_back():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    kept, given_back = map(int, done.stdout.split())
    pages = 5 * (64 << 20) // 4096
    assert kept < pages / 100 and given_back > pages / 20  # a huge page is one fault for 512
