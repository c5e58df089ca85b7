"""One rank's part in a job, from the plan to the outcome."""

import hashlib
import os
import sys
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pplfast.arrays import Int64Array
from pplfast.cluster.agreement import CODE, DATA, OPTIONS, agree, code_versions
from pplfast.cluster.meeting import local_world, world_size
from pplfast.cluster.ranks import Ranks, gather, on_all, on_main, start_ranks, stop_ranks, together
from pplfast.data.dataset import Dataset
from pplfast.errors import UserError
from pplfast.files import StrPath
from pplfast.jobs import status as state
from pplfast.jobs.file_outputs import FileOutputs
from pplfast.jobs.job import Job
from pplfast.jobs.memory import Room, budget_bytes, split_budget
from pplfast.jobs.meter import Meter
from pplfast.jobs.options import JobOptions, Outcome
from pplfast.jobs.outputs import Outputs
from pplfast.jobs.pipeline import Ends, Pipeline
from pplfast.jobs.shard_outputs import ShardOutputs
from pplfast.jobs.stopping import Stopping
from pplfast.jobs.workers import Workers
from pplfast.pool import default_jobs
from pplfast.precision import exact_float32
from pplfast.storage import StorageError, is_remote


@dataclass(frozen=True)
class Part:
    """What a rank knows once all have planned. mine: positions in the data set. pending, done, bad: how many images, of
    all ranks."""

    settings: dict[str, Any]
    token: str  # of this job, to tell its heartbeats from an earlier one's
    mine: Int64Array
    pending: int
    done: int
    bad: int


def run_job(job: Job, out: StrPath, options: JobOptions) -> Outcome:
    """This rank's part in the job on all images that have no output yet, alone or under a launcher.

    out: a folder, or with `options.shards` also a URL. On rank 0 it returns when all ranks are done. Where the ranks
    had joined before, as in a chain of several steps, they stay together, and all return its outcome. Raises UserError
    for values and data that do not fit, a folder of other settings, a full disk, a store that cannot be written to, and
    where no image at all could be used. A signal ends it in order: see the outcome.
    """
    options.check()
    together_before = dist.is_initialized()
    ranks = start_ranks(options.local_rank)
    budget = budget_bytes(options.memory, ranks.local_world)
    network, room = split_budget(budget, ranks.device)
    exact_float32()
    meter = Meter({})
    with ExitStack() as held:
        try:
            outputs = _outputs(job, out, options, ranks.rank, meter)
            part = _plan(job, outputs, options, ranks, network, held)
        finally:
            # From here on the ranks need nothing of each other but the file system: a killed one holds nobody up.
            if not together_before:
                stop_ranks()

        def work() -> dict[str, Any]:
            return asdict(_work(job, outputs, options, ranks, part, meter, network, Room(room)))

        outcome = Outcome(**(on_all(ranks, work) if together_before else work()))
    if outcome.bad_count and not outcome.written and not outcome.skipped and not outcome.signal:
        first = "" if not outcome.bad else f" (first: {outcome.bad[0][0]}: {outcome.bad[0][1]})"
        raise UserError(f"{outputs.folder}: all {outcome.bad_count} images failed{first}")
    return outcome


def _outputs(job: Job, out: StrPath, options: JobOptions, rank: int, meter: Meter) -> Outputs:
    if options.shards:
        return ShardOutputs(job, os.fspath(out), rank, meter)
    if is_remote(os.fspath(out)):
        raise UserError(f"{out}: files of single images are written to a folder alone; give --out a folder")
    return FileOutputs(job, Path(out))


def _plan(job: Job, outputs: Outputs, options: JobOptions, ranks: Ranks, network: int, held: ExitStack) -> Part:
    """held: what rank 0 holds until the job is over."""
    rank, world = ranks.rank, ranks.world
    if world > 1:
        agree(ranks, {CODE: code_versions(), DATA: _digest(job.dataset), OPTIONS: outputs.wanted})

    def begin() -> tuple[dict[str, Any], str, Any]:
        settings, found = outputs.begin(job.choices(ranks.device, network), world, held)
        return settings, os.urandom(8).hex(), found

    settings, token, found = on_main(ranks, begin)
    left = gather(ranks, together(ranks, lambda: outputs.left(found, rank, world, options.verify)))
    pending, count, done, bad = on_main(ranks, lambda: outputs.plan(left))
    mine = together(ranks, lambda: outputs.open(pending, rank, world))
    return Part(settings, token, mine, count, done, bad)


