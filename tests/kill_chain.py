"""`make test-kill`: kill -9 of `pplfast run` at a random moment in each of its steps, then the same command again.

Minutes long, so not among the tests; the final figures must be those of a run that nobody disturbed.
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
import threading
import time
from pathlib import Path

from pplfast.run.variant import OUTPUTS, REFINED

RECIPE = """
name = "kill"
variants = ["ppl"]
augment = { crop = 64, resize_long = [64, 80] }
optim = { batch = 4, precision = "fp32" }
cam = { scales = [1.0], precision = "fp32" }
[[stages]]
position = "group5"
grid = 2
epochs = 2
[affinity]
epochs = 2
augment = { crop = 64, resize_long = [64, 80] }
optim = { batch = 4, precision = "fp32" }
[segmentation]
epochs = 2
augment = { crop = 64, resize_long = [64, 80] }
optim = { batch = 4, precision = "fp32" }
scales = [1.0]
"""
FIGURES = ("cam_miou", "label_miou", "walk_miou", "walk_label_miou", "segmentation_miou")


def command(data: Path, recipe: Path, out: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "pplfast",
        "run",
        "--data",
        str(data),
        "--recipe",
        str(recipe),
        "--out",
        str(out),
        "--threads",
        "1",
        "--checkpoint-every",
        "1",
        "--jobs",
        "1",
    ]


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def figures(out: Path) -> dict[str, float]:
    part = json.loads((out / "summary.json").read_text())["ppl"]
    return {name: part[name] for name in FIGURES}


def steps_of(out: Path) -> dict[str, float]:
    """Seconds of each step that is done, in their order."""
    records = {path.stem: json.loads(path.read_text()) for path in (out / "ppl" / "steps").glob("*.json")}
    done = sorted((float(record["stamp"]), name) for name, record in records.items() if record["done"])
    return {name: records[name]["seconds"] for _, name in done}


def kill_in(step: str, share: float, seconds: float, arguments: list[str], out: Path) -> bool:
    """Start, and have the process kill itself `share * seconds` after `step` has begun; whether it was still at it."""
    itself = [sys.executable, __file__, "--step", step, "--after", str(share * seconds)]
    process = subprocess.run([*itself, *arguments[3:]], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if process.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"pplfast ended with {process.returncode} before {step}: {process.stderr[-2000:]}")
    return process.returncode == -signal.SIGKILL and step not in steps_of(out)


def run_until_killed(step: str, seconds: float, arguments: list[str]) -> int:
    """`pplfast run` in this process, with a SIGKILL from a thread of its own: as sudden, exact to the millisecond."""
    from pplfast.cli import main as pplfast
    from pplfast.run.steps import Steps

    plain = Steps.run

    def kill():
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    def run(self, name, settings, outputs, action):
        def timed():
            threading.Thread(target=kill, daemon=True).start()
            return action()

        return plain(self, name, settings, outputs, timed if name == step else action)

    Steps.run = run
    return pplfast(arguments)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--after", type=float, help=argparse.SUPPRESS)
    args, rest = parser.parse_known_args()
    if args.step:
        return run_until_killed(args.step, args.after, rest)
    moments = random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="pplfast-chain-kill-") as folder:
        root = Path(folder)
        recipe = root / "kill.toml"
        recipe.write_text(RECIPE, encoding="utf-8")
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pplfast",
                "data",
                "demo",
                "--out",
                str(root / "data"),
                "--train",
                "12",
                "--val",
                "4",
                "--size",
                "96",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        whole, disturbed = root / "whole", root / "disturbed"
        subprocess.run(
            command(root / "data", recipe, whole), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        expected = figures(whole)
        for step, seconds in steps_of(whole).items():
            share = moments.random()
            # A quieter machine does the step faster than the record says: earlier and earlier, until it is hit.
            while not kill_in(step, share, seconds, command(root / "data", recipe, disturbed), disturbed):
                share /= 2
                if step in steps_of(disturbed):
                    (disturbed / "ppl" / "steps" / f"{step}.json").unlink()
                    remove(disturbed / "ppl" / (OUTPUTS | REFINED)[step])
            print(f"killed {share * seconds:.3f} s into {step}", flush=True)
        subprocess.run(
            command(root / "data", recipe, disturbed), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        found = figures(disturbed)
    for name in FIGURES:
        print(f"{name:<20} {expected[name]:.6f} undisturbed, {found[name]:.6f} after the kills")
    if found != expected:
        print("FAILED: the figures differ")
        return 1
    print("the same")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
