"""A classifier in the midst of its training, and what a run says of it: for the tests of figures and loggers."""

import json
from pathlib import Path

from pplfast.models import create
from pplfast.patch.branches import Cut
from pplfast.patch.classifier import PatchClassifier
from pplfast.train.log import Interval
from pplfast.train.meter import Rates
from pplfast.train.plan import StagePlan
from pplfast.train.run_info import RunInfo

SETTINGS = {"variant": "ppl", "recipe": {"optim": {"lr": 0.1}, "scales": [0.5, 1.0]}, "long": "x" * 1000}
RATES = Rates(2.0, 4.0, 0.5, None, 1.5)
DRAWN = {"stage", "epoch", "loss", "lr", "images_per_s", "tflops", "memory_peak_gib"}


def run_info(folder: Path, step: int = 0) -> RunInfo:
    folder.mkdir(parents=True, exist_ok=True)
    return RunInfo(folder, step, "ppl classifier, resnet50", SETTINGS)


def interval(step: int, loss: float = 0.5) -> Interval:
    return Interval(0, 2, StagePlan((), (), (), 1.0), step, step / 10, loss, 0.1, RATES)


def values(step: int, loss: float = 0.5) -> dict:
    return interval(step, loss).values()


def entries(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def classifier(name: str, mode: str, cuts: tuple[tuple[str, int], ...], frozen: int) -> PatchClassifier:
    backbone, _ = create(name, weights="none", output_stride=16)
    backbone.freeze(frozen)
    model = PatchClassifier(backbone, 20, mode, dropout=0.5, branches=len(cuts)).train()
    model.set_cuts([Cut(backbone.position(block) + 1, grid) for block, grid in cuts])
    return model
