"""Two checkouts in turns: the training step and CAMs of one thread, CPU time of the new over that of the old.

    python benchmarks/old_new.py OLD NEW [--out FILE.json] [--rounds N] [--only step_group5_4 cams_resnet50 ...]

Each checkout has a process of its own with its own interpreter (CHECKOUT/.venv/bin/python), which does one piece of
work when it is told to, by what both have: create, PatchClassifier; made fast as its own jobs do it.
"""

import argparse
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CAMS = {"efficientnet_lite0": ("group5", 32), "resnet50": ("layer3", 16), "wrn38": ("b4_5", 8)}  # cut, output stride
STEPS = (
    ("group5", 4),
    ("group6", 4),
    ("group1", 2),
    ("group3", 2),
    ("group5", 2),
)  # cut, grid; first those of voc-lite0
WORKS = (*(f"step_{cut}_{grid}" for cut, grid in STEPS), *(f"cams_{network}" for network in CAMS))


def make_work(name: str) -> Callable[[], Any]:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    from pplfast.models import create
    from pplfast.patch.classifier import PatchClassifier

    kind, what = name.split("_", 1)
    step = kind == "step"
    if step:
        network, stride, (cut, cells) = "efficientnet_lite0", 32, what.split("_")
        grid = int(cells)
    else:
        network, grid, (cut, stride) = what, 2, CAMS[what]
    backbone, _ = create(network, "none", stride)
    backbone.freeze(backbone.frozen_default)
    variant = "ppl" if importlib.util.find_spec("pplfast.steps") else "progressive"  # as checkouts of before call it
    model: Any = PatchClassifier(backbone, 20, variant)
    branches: Any = importlib.import_module("pplfast.patch.branches")
    cut_class = getattr(branches, "Cut", None) or branches.PatchStage  # before
    set_cuts = getattr(model, "set_cuts", None) or model.set_stage
    set_cuts([cut_class(backbone.position(cut) + 1, grid)])
    make_fast(torch.device("cpu"), model, step)
    return training(torch, model) if step else cams(torch, model)


def make_fast(cpu: Any, model: Any, step: bool) -> None:
    if importlib.util.find_spec("pplfast.cpu"):
        importlib.import_module("pplfast.cpu").install(model, cpu)
    elif not step:
        importlib.import_module("pplfast.models.layers").use_winograd(model)
    if importlib.util.find_spec("pplfast.memory"):
        importlib.import_module("pplfast.memory").keep_freed_memory(cpu)


def training(torch: Any, model: Any) -> Callable[[], float]:
    model.train()
    images = torch.randn(8, 3, 256, 256).contiguous(memory_format=torch.channels_last)
    labels = (torch.rand(8, 20) < 0.1).float()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4, momentum=0.9)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.multilabel_soft_margin_loss(model(images), labels)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def cams(torch: Any, model: Any) -> Callable[[], float]:
    model.eval()
    # Two images, one after the other as CAMs are made, each with its mirror image.
    pairs = [
        torch.randn(2, 3, round(375 * scale), round(500 * scale)).contiguous(memory_format=torch.channels_last)
        for _ in range(2)
        for scale in (0.5, 1.0)
    ]

    def maps() -> float:
        with torch.inference_mode():
            return sum(float(model.maps(pair, torch.tensor([[3, 7], [3, 7]])).mean()) for pair in pairs)

    return maps


def serve() -> None:
    """Told "name repeats", answers with the seconds of a call and its value."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    import pplfast

    if not Path(pplfast.__file__).resolve().is_relative_to(Path.cwd()):
        sys.exit(f"old_new.py: {sys.executable} imports {pplfast.__file__}, not {Path.cwd()}")
    works: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        name, repeats = line.split()
        if name not in works:
            works[name] = make_work(name)
        start = time.process_time()
        for _ in range(int(repeats)):
            value = works[name]()
        print(json.dumps([(time.process_time() - start) / int(repeats), value]), file=answers, flush=True)


class Checkout:
    def __init__(self, path: Path) -> None:
        self.path, python = path, path / ".venv" / "bin" / "python"
        self.commit = subprocess.run(
            ["git", "-C", path, "describe", "--always", "--dirty"], capture_output=True, text=True
        ).stdout.strip()
        self._process = subprocess.Popen(
            [python, Path(__file__).resolve(), "--serve"],
            cwd=path,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def measure(self, name: str, repeats: int = 1) -> tuple[float, float]:
        print(name, repeats, file=self._process.stdin, flush=True)
        assert self._process.stdout is not None, "a pipe"
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit(f"old_new.py: the process of {self.path} ended; see above")
        seconds, value = json.loads(answer)
        return seconds, value


def compare(old: Checkout, new: Checkout, name: str, rounds: int) -> dict[str, Any]:
    values = [side.measure(name)[1] for side in (old, new)]  # also the warm-up
    # Short samples see the clock's grain, and a neighbour's cache.
    repeats = max(1, round(0.3 / min(side.measure(name)[0] for side in (old, new))))
    seconds: dict[Checkout, list[float]] = {old: [], new: []}
    for number in range(rounds):
        for side in (old, new)[:: 1 - 2 * (number % 2)]:
            seconds[side].append(side.measure(name, repeats)[0])
    found = sorted(b / a for a, b in zip(seconds[old], seconds[new], strict=True))
    spread = dict(zip(("q20", "median", "q80"), (found[round(q * (rounds - 1))] for q in (0.2, 0.5, 0.8))))
    return {
        "ratio": spread,
        "rounds": rounds,
        "first_values": values,
        "seconds": {"old": statistics.median(seconds[old]), "new": statistics.median(seconds[new])},
    }


def main() -> None:
    if sys.argv[1:] == ["--serve"]:
        return serve()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path), parser.add_argument("new", type=Path)
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--only", choices=WORKS, nargs="+", default=WORKS)
    args = parser.parse_args()
    old, new = Checkout(args.old.resolve()), Checkout(args.new.resolve())
    works: dict[str, dict[str, Any]] = {}
    results = {"old": old.commit, "new": new.commit, "clock": "cpu time, one thread", "works": works}
    for name in args.only:
        row = works[name] = compare(old, new, name, args.rounds)
        ratio, seconds = row["ratio"], row["seconds"]
        print(
            f"{name}: new/old {ratio['median']:.3f} ({ratio['q20']:.3f} to {ratio['q80']:.3f}), {seconds['old']:.3g} "
            f"s -> {seconds['new']:.3g} s, first values {row['first_values']}",
            flush=True,
        )
        if args.out:  # after every row: a run that is cut off keeps what it has
            args.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
