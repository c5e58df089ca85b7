"""`make test-one-writer`: two `pplfast train`, then two `pplfast run`, on one --out at the same time, 20 tries of each.

Minutes long. One of the two must end as it does alone, to the last bit; the
other must be refused, by the process and the host that hold the folder.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from train_data import CLASSES, write_images

RECIPE = """
name = "two"
variants = ["ppl"]
augment = { crop = 32, resize_long = [32, 48] }
optim = { lr = 1e-3, batch = 4, precision = "fp32" }
cam = { scales = [1.0], flip = false, precision = "fp32" }
[[stages]]
position = "group3"
grid = 2
epochs = 8
"""
SINGLE = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True)
class Kind:
    """arguments: of the command, but for --out. result: what its folder says in the end."""

    name: str
    arguments: list[str]
    result: Callable[[Path], object]
    done_before: str  # said by one that came after the other had ended


def make_kinds(root: Path) -> list[Kind]:
    data, recipe = write_images(root / "data"), root / "two.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    common = ["--data", str(data), "--labels", str(data / "labels.csv"), "--classes", CLASSES, "--recipe", str(recipe)]
    common += ["--threads", "1", "--set", "model.weights=none"]
    return [
        Kind("train", ["train", *common, "--checkpoint-every", "3"], weights, "finished before"),
        Kind("run", ["run", *common, "--jobs", "1", "--checkpoint-every", "3"], run_figures, "done before, skipped"),
    ]


def weights(out: Path) -> object:
    losses = [(line["step"], line["loss"]) for line in map(json.loads, (out / "log.jsonl").open(encoding="utf-8"))]
    return hashlib.sha256((out / "classifier.safetensors").read_bytes()).hexdigest(), losses


def run_figures(out: Path) -> object:
    labels = {path.name: path.read_bytes() for path in sorted((out / "ppl" / "labels").glob("*.png"))}
    steps = sorted(path.name for path in (out / "ppl" / "steps").iterdir())
    return weights(out / "ppl" / "train"), labels, steps, (out / "report.html").is_file()


def start(kind: Kind, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "pplfast", *kind.arguments, "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=SINGLE)


def alone(kind: Kind, out: Path) -> object:
    """What it comes to."""
    process = start(kind, out)
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{kind.name} alone ended with {process.returncode}: {errors[-2000:]}")
    return kind.result(out)


def attempt(kind: Kind, out: Path, delay: float, expected: object) -> str | None:
    """Two at once; what is wrong, "" if nothing, None where the second came after the first had ended."""
    first = start(kind, out)
    time.sleep(delay)
    second = start(kind, out)
    ended = [(process, *process.communicate()) for process in (first, second)]
    codes = [process.returncode for process, _, _ in ended]
    if codes == [0, 0] and any(kind.done_before in output + errors for _, output, errors in ended):
        return None
    if sorted(codes) != [0, 2]:
        return f"ended with {codes}: {[errors[-500:] for _, _, errors in ended]}"
    [(winner, _, _)] = [one for one in ended if one[0].returncode == 0]
    [(_, _, said)] = [one for one in ended if one[0].returncode == 2]
    refusal = (
        rf"pplfast {kind.name}: error: {re.escape(str(out))}: process {winner.pid} on {socket.gethostname()} writes"
    )
    if not re.match(refusal, said.splitlines()[-1]) or "Traceback" in said:
        return f"refused with: {said[-500:]}"
    if kind.result(out) != expected:
        return "the one that finished came to something else than alone"
    left = [str(path) for path in out.rglob(".*")]
    return f"left behind: {left}" if left else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--seed", type=int, default=0, help="of the delays (default: %(default)s)")
    parser.add_argument("--tries", type=int, default=20, help="of each command (default: %(default)s)")
    args = parser.parse_args()
    delays = random.Random(args.seed)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="pplfast-one-writer-") as folder:
        for kind in make_kinds(Path(folder)):
            expected = alone(kind, Path(folder) / f"{kind.name}-alone")
            good = tried = 0
            while tried < args.tries:
                out, delay = Path(folder) / "out", delays.uniform(0, 1.5)
                wrong = attempt(kind, out, delay, expected)
                shutil.rmtree(out)
                if wrong is None:
                    print(f"{kind.name}: {delay:.2f} s apart was too late, not counted", flush=True)
                    continue
                tried, good = tried + 1, good + (not wrong)
                print(f"{kind.name}: {delay:.2f} s apart: {wrong or 'right'}", flush=True)
            failed += good < args.tries
            print(f"{kind.name}: {good} of {args.tries}, seed {args.seed}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
