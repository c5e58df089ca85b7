"""Efficiency on 1 to 512 GPUs and what the images' store must deliver, computed; and the same arithmetic against two
measured CPU ranks.

    python -m pplfast.benchmarks.scaling                     # the tables and the plot for computed H100 steps
    python -m pplfast.benchmarks.scaling --measure           # two CPU ranks against the prediction from one
    python -m pplfast.benchmarks.scaling --measure-reads     # what a read costs the client of an object store
    python -m pplfast.benchmarks.scaling --step-ms 130 --gradients 105e6    # with your own GPU's measured step

Weak scaling: every GPU keeps its batch.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pplfast.benchmarks.harness import Spread, ratios
from pplfast.benchmarks.scaling_data import IMAGE_BYTES, MEASURED, Need, data_tables, measure_reads, predict_data
from pplfast.benchmarks.scaling_model import Cluster, Link, Work, efficiency, step_seconds
from pplfast.benchmarks.table import RESULTS
from pplfast.errors import UserError
from pplfast.files import write_json

BENCH, LIMIT = "scaling", 0.15  # of the measured time: how far the prediction may be off
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
# Usable rates: 80 % of the data sheet. NVLink 4: 450 GB/s per direction of a GPU. Latencies: usual NCCL figures.
NVLINK = Link("NVLink 4", 0.8 * 450e9, 10e-6)
NETWORKS = tuple(Link(f"{rate} Gb/s per node", 0.8 * rate / 8 * 1e9, 25e-6) for rate in (200, 400))
BACKWARD = 2 / 3  # of a step's operations


@dataclass(frozen=True)
class CpuCase:
    size: int
    batch: int
    position: str

    @property
    def name(self) -> str:
        return f"efficientnet_lite0 {self.size}x{self.size} batch {self.batch} per rank K=2 after {self.position}"


CPU_CASES = (CpuCase(64, 1, "group3"), CpuCase(128, 2, "group3"), CpuCase(256, 2, "group5"))


def measure(case: CpuCase, rounds: int) -> dict[str, Any]:
    """Two ranks, each with one thread on a core of its own. Raises UserError where there is one core only."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise UserError(f"two ranks need two cores, this process has {len(cores)}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = dict(
        os.environ,
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2",
        OMP_NUM_THREADS="1",
        CUDA_VISIBLE_DEVICES="",
        DS_ACCELERATOR="cpu",
        GLOO_SOCKET_IFNAME="lo",
    )
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "pplfast.benchmarks.scaling_rank",
                str(core),
                str(case.size),
                str(case.batch),
                case.position,
                str(rounds),
            ],
            stdout=subprocess.PIPE,
            text=True,
            env=dict(common, RANK=str(rank), LOCAL_RANK=str(rank)),
        )
        for rank, core in enumerate(cores)
    ]
    output = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError(f"a rank of {case.name} failed")
    found: dict[str, Any] = json.loads(output[0].splitlines()[-1])
    return found


def compare(case: CpuCase, found: dict[str, Any]) -> dict[str, Any]:
    """Predicted over measured time of a step on two ranks, round by round.

    The step without talking is measured with both cores at work, since two ranks on one machine share its memory and
    its clock, which two GPUs do not; the step of a rank alone is given beside it. The reduction is measured for its
    bytes alone, and nothing overlaps on a CPU.
    """
    times = found["seconds"]
    predicted, alone = [], []
    for one, beside, reduce in zip(times["alone"], times["beside"], times["reduce"], strict=True):
        # A link on which two ranks exchange these bytes in the measured time: 2 * 1/2 * size / rate.
        link = Link("gloo", found["gradients"] * 4 / reduce, 0.0)
        work = Work(case.name, beside, BACKWARD, found["gradients"], bucket=10**12, overlap=False, gathers=False)
        predicted.append(step_seconds(work, 2, Cluster(link, link, 2)))
        alone.append(step_seconds(replace(work, compute=one), 2, Cluster(link, link, 2)))
    return {
        "case": case.name,
        "gradients": found["gradients"],
        "rounds": len(predicted),
        "seconds": {name: asdict(Spread.of(values)) for name, values in times.items()},
        "efficiency": asdict(ratios(times["alone"], times["pair"])),
        "predicted_over_measured": asdict(ratios(predicted, times["pair"])),
        "predicted_from_one_alone_over_measured": asdict(ratios(alone, times["pair"])),
    }


