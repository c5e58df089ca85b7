"""Training steps: forward, backward, SGD; pplfast against the reference and against a plain classifier's step."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from pplfast.benchmarks import models
from pplfast.benchmarks.flops import dense_flops, step_flops
from pplfast.benchmarks.harness import FULL, QUICK, STEPS, alternate, compute_clock, difference
from pplfast.benchmarks.models import Case
from pplfast.benchmarks.results import Ratio, Report
from pplfast.cpu.memory import keep_freed_memory

BENCH = "train"
GPU_SHARE = 0.45  # goal: model operations against the measured bf16 matrix product
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


CPU_WORK = Work("efficientnet_lite0", 256, 8, 20, 2, tuple(f"group{i}" for i in range(1, 8)), 3, (
    Ratio("reference", "pplfast", 1.5), Ratio("pplfast", "plain", 1.8, higher_is_better=False),
    Ratio("reference", "pplfast_bf16"), Ratio("tuned", "pplfast_bf16"),
    Ratio("pplfast_bf16", "plain_bf16", higher_is_better=False)))
# The published network, which the recipes train, and the one with a last map twice as fine.
CPU_WORKS = (replace(CPU_WORK, output_stride=32), CPU_WORK)
GPU_WORK = Work("wrn38", 448, 16, 20, 2, ("b4_5",), 4, (
    Ratio("reference", "pplfast_bf16", 4.0), Ratio("tuned", "pplfast_bf16", 1.25),
    Ratio("reference", "pplfast"), Ratio("pplfast_bf16", "plain_bf16", higher_is_better=False)))


def run(report: Report, work: Work | None = None) -> None:
    """`work`: by default those of the device; in a quick run at one position only."""
    if report.device == "cpu":
        keep_freed_memory()  # as the trainer does; the reference gains by it too
    works = (work,) if work else CPU_WORKS if report.device == "cpu" else (GPU_WORK,)
    for own in works[:1] if report.quick else works:
        _run_work(report, own)


def _run_work(report: Report, work: Work) -> None:
    middle = work.positions[len(work.positions) // 2]
    if report.compile and not report.quick and len(work.positions) > 1:
        report.skip(BENCH, f"tuned reference after other blocks than {middle}", "compiling takes minutes each time")
    for position in (middle,) if report.quick else work.positions:
        _run_position(report, work, position, tune=position == middle or not report.compile)
        torch.compiler.reset()
        if report.device == "cuda":
            torch.cuda.empty_cache()


def _run_position(report: Report, work: Work, position: str, tune: bool) -> None:
    case, name, device = work.case(position), work.name(position), report.device
    torch.manual_seed(0)
    images = torch.randn(work.batch, 3, work.size, work.size, device=device)
    labels = (torch.rand(work.batch, work.classes, device=device) < 0.1).float()
    if not _same_training(report, work, case, name, images, labels):
        report.skip(BENCH, name, "a check failed: no times")
        return

    # DALI delivers channels_last, a DataLoader NCHW: each contestant gets what it gets in its own training.
    last = images.contiguous(memory_format=torch.channels_last)
    steps = {}

    def add(label: str, model: torch.nn.Module, batch: torch.Tensor, bf16: bool) -> None:
        models.freeze(model, work.frozen)
        model.train()
        steps[label] = models.training_step(model, models.sgd(model), batch, labels, bf16)

    ours = models.make_pplfast(case, device)
    add("reference", models.make_reference(case, ours, device), images, False)
    precisions = report.precisions(BENCH)
    for precision in precisions:
        bf16 = precision == "bf16"
        suffix = "_bf16" if bf16 else ""
        add(f"pplfast{suffix}", models.make_pplfast(case, device), last, bf16)
        add(f"plain{suffix}", models.make_pplfast(replace(case, stages=()), device), last, bf16)
    if tune and "bf16" in precisions and report.can_tune(BENCH):
        add("tuned", models.tune(models.make_reference(case, ours, device), report.compile), last, True)

    extra: dict[str, dict[str, float]] = {label: {} for label in steps}
    extra["pplfast"]["operations_of_plain"] = dense_flops(steps["pplfast"]) / dense_flops(steps["plain"])
    if device == "cuda":
        for label, step in steps.items():
            extra[label]["peak_gib"] = _peak_gib(step)
        extra["pplfast_bf16"]["goal_share"] = GPU_SHARE
    clock = compute_clock(device)
    effort = QUICK if report.quick else FULL if device == "cuda" else STEPS
    samples = alternate(steps, device, effort, clock)
    report.add(BENCH, name, samples, list(work.pairs), work.batch, _floors(report, work, case), extra, clock)


def _same_training(report: Report, work: Work, case: Case, name: str, images: torch.Tensor, labels: torch.Tensor
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
        losses[label], gradients[label] = loss.detach(), model.classifier.weight.grad.clone()
    checks = [
        report.check(BENCH, name, "loss against the reference, relative",
                     difference(losses["fp32"], losses["reference"]), LOSS_LIMIT),
        report.check(BENCH, name, "gradient of the classifier, relative",
                     difference(gradients["fp32"], gradients["reference"]), GRADIENT_LIMIT),
    ]
    if "bf16" in losses:
        checks.append(report.check(BENCH, name, "loss in bf16 against the reference, relative",
                                   difference(losses["bf16"], losses["reference"]), BF16_LIMIT))
    return all(checks)


def _floors(report: Report, work: Work, case: Case) -> dict[str, float]:
    """Seconds that the step's model operations take at the measured matrix-product rate."""
    flops = step_flops(case, work.batch, work.size, work.frozen)
    plain = step_flops(replace(case, stages=()), work.batch, work.size, work.frozen)
    fp32 = report.ceilings["matmul_fp32"]
    floors = {"reference": flops / fp32, "pplfast": flops / fp32, "plain": plain / fp32}
    if "matmul_bf16" in report.ceilings:
        bf16 = report.ceilings["matmul_bf16"]
        floors |= {"tuned": flops / bf16, "pplfast_bf16": flops / bf16, "plain_bf16": plain / bf16}
    return floors


def _peak_gib(step: Callable[[], object]) -> float:
    """Memory of one step beyond what the models themselves hold."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**30
