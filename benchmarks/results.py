"""The results of one run of the benchmarks: checks, times, ratios, what was skipped; written as JSON row by row."""

import datetime
import functools
import importlib.metadata
import os
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from pplfast.benchmarks import models
from pplfast.benchmarks.harness import Spread, ratios
from pplfast.errors import UserError
from pplfast.files import StrPath, write_json

SCHEMA = 1
PACKAGES = (
    "torch",
    "triton",
    "deepspeed",
    "nvidia-dali-cuda130",
    "nvidia-dali-cuda120",
    "pydensecrf2",
    "numpy",
    "pillow",
    "onnx",
    "onnxruntime",
)
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


@dataclass(frozen=True)
class Ratio:
    """A ratio that the benchmark is about: `numerator`'s time over `denominator`'s, and what it should be."""

    numerator: str
    denominator: str
    goal: float | None = None
    higher_is_better: bool = True


@dataclass
class Report:
    """Collects the rows of a run. A case with a failed check gets no times: a red gate has no speed-up.

    With `out`, everything recorded so far is in that file, whole, before it is printed: a run that is cut off keeps
    what it has, and says `"complete": false`.
    """

    device: str
    quick: bool
    compile: bool = True  # whether the tuned reference goes through torch.compile
    out: Path | None = None
    complete: bool = False
    ceilings: dict[str, float] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    ratios: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)

    def check(self, bench: str, case: str, what: str, value: float, limit: float) -> bool:
        """Record that `value` must not exceed `limit` and print it; false when it does."""
        passed = value <= limit  # false for NaN
        self.checks.append(
            {"bench": bench, "case": case, "what": what, "value": value, "limit": limit, "passed": passed}
        )
        self._save()
        print(f"  {'ok' if passed else 'FAILED':6} {case}: {what}: {value:.2e} (at most {limit:g})", flush=True)
        return passed

    def skip(self, bench: str, what: str, why: str) -> None:
        self.skipped.append({"bench": bench, "what": what, "why": why})
        self._save()
        print(f"  skipped {what}: {why}", flush=True)

    def can_tune(self, bench: str) -> bool:
        """Whether the tuned reference takes part; notes once per benchmark what it lacks."""
        missing = models.compiler_missing() if self.compile else None
        if missing or not self.compile:
            what = "torch.compile of the tuned reference"
            self._skip_once(bench, what, missing or "--no-compile: it is measured with bf16 and channels_last alone")
        return not missing

    def precisions(self, bench: str) -> tuple[str, ...]:
        """Those to measure: "bf16" only where the device computes it; notes once per benchmark that it does not."""
        if models.has_bf16(self.device):
            return "fp32", "bf16"
        self._skip_once(bench, "bf16, the tuned reference included", "this CPU has neither AVX512-BF16 nor AMX")
        return ("fp32",)

    def _skip_once(self, bench: str, what: str, why: str) -> None:
        if not any((row["bench"], row["what"]) == (bench, what) for row in self.skipped):
            self.skip(bench, what, why)

    def red(self, bench: str, case: str) -> bool:
        return any(not c["passed"] for c in self.checks if (c["bench"], c["case"]) == (bench, case))

    def add(
        self,
        bench: str,
        case: str,
        samples: dict[str, list[float]],
        pairs: list[Ratio],
        images: int = 0,
        floor: float | dict[str, float] = 0.0,
        extra: dict[str, dict[str, Any]] | None = None,
        clock: str = "wall",
        again: tuple[str, ...] = (),
    ) -> None:
        """Times (seconds per call) of a case's contestants, and the ratios asked for of those that took part.

        `images` per call gives images/s; `floor` is the shortest time that the measured ceilings allow, for all or
        by contestant; `extra` adds figures to a contestant's row; `clock` is the one that alternate() took.
        `again`: contestants whose row is there from an earlier call: they ran once more beside a later one, for the
        ratio to it.
        """
        if self.red(bench, case):
            self.skip(bench, case, "its check failed, so it gets no times")
            return
        first_row, first_ratio = len(self.rows), len(self.ratios)
        for name, times in samples.items():
            if name in again:
                continue
            spread = Spread.of(times)
            row: dict[str, Any] = {
                "bench": bench,
                "case": case,
                "contestant": name,
                "seconds": asdict(spread),
                "rounds": len(times),
                "clock": clock,
            }
            if images:
                row["images_per_second"] = images / spread.median
            shortest = floor.get(name, 0.0) if isinstance(floor, dict) else floor
            if shortest:
                row |= {"floor_seconds": shortest, "share_of_ceiling": shortest / spread.median}
            self.rows.append(row | (extra or {}).get(name, {}))
        for pair in pairs:
            if pair.numerator in samples and pair.denominator in samples:
                spread = ratios(samples[pair.numerator], samples[pair.denominator])
                self.ratios.append(dict(bench=bench, case=case, **asdict(pair), ratio=asdict(spread)))
        self._save()
        print(f"  {bench} {case}")
        # Ratios first; times of a CPU say little about another one.
        for row in self.ratios[first_ratio:]:
            print(f"    {row['numerator']}/{row['denominator']}: {format_ratio(row)}")
        for row in self.rows[first_row:]:
            print(f"    {row['contestant']:<14} {format_row(row)}", flush=True)

    def finish(self) -> None:
        """Nothing is missing: the file says so from now on."""
        self.complete = True
        self._save()

    def _save(self) -> None:
        if self.out:
            write_json(self.out, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "commit": commit(),
            "complete": self.complete,
            "device": self.device,
            "quick": self.quick,
            "compile": self.compile,
            "hardware": hardware(),
            "versions": versions(),
            "load_average": list(os.getloadavg()),
            "ceilings": self.ceilings,
            "checks": self.checks,
            "rows": self.rows,
            "ratios": self.ratios,
            "skipped": self.skipped,
        }


