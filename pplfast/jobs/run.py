"""One rank's part in a job, from the plan to the outcome."""

import hashlib
import os
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from pplfast.arrays import Int64Array
from pplfast.cluster.agreement import CODE, DATA, OPTIONS, agree, code_versions
from pplfast.cluster.meeting import local_world, world_size
from pplfast.cluster.ranks import Ranks, gather, on_all, on_main, start_ranks, stop_ranks, together
from pplfast.data.dataset import Dataset
from pplfast.errors import UserError
from pplfast.jobs import status as state
from pplfast.jobs.folder import claim_folder, decide
from pplfast.jobs.job import Job
from pplfast.jobs.manifest import ManifestWriter, merge, rank_file, read_manifest
from pplfast.jobs.memory import Room, budget_bytes, split_budget
from pplfast.jobs.meter import Meter
from pplfast.jobs.options import JobOptions, Outcome
from pplfast.jobs.pipeline import Ends, Pipeline
from pplfast.jobs.plan import PATIENCE, keep, share, tidy, to_do
from pplfast.jobs.record import BAD
from pplfast.jobs.shards import ShardWriter
from pplfast.jobs.stopping import Stopping
from pplfast.jobs.workers import Workers
from pplfast.lock import hold_folder, is_locked, require_locks
from pplfast.pool import default_jobs
from pplfast.precision import exact_float32


@dataclass(frozen=True)
class Part:
    """What a rank knows once all have planned. mine: positions in the data set; pending: of all ranks."""

    settings: dict[str, Any]
    token: str  # of this job, to tell its heartbeats from an earlier one's
    mine: Int64Array
    pending: int
    done: int
    bad: int


def run_job(job: Job, out: Path, options: JobOptions) -> Outcome:
    """This rank's part in the job on all images that have no output yet, alone or under a launcher.

    On rank 0 it returns when all ranks are done. Where the ranks had joined before, as in a chain of several steps,
    they stay together, and all return its outcome. Raises UserError for values and data that do not fit, a folder of
    other settings, a full disk, and where no image at all could be used. A signal ends it in order: see the outcome.
    """
    options.check()
    together_before = dist.is_initialized()
    ranks = start_ranks(options.local_rank)
    budget = budget_bytes(options.memory, ranks.local_world)
    network, room = split_budget(budget, ranks.device)
    exact_float32()
    with ExitStack() as held:
        try:
            part, manifest = _plan(job, out, options, ranks, network, held)
        finally:
            # From here on the ranks need nothing of each other but the file system: a killed one holds nobody up.
            if not together_before:
                stop_ranks()

        def work() -> dict[str, Any]:
            return asdict(_work(job, out, options, ranks, part, manifest, network, Room(room)))

        outcome = Outcome(**(on_all(ranks, work) if together_before else work()))
    outcome.bad = [(image_id, reason) for image_id, reason in outcome.bad]  # JSON has no tuples
    if outcome.bad and not outcome.written and not outcome.skipped and not outcome.signal:
        name, reason = outcome.bad[0]
        raise UserError(f"{out}: all {len(outcome.bad)} images failed (first: {name}: {reason})")
    return outcome


def _plan(
    job: Job, out: Path, options: JobOptions, ranks: Ranks, network: int, held: ExitStack
) -> tuple[Part, ManifestWriter]:
    """held: what rank 0 holds until the job is over."""
    dataset = job.dataset
    if ranks.world > 1:
        agree(ranks, {CODE: code_versions(), DATA: _digest(dataset), OPTIONS: job.wanted})

    def begin() -> tuple[dict[str, Any], str]:
        held.enter_context(hold_folder(out, PATIENCE))
        if ranks.world > 1:
            require_locks(out)
        settings = decide(out, job.wanted, job.choices(ranks.device, network))
        names = (f"{name}{suffix}" for name in dataset.ids for suffix in job.suffixes)
        claim_folder(out, settings, (out / name for name in names))
        tidy(out, dataset.ids)
        return settings, os.urandom(8).hex()

    settings, token = on_main(ranks, begin)
    positions = np.arange(len(dataset), dtype=np.int64)
    own = together(
        ranks, lambda: to_do(job, out, share(positions, ranks.rank, ranks.world), read_manifest(out), options.verify)
    )
    left = np.sort(np.concatenate(gather(ranks, own)))
    pending, done, bad = on_main(ranks, lambda: keep(job, out, left))
    # All manifests are held locked before anyone goes on, so that a free one means a dead rank from here on.
    manifest = together(ranks, lambda: ManifestWriter(out, ranks.rank))
    return Part(settings, token, share(pending, ranks.rank, ranks.world), len(pending), done, bad), manifest


