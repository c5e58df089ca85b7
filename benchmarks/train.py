"""Training steps: forward, backward, SGD; pplfast against the reference and against a plain classifier's step."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from pplfast.benchmarks import models
from pplfast.benchmarks.flops import dense_flops, step_flops
from pplfast.benchmarks.harness import FULL, QUICK, STEPS, alternate, compute_clock, difference, tf32, under_tf32
from pplfast.benchmarks.models import Case
from pplfast.benchmarks.reference.classifier import ReferenceClassifier
from pplfast.benchmarks.results import Ratio, Report
from pplfast.cpu.memory import keep_freed_memory
from pplfast.patch.classifier import PatchClassifier
from pplfast.precision import fastest_convolutions

BENCH = "train"
GPU_SHARE = 0.5  # goal: model operations against the measured bf16 matrix product
TRUE_FLOAT32 = ("reference", "pplfast", "plain")  # contestants without TF32
LOSS_LIMIT, GRADIENT_LIMIT, BF16_LIMIT = 1e-4, 1e-3, 2e-2


@dataclass(frozen=True)
class Work:
    backbone: str
    size: int
    batch: int
    classes: int
    grid: int
    positions: tuple[str, ...]
    frozen: int
    pairs: tuple[Ratio, ...]
    output_stride: int = 16

    def case(self, position: str) -> Case:
        return Case(self.backbone, self.classes, ((position, self.grid),), output_stride=self.output_stride)

    def name(self, position: str) -> str:
        stride = "" if self.output_stride == 16 else f" stride {self.output_stride},"
        return f"{self.backbone}{stride} {self.size}x{self.size} batch {self.batch} K={self.grid} after {position}"


CPU_WORK = Work(
    "efficientnet_lite0",
    256,
    8,
    20,
    2,
    tuple(f"group{i}" for i in range(1, 8)),
    3,
    (
        Ratio("reference", "pplfast", 1.5),
        Ratio("pplfast", "plain", 1.8, higher_is_better=False),
        Ratio("reference", "pplfast_bf16"),
        Ratio("tuned", "pplfast_bf16"),
        Ratio("pplfast_bf16", "plain_bf16", higher_is_better=False),
    ),
)
# The published network, which the recipes train, and the one with a last map twice as fine.
CPU_WORKS = (replace(CPU_WORK, output_stride=32), CPU_WORK)
# On a GPU "reference" computes in true float32, "reference_tf32" as PyTorch does by default: convolutions in TF32.
GPU_WORK = Work(
    "wrn38",
    448,
    16,
    20,
    2,
    ("b4_5",),
    4,
    (
        Ratio("reference_tf32", "pplfast_bf16", 2.0),
        Ratio("reference", "pplfast_bf16", 8.0),
        Ratio("tuned", "pplfast_bf16", 1.25),
        Ratio("reference", "pplfast"),
        Ratio("pplfast_bf16", "plain_bf16", higher_is_better=False),
        Ratio("pplfast_bf16", "compiled_default"),
        Ratio("pplfast_bf16", "compiled_reduce-overhead"),
    ),
)
# The second one is small: the host's launches may take longer than what they launch.
GPU_WORKS = (
    GPU_WORK,
    replace(
        GPU_WORK,
        backbone="efficientnet_lite0",
        size=256,
        batch=32,
        grid=4,
        positions=("group5",),
        frozen=3,
        output_stride=32,
    ),
)
COMPILED = ("default", "reduce-overhead")  # modes of `pplfast train --compile`; the second with CUDA graphs


def run(report: Report, work: Work | None = None) -> None:
    """`work`: by default those of the device; in a quick run at one position only."""
    if report.device == "cpu":
        keep_freed_memory()  # as the trainer does; the reference gains by it too
    works = (work,) if work else CPU_WORKS if report.device == "cpu" else GPU_WORKS
    later: list[Callable[[], None]] = []
    for own in works[:1] if report.quick else works:
        later += _run_work(report, own)
    for series in later:
        series()
        torch.compiler.reset()
        if report.device == "cuda":
            torch.cuda.empty_cache()


def _run_work(report: Report, work: Work) -> list[Callable[[], None]]:
    """Measures what is soon measured, and returns the rest: compiling takes minutes, and may not end."""
    middle = work.positions[len(work.positions) // 2]
    if report.compile and not report.quick and len(work.positions) > 1:
        report.skip(BENCH, f"tuned reference after other blocks than {middle}", "compiling takes minutes each time")
    later: list[Callable[[], None]] = []
    for position in (middle,) if report.quick else work.positions:
        later += _run_position(report, work, position, tune=position == middle or not report.compile)
    return later


def _run_position(report: Report, work: Work, position: str, tune: bool) -> list[Callable[[], None]]:
    case, name, device = work.case(position), work.name(position), report.device
    torch.manual_seed(0)
    images = torch.randn(work.batch, 3, work.size, work.size, device=device)
    labels = (torch.rand(work.batch, work.classes, device=device) < 0.1).float()
    with tf32(False):
        same = _same_training(report, work, case, name, images, labels)
    if not same:
        report.skip(BENCH, name, "a check failed: no times")
        return []

    # DALI delivers channels_last, a DataLoader NCHW: each contestant gets what it gets in its own training.
    last = images.contiguous(memory_format=torch.channels_last)

    def step(
        model: PatchClassifier | ReferenceClassifier, batch: torch.Tensor, bf16: bool, rounded: bool
    ) -> Callable[[], object]:
        models.freeze(model, work.frozen)
        model.train()
        optimizer = models.sgd(model, fused=device == "cuda" and batch is last)  # as the trainer; the tuned one too
        return under_tf32(models.training_step(model, optimizer, batch, labels, bf16), rounded)

    ours = models.make_pplfast(case, device)
    plain = replace(case, cuts=())
    reference = models.make_reference(case, ours, device)
    single = {
        "reference": step(reference, images, False, False),
        "pplfast": step(models.make_pplfast(case, device), last, False, False),
        "plain": step(models.make_pplfast(plain, device), last, False, False),
    }
    operations = dense_flops(single["pplfast"]) / dense_flops(single["plain"])
    half = {}
    if has_bf16 := "bf16" in report.precisions(BENCH):
        half = {
            "pplfast_bf16": step(models.make_pplfast(case, device), last, True, True),
            "plain_bf16": step(models.make_pplfast(plain, device), last, True, True),
        }

    def in_single_precision() -> None:
        again = ("pplfast_bf16",) if device == "cuda" else ()
        steps = single | ({"pplfast_bf16": half["pplfast_bf16"]} if again else half)
        _time(report, work, case, name, steps, {"pplfast": {"operations_of_plain": operations}}, again)

    later: list[Callable[[], None]] = []
    if device == "cuda":
        # cuDNN searches long for convolutions without TF32: they must not keep these from being measured.
        rounded = {"reference_tf32": step(models.make_reference(case, ours, device), images, False, True)}
        _time(report, work, case, name, rounded | half)
        later.append(in_single_precision)
    else:
        in_single_precision()
    if not (tune and has_bf16 and report.can_tune(BENCH)):
        return later

    def in_turns(label: str, make: Callable[[], PatchClassifier | ReferenceClassifier]) -> Callable[[], None]:
        """A series of its own with pplfast's step, whose first times stay."""

        def measure() -> None:
            pair = {label: step(make(), last, True, True), "pplfast_bf16": half["pplfast_bf16"]}
            _time(report, work, case, name, pair, again=("pplfast_bf16",))

        return measure

    later += [in_turns("tuned", lambda: models.tune(models.make_reference(case, ours, device), report.compile))]
    if device == "cuda" and report.compile:
        later += [
            in_turns(f"compiled_{mode}", partial(models.compile_pplfast, case, device, mode)) for mode in COMPILED
        ]
    return later