def format_ratio(row: dict[str, Any]) -> str:
    ratio, goal = row["ratio"], row["goal"]
    text = f"{ratio['median']:.2f}x ({ratio['q20']:.2f} to {ratio['q80']:.2f})"
    if goal is None:
        return text
    return f"{text}, goal {'at least' if row['higher_is_better'] else 'at most'} {goal:g}x"


def format_row(row: dict[str, Any]) -> str:
    seconds = row["seconds"]
    median, low, high = (format_seconds(seconds[key]) for key in ("median", "q20", "q80"))
    text = f"{median} ({low} to {high})"
    if "images_per_second" in row:
        text += f", {row['images_per_second']:.1f} images/s"
    if "operations_of_plain" in row:
        text += f", {row['operations_of_plain']:.2f}x the plain step's dense operations"
    if "bottleneck" in row:
        text += f", bottleneck: {row['bottleneck']}"
    if "share_of_ceiling" in row:
        text += f", {format_share(row)} of the ceiling"
    return text


def format_share(row: dict[str, Any]) -> str:
    goal = row.get("goal_share")
    return f"{row['share_of_ceiling']:.0%}" + ("" if goal is None else f" (goal {goal:.0%})")


def format_seconds(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def check_schema(value: Any, path: str) -> dict[str, Any]:
    """The value of a results file, if it is one."""
    if not isinstance(value, dict) or value.get("schema") != SCHEMA or "ratios" not in value:
        raise UserError(f"{path}: not a results file of `pplfast bench --out` (schema {SCHEMA})")
    return value


def write_figures(out: StrPath, **figures: Any) -> None:
    """Figures of a measurement whose file is for readers alone: with when, of which code and where they are from."""
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    head = {"date": date, "commit": commit(), "hardware": hardware(), "versions": versions()}
    write_json(out, {**head, **figures})


def commit() -> str:
    """The checkout's commit, with "-dirty" where files differ from it; "unknown" outside a checkout.

    PPLFAST_COMMIT overrides it, for copies of a checkout without its history.
    """
    return os.environ.get("PPLFAST_COMMIT") or _checkout()


@functools.cache  # every row writes the file anew
def _checkout() -> str:
    try:
        command = ["git", "describe", "--always", "--exclude=*", "--dirty", "--abbrev=12"]
        return subprocess.run(
            command, check=True, text=True, capture_output=True, cwd=Path(__file__).resolve().parent
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def hardware() -> dict[str, Any]:
    info: dict[str, Any] = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in lines.items()}
        info["cpu"] = fields.get("model name", info["cpu"])
        info["cpu_flags"] = [flag for flag in CPU_FLAGS if flag in fields.get("flags", "").split()]
    except OSError:
        pass  # not Linux: the processor's name is enough
    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        info |= {
            "gpu": device.name,
            "gpu_memory_gib": round(device.total_memory / 2**30),
            "gpu_multiprocessors": device.multi_processor_count,
        }
    return info


@functools.cache
def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found
