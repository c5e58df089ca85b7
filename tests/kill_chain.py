"""`make test-kill`: `pplfast run` on one rank, on two, and killed at a random moment in each of its steps, then started
again on the other number of ranks.

On two ranks one of them is killed, whichever, while the other works. Minutes long, so not among the tests; the figures
must be those of a run that nobody disturbed.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from pplfast.steps import STEP

RECIPE = """
name = "kill"
variants = ["ppl"]
augment = { crop = 64, resize_long = [64, 80] }
optim = { batch = 4, micro_batch = 2, precision = "fp32" }
cam = { scales = [1.0], precision = "fp32" }
[[stages]]
position = "group5"
grid = 2
epochs = 2
[affinity]
epochs = 2
augment = { crop = 64, resize_long = [64, 80] }
optim = { batch = 4, micro_batch = 2, precision = "fp32" }
[segmentation]
epochs = 2
augment = { crop = 64, resize_long = [64, 80] }
optim = { batch = 4, micro_batch = 2, precision = "fp32" }
scales = [1.0]
"""
FIGURES = ("cam_miou", "label_miou", "walk_miou", "walk_label_miou", "segmentation_miou", "network_label_miou")


DIGITS = 6
FLAGS = ("--threads", "1", "--checkpoint-every", "1", "--jobs", "1")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def pplfast(*words: object) -> list[str]:
    return [sys.executable, "-m", "pplfast", *map(str, words)]


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def figures(out: Path) -> dict[str, float]:
    part = json.loads((out / "summary.json").read_text())["ppl"]
    return {name: round(part[name], DIGITS) for name in FIGURES}


def record(out: Path, step: str) -> dict:
    try:
        return json.loads((out / "ppl" / "steps" / f"{step}.json").read_text())
    except FileNotFoundError:
        return {"done": None}


def steps_of(out: Path) -> dict[str, float]:
    """Seconds of each step that is done, in their order."""
    found = {name: record(out, name) for name in STEP}
    return {name: entry["seconds"] for name, entry in found.items() if entry["done"]}


def ranks_of(mark: str) -> list[int]:
    """The processes that a launcher with this mark in its environment has started as ranks."""
    ranks = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (path / "cmdline").read_bytes().split(b"\0")
            if any(word.startswith(b"--local_rank=") for word in words) and mark.encode() in (
                (path / "environ").read_bytes()
            ):
                ranks.append(int(path.name))
    return ranks


def kill_in(step: str, delay: float, words: list[str], ranks: int, out: Path, moments: random.Random) -> bool:
    """Start on so many ranks, and kill one `delay` seconds after `step` has begun; whether it was still at it."""
    log, mark = out.with_suffix(".log"), f"{os.getpid()}-{time.monotonic_ns()}"
    with open(log, "wb") as file:
        process = subprocess.Popen(words, stdout=file, stderr=file, env={**ENVIRONMENT, "KILL_CHAIN": mark})
    found = [process.pid] if ranks == 1 else []
    while process.poll() is None and (len(found) < ranks or record(out, step)["done"] is not False):
        time.sleep(0.001)
        found = found if len(found) == ranks else ranks_of(mark)
    if process.poll() is not None:
        raise RuntimeError(f"pplfast ended with {process.returncode} before {step}:\n{log.read_text()[-2000:]}")
    time.sleep(delay)
    with suppress(ProcessLookupError):  # it was faster
        os.kill(moments.choice(found), signal.SIGKILL)
    process.wait(timeout=180)  # a launcher ends all ranks
    if left := ranks_of(mark):
        raise RuntimeError(f"{step}: ranks {left} go on without the one that was killed")
    return record(out, step)["done"] is False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    moments = random.Random(parser.parse_args().seed)
    with tempfile.TemporaryDirectory(prefix="pplfast-chain-kill-") as folder:
        root = Path(folder)
        data, recipe = root / "data", root / "kill.toml"
        recipe.write_text(RECIPE, encoding="utf-8")
        quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": ENVIRONMENT}
        subprocess.run(pplfast("data", "demo", "--out", data, "--train", 12, "--val", 4, "--size", 96), **quiet)

        def run(out: Path, ranks: int) -> list[str]:
            return pplfast("run", "--data", data, "--recipe", recipe, "--out", out, "--ranks", ranks, *FLAGS)

        found = {}
        for ranks in (1, 2):
            subprocess.run(run(root / f"on{ranks}", ranks), **quiet)
            found[f"{ranks} rank{'s' * (ranks > 1)}"] = figures(root / f"on{ranks}")
        disturbed = root / "disturbed"
        for number, (step, seconds) in enumerate(steps_of(root / "on1").items()):
            ranks, delay = 2 - number % 2, moments.random() * seconds
            # A quieter machine does the step faster than the record says: earlier and earlier, until it is hit.
            while not (hit := kill_in(step, delay, run(disturbed, ranks), ranks, disturbed, moments)) and delay > 0.001:
                delay /= 2
                (disturbed / "ppl" / "steps" / f"{step}.json").unlink()
                remove(disturbed / "ppl" / STEP[step].output)
            where = f"{delay:.3f} s into {step}" if hit else f"after {step}, which is too fast to be hit"
            print(f"{ranks} rank{'s' * (ranks > 1)}: killed {where}", flush=True)
        subprocess.run(run(disturbed, 1), **quiet)
        found["after the kills"] = figures(disturbed)
    for name in FIGURES:
        print(f"{name:<18}", *(f"{part[name]:.{DIGITS}f} {which}" for which, part in found.items()), sep="  ")
    if any(part != found["1 rank"] for part in found.values()):
        print("FAILED: the figures differ")
        return 1
    print("the same")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