def _figures(report: Report, steps: dict[str, Callable[[], object]]) -> dict[str, dict[str, Any]]:
    """What a row says beside its times: on a GPU the memory of a step, and whether float32 meant TF32."""
    extra: dict[str, dict[str, Any]] = {label: {} for label in steps}
    if report.device == "cuda":
        for label, step in steps.items():
            extra[label] |= {"peak_gib": _peak_gib(step), "tf32": label not in TRUE_FLOAT32}
        if "pplfast_bf16" in extra:
            extra["pplfast_bf16"]["goal_share"] = GPU_SHARE
    return extra


def _time(
    report: Report,
    work: Work,
    case: Case,
    name: str,
    steps: dict[str, Callable[[], object]],
    more: dict[str, dict[str, Any]] | None = None,
    again: tuple[str, ...] = (),
) -> None:
    """more: figures of a row. again: as in `Report.add`."""
    clock = compute_clock(report.device)
    effort = QUICK if report.quick else FULL if report.device == "cuda" else STEPS
    with fastest_convolutions():  # as the trainer does; the checks before look at each shape once
        extra = _figures(report, {label: run for label, run in steps.items() if label not in again})
        samples = alternate(steps, report.device, effort, clock)
    for label, figures in (more or {}).items():
        extra[label] |= figures
    report.add(BENCH, name, samples, list(work.pairs), work.batch, _floors(report, work, case), extra, clock, again)


