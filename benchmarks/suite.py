"""Runs the benchmarks that are asked for, in one process, after measuring what the machine can do at best."""

import importlib
from collections.abc import Sequence
from pathlib import Path

import torch

from pplfast.benchmarks.ceilings import measure_ceilings
from pplfast.benchmarks.results import Report, hardware
from pplfast.cpu.memory import give_freed_memory_back
from pplfast.data.dataset import DataConfig

NEED_IMAGES = ("loader", "cam", "label", "crf", "walk")


def run_benches(
    names: Sequence[str],
    data: DataConfig | None = None,
    quick: bool = False,
    compiled: bool = True,
    threads: int = 0,
    out: Path | None = None,
) -> Report:
    """`names`: modules of this package. `threads`: of torch on the CPU, 0: its own choice. `out`: see Report."""
    if threads:
        torch.set_num_threads(threads)
    report = Report("cuda" if torch.cuda.is_available() else "cpu", quick, compiled, out)
    machine = hardware()
    print(machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} threads", flush=True)
    report.ceilings = measure_ceilings(report.device, quick)
    print(
        "ceilings: "
        + ", ".join(
            f"{name} {value / 1e9:.0f} G{'B' if name in ('copy', 'read') else 'FLOP'}/s"
            for name, value in report.ceilings.items()
        ),
        flush=True,
    )
    for name in names:
        print(f"{name}:", flush=True)
        module = importlib.import_module(f"pplfast.benchmarks.{name}")
        module.run(report, data) if name in NEED_IMAGES else module.run(report)
        give_freed_memory_back()  # `cam` and `train` have it kept
    report.finish()
    return report
