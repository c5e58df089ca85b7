"""Computed, never measured: the shortest times on an H100, from the bytes and operations that the method needs.

`python -m pplfast.benchmarks.predict` writes results/predicted_h100.json, with which a GPU run is later compared.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from pplfast.benchmarks import kernels, train
from pplfast.benchmarks.flops import step_flops
from pplfast.benchmarks.operations import OPERATIONS
from pplfast.benchmarks.table import PREDICTED, RESULTS
from pplfast.files import write_json

# NVIDIA H100 SXM5 data sheet: HBM3 bandwidth, and bf16 tensor cores without sparsity.
MACHINE = {"name": "NVIDIA H100 SXM", "bytes_per_second": 3.35e12, "bf16_flops": 989e12}
GOAL_SHARE = 0.45  # of the matrix-product ceiling, for a training step


def predict() -> dict[str, Any]:
    return {"kind": "computed", "machine": MACHINE, "rows": [*_kernel_rows(), *_train_rows()]}


def _kernel_rows() -> list[dict[str, Any]]:
    rows = []
    for make in OPERATIONS:
        for operation in make(kernels.WRN38, torch.bfloat16, "meta"):
            memory = (operation.read + operation.written) / MACHINE["bytes_per_second"]
            compute = operation.flops / MACHINE["bf16_flops"]
            rows.append(dict(bench=kernels.BENCH, case=kernels.case_name(operation, kernels.WRN38, torch.bfloat16),
                             bytes_read=operation.read, bytes_written=operation.written, flops=operation.flops,
                             seconds=max(memory, compute), bound="memory" if memory >= compute else "compute"))
    return rows


def _train_rows() -> list[dict[str, Any]]:
    work, rows = train.GPU_WORK, []
    for position in work.positions:
        flops = step_flops(work.case(position), work.batch, work.size, work.frozen)
        seconds = flops / MACHINE["bf16_flops"]
        rows.append(dict(bench=train.BENCH, case=work.name(position), flops=flops, seconds=seconds, bound="compute",
                         seconds_at_goal=seconds / GOAL_SHARE, images_per_second_at_goal=work.batch * GOAL_SHARE
                         / seconds))
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pplfast.benchmarks.predict", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS / PREDICTED, metavar="FILE")
    args = parser.parse_args(arguments)
    write_json(args.out, predict())
    print(f"written: {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
