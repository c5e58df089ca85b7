"""What rank 0 of a run says while it trains: to people by a progress bar or lines, to programs by loggers."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console

from pplfast.cluster.ranks import Ranks
from pplfast.errors import UserError
from pplfast.recipe import OptimConfig
from pplfast.train.display import Shown, make_display
from pplfast.train.loggers import JsonLines, Logger, open_loggers
from pplfast.train.meter import Rates
from pplfast.train.plan import StagePlan
from pplfast.train.run_info import RunInfo
from pplfast.train.task import Task


@dataclass(frozen=True)
class Interval:
    """Optimizer steps that are done."""

    stage: int  # from 0
    stages: int  # how many there are
    plan: StagePlan
    step: int  # the last one, over all stages
    epoch: float
    loss: float  # mean of the interval
    lr: float  # the backbone's, in the last step
    rates: Rates

    def values(self) -> dict[str, Any]:
        """One line of log.jsonl, without `time` (Unix seconds); None for what is not known or not finite."""
        rates = self.rates
        values = {
            "stage": self.stage + 1,
            "position": list(self.plan.names),
            "grid": list(self.plan.grids),
            "step": self.step,
            "epoch": round(self.epoch, 4),
            "loss": self.loss,
            "lr": self.lr,
            "images_per_s": round(rates.images_per_s, 2),
            "tflops": None if rates.tflops is None else float(f"{rates.tflops:.4g}"),
            "mfu": None if rates.mfu is None else round(rates.mfu, 4),
            "memory_peak_gib": round(rates.memory_peak_gib, 3),
        }
        return {key: None if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in values.items()}  # fmt: skip


class TrainLog:
    """log.jsonl, which the report is made from, is written always; `loggers` are names, those of `check_loggers`.
    total: steps of the whole run."""

    def __init__(self, run: RunInfo, total: int, loggers: tuple[str, ...], console: Console | None = None) -> None:
        self._loggers: dict[str, Logger] = {"jsonl": JsonLines(run), **open_loggers(loggers, run)}
        self._display = make_display(console or Console(file=sys.stderr), run.step, total)

    def write(self, interval: Interval) -> None:
        values = interval.values()
        for name, logger in list(self._loggers.items()):
            try:
                logger.log(interval.step, values)
            except UserError:
                raise
            except Exception as error:  # a server that does not answer must not cost the hours trained so far
                del self._loggers[name]
                self.say(f"logger {name}: {error!r}; it gets nothing from step {interval.step} on")
        stage = f"stage {interval.stage + 1}/{interval.stages} ({interval.plan})"
        self._display.show(Shown(interval.step, stage, interval.loss, interval.rates))

    def say(self, text: str) -> None:
        self._display.say(text)

    def close(self) -> None:
        self._display.close()
        for name, logger in self._loggers.items():
            try:
                logger.close()
            except UserError:
                raise
            except Exception as error:
                self.say(f"logger {name}: {error!r} at its end")


def opening_lines(
    task: Task[Any],
    optim: OptimConfig,
    ranks: Ranks,
    stages: Sequence[StagePlan],
    steps: Sequence[int],
    compiled: str,
) -> list[str]:
    """What is about to be trained, and on what. optim: its precision decided. steps: of each stage."""
    plan = ", ".join(f"{stage} for {count} steps" for stage, count in zip(stages, steps, strict=True))
    dataset = task.dataset
    exact = " and float32 without TF32" if ranks.device.type == "cuda" else ""
    by_compiler = f", compiled ({compiled})" if compiled else ""
    return [
        f"{task.title}, {len(dataset)} images of {len(dataset.classes)} classes: {plan}",
        f"{ranks.world} rank{'s' if ranks.world > 1 else ''} on {ranks.device.type}, {optim.precision}{exact}, "
        f"batch {optim.batch}, ZeRO {optim.zero}, {torch.get_num_threads()} threads{by_compiler}",
    ]