def _same_training(
    report: Report, work: Work, case: Case, name: str, images: torch.Tensor, labels: torch.Tensor
) -> bool:
    """Loss and the classifier's gradient of two images, without dropout, against the reference."""
    ours = models.make_pplfast(case, report.device)
    reference = models.make_reference(case, ours, report.device)
    losses, gradients = {}, {}
    runs = {"reference": reference} | dict.fromkeys(report.precisions(BENCH), ours)
    for label, model in runs.items():
        models.no_dropout(model)
        models.freeze(model, work.frozen)
        model.zero_grad()
        with models.autocast(report.device, label == "bf16"):
            logits = model(images[:2])
        loss = torch.nn.functional.multilabel_soft_margin_loss(logits.float(), labels[:2])
        loss.backward()
        gradient = model.classifier.weight.grad
        assert gradient is not None, "the classifier is trained"
        losses[label], gradients[label] = loss.detach(), gradient.clone()
    checks = [
        report.check(
            BENCH,
            name,
            "loss against the reference, relative",
            difference(losses["fp32"], losses["reference"]),
            LOSS_LIMIT,
        ),
        report.check(
            BENCH,
            name,
            "gradient of the classifier, relative",
            difference(gradients["fp32"], gradients["reference"]),
            GRADIENT_LIMIT,
        ),
    ]
    if "bf16" in losses:
        checks.append(
            report.check(
                BENCH,
                name,
                "loss in bf16 against the reference, relative",
                difference(losses["bf16"], losses["reference"]),
                BF16_LIMIT,
            )
        )
    return all(checks)


def _floors(report: Report, work: Work, case: Case) -> dict[str, float]:
    """Seconds that the step's model operations take at the measured matrix-product rate."""
    flops = step_flops(case, work.batch, work.size, work.frozen)
    plain = step_flops(replace(case, cuts=()), work.batch, work.size, work.frozen)
    fp32 = report.ceilings["matmul_fp32"]
    floors = {"reference": flops / fp32, "pplfast": flops / fp32, "plain": plain / fp32}
    if "matmul_bf16" in report.ceilings:
        bf16 = report.ceilings["matmul_bf16"]
        floors |= {"plain_bf16": plain / bf16}
        floors |= dict.fromkeys(("tuned", "pplfast_bf16", *(f"compiled_{mode}" for mode in COMPILED)), flops / bf16)
    return floors


def _peak_gib(step: Callable[[], object]) -> float:
    """Memory of one step beyond what the models themselves hold."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**30