def gpu_work(step_ms: float, gradients: float, images: int) -> Work:
    """The user's own step, or that of an H100, computed from its operations."""
    if step_ms:
        return Work(
            f"a step of {step_ms:g} ms, {gradients / 1e6:.0f} million gradients",
            step_ms / 1e3,
            BACKWARD,
            int(gradients),
            images=images,
        )
    import torch

    from pplfast.benchmarks import models
    from pplfast.benchmarks.cost import SHARE
    from pplfast.benchmarks.flops import step_flops
    from pplfast.benchmarks.kernel_cost import H100
    from pplfast.benchmarks.train import GPU_WORK as work

    case = work.case("b4_5")
    seconds = step_flops(case, work.batch, work.size, work.frozen) / (H100.matrix_rate * SHARE)
    with torch.device("meta"):
        model = models.make_pplfast(case, "meta")
    models.freeze(model, work.frozen)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return Work(
        f"{work.name('b4_5')}, H100 at {SHARE:.0%} of its bf16 rate", seconds, BACKWARD, trained, images=work.batch
    )


def data_needs(work: Work, own: bool) -> list[Need]:
    """Of the training, and, where it is not the user's own, of what else is known."""
    training = Need(f"training, {work.name}", work.images / work.compute)
    if own:
        return [training]
    from pplfast.benchmarks.cost import SHARE, recipe_cost
    from pplfast.benchmarks.kernel_cost import H100
    from pplfast.recipe import load_recipe

    recipe = load_recipe("voc12-ppl-wrn38")
    cams = next(step for step in recipe_cost(recipe, "ppl", 1, 0, 0) if step.name == "CAMs")
    views = f"{len(recipe.cam.scales)} scales{' and mirrored' if recipe.cam.flip else ''}"
    labelling = Need(f"labelling, wrn38, {views}, computed likewise", H100.matrix_rate * SHARE / cams.flops)
    return [training, *MEASURED, labelling]


def variants(work: Work) -> dict[str, tuple[Work, Cluster]]:
    found = {}
    for network in NETWORKS:
        cluster = Cluster(NVLINK, network, 8)
        found[f"ZeRO 1, fp32 reduction, {network.name}"] = (work, cluster)
        found[f"ZeRO 1, bf16 reduction, {network.name}"] = (replace(work, reduce_bytes=2), cluster)
        found[f"ZeRO 0, fp32 reduction, {network.name}"] = (replace(work, overlap=False, gathers=False), cluster)
    return found


def predict(work: Work, needs: list[Need], image_bytes: float) -> dict[str, Any]:
    """kind: computed. No step of this was measured on a GPU, but for the `needs` that say so."""
    from pplfast.data.dataset import REMOTE_READERS

    rows = [
        {
            "variant": name,
            "gpus": gpus,
            "step_seconds": step_seconds(one, gpus, cluster),
            "efficiency": efficiency(one, gpus, cluster),
        }
        for name, (one, cluster) in variants(work).items()
        for gpus in COUNTS
    ]
    return {
        "kind": "computed",
        "work": asdict(work),
        "gpus_per_node": 8,
        "links": [asdict(NVLINK), *map(asdict, NETWORKS)],
        "rows": rows,
        "data": predict_data(needs, REMOTE_READERS, image_bytes),
    }


