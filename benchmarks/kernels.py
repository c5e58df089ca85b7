"""Each kernel against eager code for the same operation, in the same dtype and memory format."""

from collections.abc import Callable

import torch
from torch import Tensor

from pplfast.benchmarks.ceilings import floor_seconds
from pplfast.benchmarks.harness import FULL, QUICK, SHORT, alternate, compute_clock, difference, tf32
from pplfast.benchmarks.operations import OPERATIONS, Operation, Sizes
from pplfast.benchmarks.results import Ratio, Report

BENCH = "kernels"
# Largest error relative to the largest value; half types: at most twice eager's own error in that type, plus this.
LIMIT, HALF_EXTRA = 1e-5, 1e-3


WRN38 = Sizes("wrn38 448x448 batch 16", 16, 2, (256, 112, 112, 2), (4096, 56, 56), 20, "relu", (375, 500))
RAGGED = Sizes("wrn38 452x444 batch 16", 16, 3, (256, 113, 111, 2), (4096, 57, 56), 20, "relu", (375, 500))
LITE0 = Sizes("efficientnet_lite0 256x256 batch 8", 8, 2, (40, 32, 32, 2), (1280, 16, 16), 20, "relu6", (375, 500))


def run(report: Report, sizes: list[Sizes] | None = None) -> None:
    """`sizes`: by default WideResNet-38's at 448 pixels on a GPU, EfficientNet-Lite0's at 256 on the CPU."""
    chosen = sizes or ([LITE0] if report.device == "cpu" else [WRN38, RAGGED])
    dtypes = (torch.float32,) if report.device == "cpu" else (torch.bfloat16, torch.float32)
    for size in chosen[:1] if report.quick else chosen:
        for dtype in dtypes[:1] if report.quick else dtypes:
            torch.manual_seed(0)
            for make in OPERATIONS:
                for operation in make(size, dtype, report.device):
                    # Compiling takes longer than all else: once per operation. On the CPU never, where pplfast's own
                    # versions are eager code as well.
                    first = size is chosen[0] and dtype is dtypes[0] and report.device == "cuda"
                    _measure(report, operation, size, dtype, compiled=first and report.compile)


def case_name(operation: Operation, size: Sizes, dtype: torch.dtype) -> str:
    return f"{operation.name} {size.name} K={size.grid} {str(dtype).removeprefix('torch.')}"


def _measure(report: Report, operation: Operation, size: Sizes, dtype: torch.dtype, compiled: bool) -> None:
    name = case_name(operation, size, dtype)
    with tf32(False):
        same = _same_values(report, operation, name, dtype)
    if not same:
        return
    runs = {
        "reference": _call(operation.eager, operation.eager_inputs, operation.backward),
        "pplfast": _call(operation.fast, operation.inputs, operation.backward),
    }
    effort = QUICK if report.quick else SHORT if report.device == "cuda" else FULL
    clock = compute_clock(report.device)
    samples = alternate(runs, report.device, effort, clock)
    floor = floor_seconds(report.ceilings, operation.cost, "fp32" if dtype == torch.float32 else "bf16")
    goal, share = (operation.goal, operation.goal_share) if report.device == "cuda" else (None, None)
    report.add(
        BENCH,
        name,
        samples,
        [Ratio("reference", "pplfast", goal)],
        floor=floor,
        extra={} if share is None else {"pplfast": {"goal_share": share}},
        clock=clock,
    )
    if compiled:  # in turns once more, after the others have their times: compiling may not end
        torch.compiler.reset()
        tuned = _call(torch.compile(operation.eager, dynamic=False), operation.eager_inputs, operation.backward)
        samples = alternate({"tuned": tuned, "pplfast": runs["pplfast"]}, report.device, effort, clock)
        report.add(BENCH, name, samples, [Ratio("tuned", "pplfast")], floor=floor, clock=clock, again=("pplfast",))


def _same_values(report: Report, operation: Operation, name: str, dtype: torch.dtype) -> bool:
    """Outputs, and gradients where those are measured, against eager code in float32."""
    exact = _values(operation.eager, [x.float() for x in operation.eager_inputs], operation.backward)
    eager = _values(operation.eager, operation.eager_inputs, operation.backward)
    fast = _values(operation.fast, operation.inputs, operation.backward)
    good = True
    for i, (truth, plain, ours) in enumerate(zip(exact, eager, fast, strict=True)):
        gradient = operation.backward and i >= len(fast) - len(operation.inputs)
        arrange = operation.arrange_gradient if gradient else operation.arrange
        truth = arrange(truth)
        limit = LIMIT if dtype == torch.float32 else 2 * difference(arrange(plain), truth) + HALF_EXTRA
        what = f"{'gradient' if gradient else 'output'} {i} against float32"
        good &= report.check(BENCH, name, what, difference(ours, truth), limit)
    return good


def _values(function: Callable[..., tuple[Tensor, ...]], inputs: list[Tensor], backward: bool) -> list[Tensor]:
    if not backward:
        with torch.no_grad():
            return list(function(*inputs))
    leaves = [x.detach().requires_grad_() for x in inputs]
    outputs = function(*leaves)
    # The upstream gradient is the output's own value: it differs from cell to cell, and needs no order of its own.
    return [*outputs, *torch.autograd.grad(outputs, leaves, [y.detach() for y in outputs])]


def _call(function: Callable[..., tuple[Tensor, ...]], inputs: list[Tensor], backward: bool) -> Callable[[], None]:
    if not backward:

        def forward() -> None:
            with torch.no_grad():
                function(*inputs)

        return forward

    leaves = [x.detach().requires_grad_() for x in inputs]
    gradients = [torch.ones_like(y) for y in function(*leaves)]

    def both() -> None:
        torch.autograd.grad(function(*leaves), leaves, gradients)

    return both
