"""A training run from task to finished network, resumable at every step; the same loop for every kind of network."""

import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pplfast import cpu
from pplfast.cluster.meeting import EXIT_LOST
from pplfast.cluster.ranks import EveryRankError, Ranks, gather, on_main, start_ranks, together
from pplfast.cluster.watchdog import Watchdog
from pplfast.data.loader import Batch, TrainLoader
from pplfast.errors import Terminated, UserError
from pplfast.files import StrPath, check_inside, is_output, read_json
from pplfast.lock import hold_folder
from pplfast.models.backbone import Network
from pplfast.precision import exact_float32, fastest_convolutions, resolve_precision
from pplfast.recipe import PRECISIONS, OptimConfig
from pplfast.train import engine as engines
from pplfast.train.agreement import agreed_record
from pplfast.train.checkpoint import Checkpoint, CheckpointFolder, Progress
from pplfast.train.consistency import check_ranks, frozen_checksums
from pplfast.train.identity import RECORD, claim_folder
from pplfast.train.log import Interval, TrainLog, opening_lines
from pplfast.train.loggers import DEFAULT, check_loggers
from pplfast.train.meter import Meter
from pplfast.train.plan import StagePlan
from pplfast.train.profile import FOLDER as PROFILE
from pplfast.train.profile import StepProfiler
from pplfast.train.run_info import RunInfo
from pplfast.train.schedules import learning_rates, steps_of_stage, steps_per_epoch
from pplfast.train.state import collect_state, restore_optimizer, restore_weights
from pplfast.train.step import LossWatch, seed_step, step_batches, train_step
from pplfast.train.task import Task

TELLING = 0.5  # seconds between the first and the last rank that a signal reaches


@dataclass(frozen=True)
class TrainOptions:
    """How to run, as opposed to what: nothing here changes the result (but the order of float additions)."""

    threads: int = 0  # of torch and of DALI, per rank; 0: the cores divided by the ranks of this machine
    cache_mb: float = 4096  # of decoded images, per rank
    checkpoint_seconds: float = 300.0  # between two checkpoints; one ends each stage as well
    checkpoint_every: int | None = None  # optimizer steps between two, at most
    keep: int = 3  # of the latest checkpoints; those that end a stage stay as well
    log_every: int = 10  # optimizer steps
    loggers: tuple[str, ...] = DEFAULT  # log.jsonl is written without being named
    profile: int = 0  # optimizer steps to trace
    compile: str = ""  # the network by torch.compile, in this mode of it; "": not at all
    lost_after: float = 60.0  # seconds within which the run has ended everywhere once a rank gives no sign of life
    stuck_after: float = 900.0  # the same once a rank makes no progress
    deepspeed: dict[str, Any] = field(default_factory=dict)  # more settings of its engine
    local_rank: int | None = None  # from a launcher's command line