def table(prediction: dict[str, Any]) -> str:
    names = list(dict.fromkeys(row["variant"] for row in prediction["rows"]))
    lines = [
        f"Computed, not measured: {prediction['work']['name']}, 8 GPUs per node, the same batch on each",
        f"{'GPUs':<44}" + "".join(f"{gpus:>7}" for gpus in COUNTS),
    ]
    for name in names:
        row = [entry["efficiency"] for entry in prediction["rows"] if entry["variant"] == name]
        lines.append(f"{name:<44}" + "".join(f"{value:>6.1%} "[:7].rjust(7) for value in row))
    return "\n".join(lines)


def _measure_reads(out: Path) -> int:
    from pplfast.benchmarks.results import commit, hardware

    rows = measure_reads()
    for row in rows:
        print(
            f"{row['threads']:>3} threads: {row['gets_per_second']:.0f} GET/s, "
            f"{1e3 * row['client_cpu_seconds_per_get']:.2f} ms of the client's CPU each"
        )
    write_json(out, {"kind": "reads", "commit": commit(), "hardware": hardware(), "rows": rows})
    print(f"written: {out}")
    return 0


def _measure_all(out: Path, rounds: int) -> int:
    from pplfast.benchmarks.results import Report

    report, rows = Report("cpu", quick=False), []
    for case in CPU_CASES:
        row = compare(case, measure(case, rounds))
        rows.append(row)
        seconds = {name: spread["median"] * 1e3 for name, spread in row["seconds"].items()}
        ratio, plain = row["predicted_over_measured"], row["predicted_from_one_alone_over_measured"]
        print(
            f"{case.name}\n  ms per step: one rank alone {seconds['alone']:.1f}, beside another "
            f"{seconds['beside']:.1f}, two ranks {seconds['pair']:.1f}; "
            f"reduction of {row['gradients'] * 4 / 1e6:.1f} MB {seconds['reduce']:.1f}\n"
            f"  efficiency of 2 ranks {row['efficiency']['median']:.1%}; "
            f"predicted over measured time {ratio['median']:.3f} ({ratio['q20']:.3f} to {ratio['q80']:.3f}); "
            f"from a rank alone {plain['median']:.3f}"
        )
        report.check(BENCH, case.name, "prediction off by", abs(ratio["median"] - 1), LIMIT)
    write_json(out, {**report.to_dict(), "rows": [], "scaling": rows})
    print(f"written: {out}")
    return 0 if all(check["passed"] for check in report.checks) else 1


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pplfast.benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--measure", action="store_true", help="two CPU ranks against the prediction")
    parser.add_argument("--measure-reads", action="store_true", help="GETs of one process from a store on this machine")
    parser.add_argument("--rounds", type=int, default=12, help="of the measurement (default: %(default)s)")
    parser.add_argument("--step-ms", type=float, default=0, help="measured step of one GPU, without communication")
    parser.add_argument("--gradients", type=float, default=100e6, help="trained parameters (default: %(default)s)")
    parser.add_argument("--images", type=int, default=16, help="of such a step (default: %(default)s)")
    parser.add_argument(
        "--image-bytes", type=float, default=IMAGE_BYTES, help="of an encoded image (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    args = parser.parse_args(arguments)
    if args.measure:
        return _measure_all(args.out or RESULTS / "cpu_scaling.json", args.rounds)
    if args.measure_reads:
        return _measure_reads(args.out or RESULTS / "logs" / "cpu_reads.json")
    work = gpu_work(args.step_ms, args.gradients, args.images)
    prediction = predict(work, data_needs(work, own=bool(args.step_ms)), args.image_bytes)
    out = args.out or RESULTS / "predicted_scaling.json"
    write_json(out, prediction)
    print(f"{table(prediction)}\n\n{data_tables(prediction['data'])}")
    print(f"written: {out}; `python -m pplfast.benchmarks.plots {out}` draws it")
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except UserError as error:
        print(f"scaling: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
