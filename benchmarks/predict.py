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
from pplfast.kernels.model import H100

POSITIONS = ("b3_2", "b4_5", "b5_2")  # early, middle and late; a GPU run measures the middle one


def predict() -> dict[str, Any]:
    machine = {"name": H100.name, "bytes_per_second": H100.bandwidth, "bf16_flops": H100.matrix_rate}
    return {"kind": "computed", "machine": machine, "rows": [*_kernel_rows(), *_train_rows()]}


def _kernel_rows() -> list[dict[str, Any]]:
    rows = []
    for make in OPERATIONS:
        for operation in make(kernels.WRN38, torch.bfloat16, "meta"):
            cost = operation.cost
            seconds = cost.seconds(H100.bandwidth, H100.matrix_rate)
            rows.append(dict(bench=kernels.BENCH, case=kernels.case_name(operation, kernels.WRN38, torch.bfloat16),
                             bytes_read=cost.read, bytes_written=cost.written, flops=cost.flops, seconds=seconds,
                             bound="memory" if cost.bytes / H100.bandwidth == seconds else "compute"))
    return rows


def _train_rows() -> list[dict[str, Any]]:
    work, rows = train.GPU_WORK, []
    for position in POSITIONS:
        flops = step_flops(work.case(position), work.batch, work.size, work.frozen)
        seconds = flops / H100.matrix_rate
        rows.append(dict(bench=train.BENCH, case=work.name(position), flops=flops, seconds=seconds, bound="compute",
                         seconds_at_goal=seconds / train.GPU_SHARE,
                         images_per_second_at_goal=work.batch * train.GPU_SHARE / seconds))
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
