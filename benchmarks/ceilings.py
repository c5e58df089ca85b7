"""What this machine reaches at best, measured in the same run: memory bandwidth and matrix products."""

import torch

from pplfast.benchmarks.harness import Effort, Spread, alternate, compute_clock
from pplfast.benchmarks.kernel_cost import Cost
from pplfast.benchmarks.models import has_bf16

CPU_COPY_BYTES, GPU_COPY_BYTES = 256 << 20, 2 << 30
CPU_MATRIX, GPU_MATRIX = 2048, 8192


def measure_ceilings(device: str, quick: bool) -> dict[str, float]:
    """Bytes/s of a copy (read + write) and of a read; FLOP/s of square matrix products in fp32 and, where the device
    computes it, bf16.

    On a GPU the fp32 product is the TF32-free one that eager float32 code uses by default.
    """
    effort = Effort(3, 0.5) if quick else Effort(7, 3.0)
    count = (CPU_COPY_BYTES if device == "cpu" else GPU_COPY_BYTES) // 4
    source = torch.ones(count, device=device)
    target = torch.empty_like(source)
    size = CPU_MATRIX if device == "cpu" else GPU_MATRIX
    single = torch.randn(size, size, device=device)
    runs = {
        "copy": lambda: target.copy_(source),
        "read": lambda: source.sum(),
        "matmul_fp32": lambda: single @ single,
    }
    work = {"copy": 2 * 4 * count, "read": 4 * count, "matmul_fp32": 2 * size**3}
    if has_bf16(device):
        half = single.to(torch.bfloat16)
        runs["matmul_bf16"] = lambda: half @ half
        work["matmul_bf16"] = work["matmul_fp32"]
    samples = alternate(runs, device, effort, compute_clock(device))
    # The best fifth of the samples: a ceiling is what the machine can do, not what it did while disturbed.
    return {name: work[name] / Spread.of(times).q20 for name, times in samples.items()}


def floor_seconds(ceilings: dict[str, float], cost: Cost, precision: str) -> float:
    """The shortest time in which this machine moves the bytes and does the operations.

    Bytes read beyond those written go at the rate of a read, the others at that of a copy.
    """
    only_read = max(cost.read - cost.written, 0)
    memory = (cost.bytes - only_read) / ceilings["copy"] + only_read / ceilings["read"]
    return max(memory, cost.flops / ceilings[f"matmul_{precision}"])