def _digest(dataset: Dataset) -> dict[str, Any]:
    """Rank 0 shares out the images by their places in the list."""
    digest = hashlib.sha256(dataset.encoded_ids)
    if dataset.labels is not None:
        digest.update(dataset.labels.tobytes())
    return {"the number of images": len(dataset), "the digest of ids and labels": digest.hexdigest()[:16]}


def _work(
    job: Job,
    out: Path,
    options: JobOptions,
    ranks: Ranks,
    part: Part,
    manifest: ManifestWriter,
    network: int,
    room: Room,
) -> Outcome:
    cores = max(1, default_jobs() // max(1, ranks.local_world))
    jobs, threads = options.jobs or cores, options.threads or max(2, cores // 4)
    finish = job.finish(part.settings)
    meter = Meter({"crf": jobs if finish.in_processes else 1, "encode": jobs})
    heartbeat = state.Heartbeat(out, part.token, ranks.rank, len(part.mine), meter)
    display = None
    if ranks.main:
        earlier = part.done + part.bad
        display = state.Display(job.title, out, part.token, ranks.world, part.pending, earlier, options.prometheus)

    def abandon() -> None:
        if ranks.main:
            _say_how_to_continue(job, meter.done, len(part.mine), "gave up what was in flight")

    def pipeline() -> None:
        shards = ShardWriter(out, ranks.rank, job.shards) if job.shards else None
        # First: its processes start while the network is made ready. One that is alone needs no process of its own.
        workers = Workers(out, finish, jobs, finish.in_processes and (jobs > 1 or job.decodes))
        job.prepare(part.settings, ranks.device, network, threads)
        Pipeline(job, Ends(workers, manifest, shards), options, room, meter, stopping, ranks.rank).run(
            part.mine.tolist(), threads, ranks.device
        )

    stopping = Stopping(ranks.main, abandon)
    failure: BaseException | None = None
    unfinished: list[int] = []
    with stopping:
        try:
            if len(part.mine):
                pipeline()
        except BaseException as error:
            failure = error
        try:
            heartbeat.end(state.FAILED if failure else state.STOPPED if stopping.signal else state.DONE)
        except UserError as error:
            failure = failure or error  # a disk that is full stays full: the first message is the one to show
        manifest.close()
        if display is not None and failure is None:
            unfinished = state.wait_for_ranks(
                display.statuses, ranks.world, lambda rank: is_locked(rank_file(out, rank)), stopping.stopped
            )
    if display is not None:
        statuses = display.statuses()
        display.end()
    if failure is not None:
        raise failure
    if display is None:
        return Outcome(meter.done, 0, [], meter.seconds, meter.utilisation(), stopping.signal)
    total = state.Total.of(statuses)
    outcome = Outcome(total.done, part.done, [], meter.seconds, total.busy, stopping.signal, unfinished)
    if unfinished:
        what = "stopped" if stopping.signal else f"ranks {unfinished} ended early"
        _say_how_to_continue(job, total.done, part.pending, what)
    else:
        outcome.bad = _merge_in_order(job.dataset, out)
    return outcome


def _merge_in_order(dataset: Dataset, out: Path) -> list[tuple[str, str]]:
    """One line per image in the list's order (then those of other lists); the bad ones of this list."""
    records = read_manifest(out)
    order = {image_id: position for position, image_id in enumerate(dataset.ids)}
    state.remove_statuses(out)
    merge(out, sorted(records.values(), key=lambda record: order.get(record["id"], len(order))))
    found = ((image_id, records.get(image_id, {})) for image_id in dataset.ids)
    return [(image_id, record["reason"]) for image_id, record in found if record.get("state") == BAD]


def _say_how_to_continue(job: Job, done: int, total: int, what: str) -> None:
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