def _digest(dataset: Dataset) -> dict[str, Any]:
    """Rank 0 shares out the images by their places in the list."""
    digest = hashlib.sha256(dataset.encoded_ids)
    if dataset.labels is not None:
        digest.update(dataset.labels.tobytes())
    return {"the number of images": len(dataset), "the digest of ids and labels": digest.hexdigest()[:16]}


def _work(
    job: Job,
    outputs: Outputs,
    options: JobOptions,
    ranks: Ranks,
    part: Part,
    meter: Meter,
    network: int,
    room: Room,
) -> Outcome:
    cores = max(1, default_jobs() // max(1, ranks.local_world))
    jobs, threads = options.jobs or cores, options.threads or max(2, cores // 4)
    finish = job.finish(part.settings)
    meter.begin({"crf": jobs if finish.in_processes else 1, "encode": jobs})
    folder = outputs.folder
    heartbeat = state.Heartbeat(folder, part.token, ranks.rank, len(part.mine), meter)
    display = None
    if ranks.main:
        earlier = part.done + part.bad
        display = state.Display(job.title, folder, part.token, ranks.world, part.pending, earlier, options.prometheus)

    def abandon() -> None:
        if ranks.main:
            _say_how_to_continue(job, meter.done, len(part.mine), "gave up what was in flight")

    def do() -> None:
        # First: its processes start while the network is made ready. One that is alone needs no process of its own.
        in_processes = finish.in_processes and (jobs > 1 or job.decodes)
        workers = Workers(outputs.worker_folder, finish, jobs, in_processes)
        job.prepare(part.settings, ranks.device, network, threads)
        pipeline = Pipeline(job, Ends(workers, outputs), options, room, meter, stopping, ranks.rank)
        pipeline.run(part.mine, threads, ranks.device)

    stopping = Stopping(ranks.main, abandon)
    failure: BaseException | None = None
    unfinished: list[int] = []
    with stopping:
        try:
            if len(part.mine):
                do()
        except BaseException as error:
            failure = error
        try:
            heartbeat.end(state.FAILED if failure else state.STOPPED if stopping.signal else state.DONE)
        except UserError as error:
            failure = failure or error  # a disk that is full stays full: the first message is the one to show
        except StorageError as error:
            failure = failure or UserError(f"{folder}: {error}")
        outputs.release()
        if display is not None and failure is None:
            unfinished = outputs.wait(display.statuses, ranks.world, stopping.stopped)
    if display is not None:
        statuses = display.statuses()
        display.end()
    if failure is not None:
        raise failure
    if display is None:
        return Outcome(meter.done, 0, [], meter.seconds, meter.utilisation(), stopping.signal, retries=meter.retries)
    total = state.Total.of(statuses)
    first: list[tuple[str, str]] = []
    bad = part.bad + total.bad
    if unfinished:
        what = "stopped" if stopping.signal else f"ranks {unfinished} ended early"
        _say_how_to_continue(job, total.done, part.pending, what)
        bad = 0  # of a part of the list
    else:
        bad, first = outputs.conclude(bad)
    return Outcome(
        total.done,
        part.done,
        first,
        meter.seconds,
        total.busy,
        stopping.signal,
        unfinished,
        bad,
        total.retries,
        outputs.manifest,
    )


def _say_how_to_continue(job: Job, done: int, total: int, what: str) -> None:
    with suppress(OSError):  # whoever read it may have ended; the exit code says it too
        print(
            f"{job.command}: {what}: {done} of {total} images done; run the same command again to continue",
            file=sys.stderr,
            flush=True,
        )


def share_threads() -> None:
    """Ranks on the CPU divide its cores among them; torch would give each of them all."""
    if not torch.cuda.is_available() and "OMP_NUM_THREADS" not in os.environ:
        here = local_world(os.environ, world_size(os.environ))
        torch.set_num_threads(max(1, default_jobs() // here))
