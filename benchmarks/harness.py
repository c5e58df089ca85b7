"""Timing: contestants take turns in every round, so that a machine that slows down slows all of them.

A speed-up is the median over rounds of the two contestants' ratio within a round, with 20/80 quantiles.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from pplfast.cpu.memory import give_freed_memory_back

AHEAD = 4_000_000  # cycles, about 2 ms, in which the host queues a short call: its launches take 0.1 to 0.3 ms
FLUSH_BYTES = 256 << 20  # larger than the last-level cache of any GPU so far


@dataclass(frozen=True)
class Spread:
    """Median and 20/80 quantiles of a sample."""

    median: float
    q20: float
    q80: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Spread":
        ordered = sorted(samples)
        return cls(statistics.median(ordered), _quantile(ordered, 0.2), _quantile(ordered, 0.8))


def _quantile(ordered: Sequence[float], q: float) -> float:
    position = q * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


@dataclass(frozen=True)
class Effort:
    """How long to measure: at least `rounds` rounds, and more until `seconds` are used up (at most `most`)."""

    rounds: int
    seconds: float
    most: int = 100
    sample: float = 0.02  # seconds; on the CPU shorter calls are repeated within a sample


QUICK, FULL = Effort(3, 0.0, sample=0.002), Effort(7, 10.0)
STEPS = Effort(9, 10.0)  # for calls of seconds, as training steps on a CPU are
SHORT = Effort(20, 1.0)  # for calls of less than a millisecond, on a GPU
WARM_UPS, LONG = 3, 1.0  # calls before the first round; a single one of a contestant that takes LONG seconds


def usual_memory(run: Callable[[], object]) -> Callable[[], object]:
    """The reference has malloc as any program has it, although pplfast's parts set it for the whole process."""

    def wrapped() -> object:
        give_freed_memory_back()
        return run()

    return wrapped


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether float32 convolutions on a GPU may round their operands to 10 bits inside; PyTorch's default is yes.

    Matrix products never do, which is PyTorch's default too. The setting is the process's: it holds for the backward
    pass's threads.
    """
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32
    convolutions.allow_tf32, products.allow_tf32 = allowed, False
    try:
        yield
    finally:
        convolutions.allow_tf32, products.allow_tf32 = before


def under_tf32(run: Callable[[], object], allowed: bool) -> Callable[[], object]:
    def wrapped() -> object:
        with tf32(allowed):
            return run()

    return wrapped


def compute_clock(device: str) -> str:
    """The clock for work that torch does alone: on a CPU with one thread the process's CPU time, else the wall's.

    One thread's work takes the same CPU time whoever else wants the core; that of several does not, since they wait
    for each other.
    """
    return "cpu time" if device == "cpu" and torch.get_num_threads() == 1 else "wall"


def alternate(
    contestants: Mapping[str, Callable[[], object]],
    device: str,
    effort: Effort,
    clock: str = "wall",
    warm: bool = False,
) -> dict[str, list[float]]:
    """Seconds per call of each contestant, one sample per round. Each is called before, to warm up, unless `warm` says
    that this has been done: for calls of many seconds.

    On a GPU the caches are flushed before each call and the time is that between two events of the stream.
    `clock`: "wall" or "cpu time". Garbage is collected once before and then left alone: a collection takes 0.1 to
    0.2 s with torch loaded, longer than most of what is timed.
    """
    gc.collect()
    collects = gc.isenabled()
    gc.disable()
    try:
        return _rounds(contestants, device, effort, clock, warm)
    finally:
        if collects:
            gc.enable()


def _rounds(
    contestants: Mapping[str, Callable[[], object]], device: str, effort: Effort, clock: str, warm: bool
) -> dict[str, list[float]]:
    now = time.perf_counter if clock == "wall" else time.process_time
    repeats = {}
    for name, run in contestants.items():
        if warm:
            repeats[name] = 1
            continue
        first = _time(run, device, 1, now)
        for _ in range(WARM_UPS - 1 if first < LONG else 0):
            first = _time(run, device, 1, now)
        repeats[name] = 1 if device == "cuda" else max(1, min(200, int(effort.sample / max(first, 1e-7))))
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    begin = time.perf_counter()
    for number in range(effort.most):
        if number >= effort.rounds and time.perf_counter() - begin > effort.seconds:
            break
        for name in names if number % 2 == 0 else reversed(names):  # nobody always runs on a warmed-up chip
            samples[name].append(_time(contestants[name], device, repeats[name], now))
    return samples


_flush_buffer: list[torch.Tensor] = []


def device_seconds(run: Callable[[], object]) -> float:
    """What one call takes between two events of the GPU's stream, its caches flushed before.

    The GPU is kept busy for a moment first: it would wait for the host inside a call of less than a millisecond, which
    within a training step it does not.
    """
    if not _flush_buffer:
        _flush_buffer.append(torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda"))
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    _flush_buffer[0].zero_()
    torch.cuda._sleep(AHEAD)
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize()
    milliseconds: float = begin.elapsed_time(end)
    return milliseconds / 1e3


def _time(run: Callable[[], object], device: str, repeats: int, now: Callable[[], float]) -> float:
    if device == "cuda":
        return device_seconds(run)
    start = now()
    for _ in range(repeats):
        run()
    return (now() - start) / repeats


def ratios(slower: Sequence[float], faster: Sequence[float]) -> Spread:
    """How many times as long `slower` takes, round by round."""
    return Spread.of([a / b for a, b in zip(slower, faster, strict=True)])


def difference(result: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest absolute difference relative to the largest expected value; infinite where shapes or NaNs differ."""
    if result.shape != expected.shape or not torch.isfinite(result).all():
        return float("inf")
    result, expected = result.detach().double(), expected.detach().to(result.device).double()
    return float((result - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
