"""The training step beside other work: what a wait of OpenMP's threads costs on a quiet machine, and on a busy one.

    python -m pplfast.benchmarks.busy [--out FILE.json] [--rounds N] [--neighbours N ...] [--only SETTING ...]

OpenMP splits each operation among its threads in equal parts, which wait for each other at its end. A thread that waits
spins, so that the next operation finds it awake; beside a busy process its spinning takes the time that the thread it
waits for would need. Each setting has a process of its own, since libgomp reads its environment once; they do their
steps in turns, quiet and beside processes that do nothing but compute.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pplfast.benchmarks.harness import Spread
from pplfast.files import write_json

BENCH = "busy"
READ_BY_OPENMP = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
SETTINGS: dict[str, dict[str, str]] = {
    "pplfast": {},  # as a training runs: waits become short while the cores are shared
    "libgomp's own": {"GOMP_SPINCOUNT": "300000"},  # what it takes where nothing is set
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    **{f"spin {count}": {"GOMP_SPINCOUNT": str(count)} for count in (300, 1000, 3000, 10000, 30000, 100000)},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
SECONDS = 3.0  # of a sample: several slices of the kernel's scheduler, and of its balancing of the cores
SETTLE = 1.5  # seconds of training before a sample: within one pplfast has seen the neighbours
BATCH, SIZE, CLASSES, FROZEN = 8, 256, 20, 3


def serve(precision: str) -> None:
    """Told two numbers of seconds, trains for both, and answers with the images per second of the second."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    import torch

    from pplfast.benchmarks import models
    from pplfast.cpu.memory import keep_freed_memory

    keep_freed_memory()
    torch.manual_seed(0)
    model = models.make_pplfast(models.Case("efficientnet_lite0", CLASSES, (), output_stride=32))
    models.freeze(model, FROZEN)
    model.train()
    images = torch.randn(BATCH, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    labels = (torch.rand(BATCH, CLASSES) < 0.1).float()
    step = models.training_step(model, models.sgd(model, fused=False), images, labels, precision == "bf16")
    print(json.dumps(torch.get_num_threads()), file=answers, flush=True)
    for line in sys.stdin:
        settle, seconds = map(float, line.split())
        start = time.perf_counter()
        while time.perf_counter() - start < settle:
            step()
        steps, start = 0, time.perf_counter()
        while (passed := time.perf_counter() - start) < seconds:
            step()
            steps += 1
        print(json.dumps(steps * BATCH / passed), file=answers, flush=True)


class Trainer:
    """A process that trains under one setting when it is told to, and sleeps in between."""

    def __init__(self, setting: dict[str, str], precision: str) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in READ_BY_OPENMP} | setting
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pplfast.benchmarks.busy", "--serve", precision],
            env=environment | {"CUDA_VISIBLE_DEVICES": ""},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.threads = self._answer()

    def images_per_second(self, seconds: float) -> float:
        print(SETTLE, seconds, file=self._process.stdin, flush=True)
        return float(self._answer())

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answer(self) -> Any:
        assert self._process.stdout is not None, "a pipe"
        line = self._process.stdout.readline()
        if not line:
            sys.exit("busy: a process that trains ended; see above")
        return json.loads(line)


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many processes that only compute, at the priority of any other."""
    busy = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.3)
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def measure(names: list[str], counts: list[int], rounds: int, seconds: float, precision: str) -> list[dict[str, Any]]:
    """Per number of neighbours and setting: images per second (rounds,), in turns within each round."""
    with ExitStack() as stack:
        trainers = {}
        for name in names:
            trainers[name] = Trainer(SETTINGS[name], precision)
            stack.callback(trainers[name].close)
        found: dict[tuple[int, str], list[float]] = {(count, name): [] for count in counts for name in names}
        for trainer in trainers.values():
            trainer.images_per_second(seconds)
        for number in range(rounds):
            for count in counts:
                with neighbours(count):
                    for name in names if number % 2 == 0 else names[::-1]:
                        found[count, name].append(trainers[name].images_per_second(seconds))
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        return [
            {
                "bench": BENCH,
                "neighbours": count,
                "setting": name,
                "environment": SETTINGS[name],
                "threads": trainers[name].threads,
                "images_per_second": asdict(Spread.of(samples)),
                "lowest": min(samples),
                "highest": max(samples),
                "samples": samples,
            }
            for (count, name), samples in found.items()
        ]


def main(arguments: list[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["--serve"]:
        serve(words[1])
        return 0
    parser = argparse.ArgumentParser(
        prog="python -m pplfast.benchmarks.busy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--rounds", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a sample (default: %(default)s)")
    parser.add_argument("--neighbours", type=int, nargs="+", default=[0, 1], metavar="N", help="(default: 0 1)")
    parser.add_argument("--only", choices=SETTINGS, nargs="+", default=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="(default: %(default)s)")
    args = parser.parse_args(words)
    rows = measure(args.only, args.neighbours, args.rounds, args.seconds, args.precision)
    for row in rows:
        speed = row["images_per_second"]
        print(
            f"{row['neighbours']} neighbours  {row['setting']:<14} {speed['median']:6.1f} images/s "
            f"({row['lowest']:.1f} to {row['highest']:.1f})"
        )
    if args.out:
        from pplfast.benchmarks.results import Report

        report = Report("cpu", quick=False, complete=True)
        write_json(args.out, {**report.to_dict(), "precision": args.precision, "rows": [], "busy": rows})
        print(f"written: {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
