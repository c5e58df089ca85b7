"""`make test-kill`: kill -9 of `pplfast run` at a random moment in each of its steps, then the same command again.

Minutes long, so not among the tests; the final figures must be those of a run that nobody disturbed.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
    return [sys.executable, "-m", "pplfast", "run", "--data", str(data), "--recipe", str(recipe), "--out", str(out),
            "--threads", "1", "--checkpoint-every", "1", "--jobs", "1"]


def figures(out: Path) -> dict[str, float]:
    part = json.loads((out / "summary.json").read_text())["ppl"]
    return {name: part[name] for name in FIGURES}


def steps_of(out: Path) -> dict[str, float]:
    """Seconds of each step that is done."""
    records = {path.stem: json.loads(path.read_text()) for path in (out / "ppl" / "steps").glob("*.json")}
    return {name: record["seconds"] for name, record in records.items() if record["done"]}


def kill_in(step: str, seconds: float, arguments: list[str], environment: dict[str, str], out: Path) -> bool:
    """Start, wait until `step` has begun, kill after `seconds`; whether it was still at it."""
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
                               start_new_session=True)
    for line in process.stdout:
        if line.rstrip().endswith(f"ppl: {step}"):
            time.sleep(seconds)
            break
    running = process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return running and step not in steps_of(out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    args = parser.parse_args()
    moments = random.Random(args.seed)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryDirectory(prefix="pplfast-kill-") as folder:
        root = Path(folder)
        recipe = root / "kill.toml"
        recipe.write_text(RECIPE, encoding="utf-8")
        subprocess.run([sys.executable, "-m", "pplfast", "data", "demo", "--out", str(root / "data"), "--train", "12",
                        "--val", "4", "--size", "96"], check=True, stdout=subprocess.DEVNULL)
        whole, disturbed = root / "whole", root / "disturbed"
        subprocess.run(command(root / "data", recipe, whole), check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        expected = figures(whole)
        for step, seconds in steps_of(whole).items():
            moment = moments.uniform(0, seconds)
            inside = kill_in(step, moment, command(root / "data", recipe, disturbed), environment, disturbed)
            print(f"killed {moment:.2f} s into {step}{'' if inside else ' (it had just ended)'}", flush=True)
        subprocess.run(command(root / "data", recipe, disturbed), check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
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