def use_threads(options: TrainOptions, local_ranks: int = 1) -> int:
    """Give torch the threads of one of this machine's ranks; returns how many. CAMs differ with them by rounding."""
    threads = options.threads or max(1, len(os.sched_getaffinity(0)) // local_ranks)
    torch.set_num_threads(threads)
    return threads


@dataclass(frozen=True)
class TrainResult:
    """A finished training run; its network is in `folder`."""

    folder: Path
    steps: int
    seconds: float  # over all sessions
    images_per_s: float  # of the session that finished, or of the one before where it had nothing left to train
    loss: float  # mean of the last interval
    already_finished: bool


@dataclass
class _Run:
    task: Task[Any]
    folder: Path
    options: TrainOptions
    ranks: Ranks
    optim: OptimConfig  # the task's, its precision decided
    share: engines.Share  # of its batch
    model: Network
    stages: tuple[StagePlan, ...]
    loader: TrainLoader
    checkpoints: CheckpointFolder
    watch: LossWatch
    watchdog: Watchdog
    meter: Meter = field(init=False)  # once the precision is decided
    log: TrainLog | None = None  # of rank 0

    def say(self, text: str) -> None:
        if self.log:
            self.log.say(text)

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(self.loader.batches_per_epoch, self.share.parts)

    @property
    def stage_steps(self) -> list[int]:
        """Optimizer steps of each stage."""
        return [steps_of_stage(stage.lengths, self.steps_per_epoch) for stage in self.stages]


def run_task(
    task: Task[Any], out: StrPath, resume: bool = False, options: TrainOptions = TrainOptions()
) -> TrainResult:
    """Train what `task` describes into the folder `out`: its network, logs and checkpoints.

    Under a launcher every rank calls it alike. A folder whose run is finished is left as it is.
    Raises UserError for settings or data that cannot be, an `out` that belongs to another run or that another process
    writes to, an unfinished one without `resume`, a full disk, and a loss that is not finite.
    """
    ranks = start_ranks(options.local_rank, options.stuck_after)
    with (
        ExitStack() as held,
        Watchdog(ranks, options.lost_after, options.stuck_after) as watchdog,
        fastest_convolutions(),
    ):
        # A launcher that starts again may not have ended the rank 0 of before yet, on a host that it has lost.
        wait = options.lost_after if resume and ranks.world > 1 else 0.0
        on_main(ranks, lambda: held.enter_context(hold_folder(out, wait)))
        return _run_task(task, Path(out), resume, options, ranks, watchdog)


def _run_task(
    task: Task[Any], out: Path, resume: bool, options: TrainOptions, ranks: Ranks, watchdog: Watchdog
) -> TrainResult:
    record = agreed_record(task, options, ranks)
    run = together(ranks, lambda: _prepare(task, out, options, ranks, watchdog))
    state, precision = on_main(ranks, lambda: _claim(run, record, resume))
    run.optim, run.meter = dataclasses.replace(task.optim, precision=precision), Meter(ranks, precision)
    engines.check_precision(run.optim, ranks.device)
    if state == "finished":
        return TrainResult(run.folder, already_finished=True, **task.read_training(run.folder))
    checkpoint, notes = run.checkpoints.latest() if state == "resume" else (None, [])
    progress = checkpoint.progress if checkpoint else Progress()
    run.watch.sum, run.watch.count = progress.open_loss, progress.open_steps
    run.log = together(ranks, lambda: _open_log(run, progress) if ranks.main else None)
    if run.log:
        for line in (*opening_lines(task, run.optim, ranks, run.stages, run.stage_steps, options.compile), *notes):
            run.say(line)
        if checkpoint:
            run.say(f"continuing after step {checkpoint.progress.steps} from {checkpoint.path}")
    try:
        with StepProfiler(run.folder / PROFILE, options.profile, ranks, run.say) as profiler:
            progress = _train_stages(run, checkpoint, progress, profiler)
        watchdog.mark("waiting for the last checkpoint to be on the disk")
        run.checkpoints.finish()
        return _save_result(run, progress)
    finally:
        run.checkpoints.wait()
        if run.log:  # after the network is saved: a server that does not answer may hold up a logger's end
            run.log.close()


def _prepare(task: Task[Any], folder: Path, options: TrainOptions, ranks: Ranks, watchdog: Watchdog) -> _Run:
    """Everything that can be wrong with the settings is found here, before anything is written."""
    if ranks.main:
        check_loggers(options.loggers)
    engines.check_precision(task.optim, ranks.device)
    share = engines.share_batch(task.optim, ranks.world)
    engines.check_compile(options.compile, share)
    threads = use_threads(options, ranks.local_world)
    exact_float32()
    torch.manual_seed(task.seed)
    model, stages = task.build()
    if not options.compile:  # a compiler fuses by itself, and cannot see into the C++
        cpu.install(model, ranks.device)
    loader = task.load(
        model,
        batch_size=share.micro_batch,
        rank=ranks.rank,
        world_size=ranks.world,
        seed=task.seed,
        cache_mb=options.cache_mb,
        threads=threads,
        device=ranks.device,
        group=share.group,
        lanes=task.optim.batch,
    )
    checkpoints = CheckpointFolder(folder / "checkpoints", ranks, options.keep)
    watch = LossWatch(task.dataset.ids, ranks, checkpoints)
    return _Run(task, folder, options, ranks, task.optim, share, model, stages, loader, checkpoints, watch, watchdog)


def _claim(run: _Run, record: dict[str, Any], resume: bool) -> tuple[str, str]:
    """What `claim_folder` says, and the precision of the run: "auto" is decided once, when the run begins."""
    precision = resolve_precision(run.optim.precision, run.ranks.device)
    record = record | {"precision": precision, "float32": "ieee"}
    for name in (RECORD, run.task.result_file, Path(run.task.result_file).with_suffix(".safetensors")):
        is_output(run.folder / name)  # not a folder, which would be found when the training is done
    check_inside(run.folder, [run.folder / name / "x" for name in (PROFILE, "wandb")])
    state = claim_folder(run.folder, record, resume, run.task.result_file)
    return state, _recorded_precision(run.folder / RECORD)


def _recorded_precision(path: Path) -> str:
    precision = read_json(path).get("precision")
    known = [name for name in PRECISIONS if name != "auto"]
    if precision not in known:
        raise UserError(f"{path}: its precision is {precision!r}, none of {', '.join(known)}; choose another --out")
    return str(precision)


def _open_log(run: _Run, progress: Progress) -> TrainLog:
    info = RunInfo(run.folder, progress.steps, f"{run.task.title}, {run.folder}", read_json(run.folder / RECORD))
    return TrainLog(info, sum(run.stage_steps), run.options.loggers)


def _train_stages(run: _Run, checkpoint: Checkpoint | None, progress: Progress, profiler: StepProfiler) -> Progress:
    batches = step_batches(run.loader, run.share.parts, progress.steps)
    state = run.checkpoints.read(checkpoint) if checkpoint else None
    if state:
        restore_weights(run.model, state, run.ranks)
    first = progress.stage + 1 if progress.stage_ended else progress.stage
    if run.log:
        _count_operations(run, first)
    for index in range(first, len(run.stages)):
        run.task.begin_stage(run.model, run.stages[index])
        run.model.train()
        engines.compile_network(run.model, run.options.compile)
        run.watchdog.mark(f"stage {index + 1}, starting its engine")
        engine = engines.start_engine(run.model, run.optim, run.ranks, run.options.deepspeed)
        if state and not progress.stage_ended:
            restore_optimizer(engine, state, run.ranks)
        else:
            progress = dataclasses.replace(progress, stage=index, stage_steps=0, stage_ended=False)
        state = None
        frozen = frozen_checksums(run.model)
        try:
            progress = _run_stage(run, engine, batches, progress, frozen, profiler)
        finally:
            engine.destroy()
    run.task.begin_stage(run.model, run.stages[-1])  # as it is saved, also where nothing was left to train
    return progress


def _count_operations(run: _Run, first: int) -> None:
    """Of all stages from `first` on, before an engine or a compiler has changed the network."""
    run.model.to(run.ranks.device)  # as the engine does
    for index in range(first, len(run.stages)):
        run.watchdog.mark(f"stage {index + 1}, counting its operations")
        run.task.begin_stage(run.model, run.stages[index])
        note = run.meter.count(index, run.model.train(), run.loader.side)
        if note:
            run.say(note)
            return


def _run_stage(
    run: _Run,
    engine: Any,
    batches: Iterator[list[Batch]],
    progress: Progress,
    frozen: dict[str, int],
    profiler: StepProfiler,
) -> Progress:
    task, options, stage = run.task, run.options, progress.stage
    steps = run.stage_steps[stage]
    warmup = task.optim.warmup if stage == 0 else 0
    # Python's floats: they end in the checkpoint, which is read back as tensors and plain values only.
    rates = learning_rates(task.optim, run.stages[stage].lr, steps, warmup).tolist()
    start, spent = time.monotonic(), progress.seconds
    run.meter.start(stage)
    while progress.stage_steps < steps:
        at = f"stage {stage + 1} step {progress.stage_steps + 1}"
        run.watchdog.mark(f"{at}, waiting for images")
        step_inputs = next(batches)
        seed_step(task.seed, stage, progress.stage_steps, run.ranks.rank)
        engines.set_learning_rate(engine, rates[progress.stage_steps])
        shared, losses = train_step(
            engine,
            step_inputs,
            task.losses,
            run.share.parts,
            _marker(run, at),
            run.ranks,
            run.checkpoints.wanted(options.checkpoint_seconds) or run.watchdog.stop > 0,
            (task.seed, progress.steps),
        )
        run.watchdog.mark(f"{at}, after it")

        progress = dataclasses.replace(
            progress,
            stage_steps=progress.stage_steps + 1,
            steps=progress.steps + 1,
            stage_ended=progress.stage_steps + 1 == steps,
            seconds=spent + time.monotonic() - start,
        )
        run.watch.add(progress.steps, shared, losses, step_inputs)
        run.meter.add(sum(batch.total for batch in step_inputs))
        profiler.step()
        if progress.stage_ended or progress.stage_steps % options.log_every == 0:
            progress = _log(run, progress, rates[progress.stage_steps - 1])
        if progress.stage_ended or _checkpoint_due(run, progress):
            if progress.stage_ended:
                check_ranks(run.model, frozen, run.ranks, stage + 1)
            run.watch.settle()  # a checkpoint is good only if the loss of its last step was, and what that step made
            run.watch.settle_weights(run.model, progress.steps)
            run.watch.wished = False
            run.watchdog.mark(f"{at}, waiting for the checkpoint before to be on the disk")
            run.checkpoints.finish()  # before the copy: no more than one state in memory
            run.watchdog.mark(f"{at}, copying its checkpoint")
            progress = dataclasses.replace(progress, open_loss=run.watch.sum, open_steps=run.watch.count)
            run.checkpoints.save(collect_state(engine, run.ranks, momentum=not progress.stage_ended), progress)
            _end_if_told(run)
    return progress


def _end_if_told(run: _Run) -> None:
    """After a checkpoint, called by all ranks: raises KeyboardInterrupt, or Terminated, on all where signals have told
    them to end. Where they have told some only, something has happened to these: starting again may help."""
    told = gather(run.ranks, run.watchdog.stop)
    if not any(told):
        return
    if not all(told):  # a launcher tells one after the other, and each notices in a thread of its own
        time.sleep(TELLING)
        told = gather(run.ranks, run.watchdog.stop)
    run.checkpoints.finish()
    run.watchdog.leave_together()
    if all(told):
        raise Terminated if signal.SIGTERM in told else KeyboardInterrupt
    ended = ", ".join(str(rank) for rank, number in enumerate(told) if number)
    if not run.ranks.main:
        raise SystemExit(EXIT_LOST)
    error = EveryRankError(f"rank {ended} was told by a signal to end; this run ends on all hosts; start it again")
    error.exit_code = EXIT_LOST
    raise error


def _marker(run: _Run, at: str) -> Callable[[str], None]:
    return lambda what: run.watchdog.mark(f"{at}, {what}")


def _checkpoint_due(run: _Run, progress: Progress) -> bool:
    """The same on all ranks: steps are counted by each, time by rank 0 alone, which tells the others with a loss."""
    every = run.options.checkpoint_every
    told = run.ranks.world == 1 and run.watchdog.stop > 0  # several agree by the wish
    return told or run.watch.wished or bool(every and progress.stage_steps % every == 0)


def _log(run: _Run, progress: Progress, rate: float) -> Progress:
    """Close an interval of steps."""
    loss, rates = run.watch.interval_mean(), run.meter.interval()
    if run.log:
        epoch, plan = progress.steps / run.steps_per_epoch, run.stages[progress.stage]
        run.log.write(Interval(progress.stage, len(run.stages), plan, progress.steps, epoch, loss, rate, rates))
    return dataclasses.replace(progress, loss=loss, images_per_s=run.meter.images_per_s)


def _save_result(run: _Run, progress: Progress) -> TrainResult:
    training: dict[str, Any] = {
        "steps": progress.steps,
        "seconds": round(progress.seconds, 3),
        "images_per_s": round(progress.images_per_s, 2),
        "loss": progress.loss,
    }
    on_main(run.ranks, lambda: run.task.save(run.model, run.stages[-1], training, run.folder))
    return TrainResult(run.folder, already_finished=False, **training)
