"""A labelling job: its settings, and one rank's part in it from the plan to the exit code."""

import hashlib
import os
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pplfast.arrays import Int64Array
from pplfast.data.dataset import Dataset
from pplfast.errors import UserError, one_line
from pplfast.labels import presets
from pplfast.labels.cam import check_fits, classifier_hash
from pplfast.labels.folder import EXIT_BAD, claim_folder, read_settings
from pplfast.labels.memory import DEFAULT_MEMORY, budget_bytes, most_pixels
from pplfast.labels.pool import default_jobs
from pplfast.labels.stream import status as state
from pplfast.labels.stream.budget import Room, split_budget
from pplfast.labels.stream.manifest import ManifestWriter, merge, rank_file, read_manifest
from pplfast.labels.stream.maps import MapMaker
from pplfast.labels.stream.meter import Meter, bottleneck
from pplfast.labels.stream.pipeline import Pipeline, Stages
from pplfast.labels.stream.plan import PATIENCE, Plan, make_plan
from pplfast.labels.stream.record import BAD
from pplfast.labels.stream.refine import RefineConfig
from pplfast.labels.stream.screen import screen
from pplfast.labels.stream.shards import ShardWriter
from pplfast.labels.stream.stopping import Stopping
from pplfast.labels.stream.workers import Workers
from pplfast.lock import hold_folder, is_locked
from pplfast.patch.classifier import PatchClassifier
from pplfast.precision import exact_float32, resolve_precision
from pplfast.recipe import CamConfig, LabelConfig

if TYPE_CHECKING:
    from pplfast.cluster.agreement import Settings
    from pplfast.cluster.ranks import Ranks

OUTPUTS = ("png", "npy", "shards")


@dataclass(frozen=True)
class JobConfig:
    """A labelling job, from images to labels in `out`.

    label: its background value must be set. unsure: (low, high) thresholds, between which a pixel becomes 255; None: no
    pixel does.
    engine: of the CRF: "pydensecrf" (processes), "device" (with the network), "auto" (the GPU where there is one).
    outputs: of "png", "npy" (the CAM dict) and "shards" (WebDataset tars of `shard_size` images).
    memory: GiB that a rank and its workers may use for what grows with the images (not for the programs themselves).
    jobs: CRF processes of this rank, None: its share of the cores. rotated: label images that EXIF turns, as stored.
    verify: compare the checksums of all labels that are there. strict: a bad image ends the job.
    """

    out: Path
    cam: CamConfig = field(default_factory=CamConfig)
    label: LabelConfig = field(default_factory=LabelConfig)
    engine: str = presets.AUTO
    outputs: tuple[str, ...] = ("png",)
    unsure: tuple[float, float] | None = None
    memory: float = DEFAULT_MEMORY
    jobs: int | None = None
    threads: int | None = None  # DALI's; None: a quarter of this rank's share of the cores, but at least 2
    shard_size: int = 1000
    rotated: bool = False
    verify: bool = False
    strict: bool = False
    prometheus: Path | None = None


@dataclass(frozen=True)
class JobResult:
    """What came of a labelling job: of the whole job, on rank 0; of its own part on the others.

    exit_code: 0, 3 (some images are bad), 128 + signal.
    bad: (id, reason) of all images of the list that have no label."""

    done: int
    earlier: int
    bad: list[tuple[str, str]]
    seconds: float
    unfinished: list[int]  # ranks that stopped, failed or were killed
    busy: dict[str, float]  # share of the time that each stage worked, mean over the ranks
    exit_code: int

    @property
    def bottleneck(self) -> str:
        """The stage that worked most: decode, network, crf, encode or write."""
        return bottleneck(self.busy)

    def stage_rates(self) -> dict[str, float]:
        """Images per second that each stage alone would make, from the time that it worked."""
        return {stage: self.done / (share * self.seconds) for stage, share in self.busy.items() if share > 0}

    def share(self) -> float:
        """Of the time that the bottleneck worked."""
        return self.busy[self.bottleneck] + (self.busy["encode"] if self.bottleneck == "crf" else 0.0)

    def summary(self, out: Path) -> str:
        """Lines for the user: counts, rate, bottleneck, and the first 20 bad images."""
        rate = self.done / max(self.seconds, 1e-9)
        lines = [
            f"{self.done} labels written to {out} in {self.seconds:.0f} s ({rate:.1f} images/s), {self.earlier} "
            f"were there already; bottleneck: {self.bottleneck} ({self.share():.0%} busy)"
        ]
        if self.bad:
            lines.append(f"{len(self.bad)} bad images (see {out / 'manifest.jsonl'}):")
            lines += [one_line(f"  {image_id}: {reason}") for image_id, reason in self.bad[:20]]
            if len(self.bad) > 20:
                lines.append(f"  ... and {len(self.bad) - 20} more")
        return "\n".join(lines)


def check_config(config: JobConfig) -> None:
    """Raises UserError for a value out of range."""
    presets.check_crf(config.label.crf)
    if config.unsure is None:
        presets.check_background(config.label.background, config.label.value)
    elif not 0 < config.unsure[0] < config.unsure[1] < 1:
        raise UserError(
            f"--unsure {config.unsure[0]:g},{config.unsure[1]:g}: must be two thresholds, "
            "0 < LOW < HIGH < 1 (usual: 0.05,0.30)"
        )
    unknown = [name for name in config.outputs if name not in OUTPUTS]
    if unknown or not config.outputs:
        raise UserError(f"--outputs {','.join(config.outputs)}: must be of {', '.join(OUTPUTS)}")
    budget_bytes(config.memory)
    for name, value in (("jobs", config.jobs), ("shard-size", config.shard_size), ("batch", config.cam.batch)):
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: must be 1 or more")


def label_dataset(
    model: PatchClassifier, dataset: Dataset, config: JobConfig, local_rank: int | None = None
) -> JobResult:
    """This rank's part: labels for all images of the data set that have none yet, alone or under a launcher.

    model: in eval mode, its stage set, on the CPU; moved to this rank's device here. Raises UserError for values and
    data that do not fit, a folder of other settings, a full disk. A signal ends it in order: see the exit code.
    """
    from pplfast.cluster.ranks import start_ranks

    check_config(config)
    check_fits(model, dataset)
    with ExitStack() as held:
        return _label(model, dataset, config, start_ranks(local_rank), held)


def _label(model: PatchClassifier, dataset: Dataset, config: JobConfig, ranks: "Ranks", held: ExitStack) -> JobResult:
    """held: what rank 0 holds until the job is over."""
    from pplfast.cluster.agreement import agree
    from pplfast.cluster.ranks import on_main, stop_ranks, together

    try:
        exact_float32()
        precision = resolve_precision(config.cam.precision, ranks.device)
        if ranks.world > 1:
            agree(ranks, labelling_settings(_settings(model, config, precision, dataset), dataset))

        def begin() -> tuple[str, Plan]:
            held.enter_context(hold_folder(config.out, PATIENCE))
            engine = resolve_engine(config, ranks.device)
            claim_folder(config.out, _settings(model, replace(config, engine=engine), precision, dataset))
            if config.label.crf != presets.NONE:
                print(f"CRF computed by {engine}", file=sys.stderr)
            return engine, make_plan(dataset, config.out, config.verify)

        engine, plan = on_main(ranks, begin)
        config = replace(config, engine=engine)
        mine = plan.share(ranks.rank, ranks.world)
        # All manifests are held locked before anyone goes on, so that a free one means a dead rank from here on.
        manifest = together(ranks, lambda: ManifestWriter(config.out, ranks.rank))
    finally:
        # From here on the ranks need nothing of each other but the file system: a killed one holds nobody up.
        stop_ranks()
    return _work(model.to(ranks.device), dataset, config, precision, ranks, plan, mine, manifest)


def resolve_engine(config: JobConfig, device: torch.device) -> str:
    """What computes the CRF. "auto" is decided once for a folder: a job that is continued, perhaps on another machine,
    goes on as it began. On a GPU the processes of a machine's cores would be what all wait for."""
    if config.engine != presets.AUTO:
        return config.engine
    recorded = read_settings(config.out)
    if recorded is not None and recorded.get("crf_engine") in (presets.DEVICE, presets.PYDENSECRF):
        return str(recorded["crf_engine"])
    return presets.DEVICE if device.type == "cuda" and config.label.crf != presets.NONE else presets.PYDENSECRF


def _work(
    model: PatchClassifier,
    dataset: Dataset,
    config: JobConfig,
    precision: str,
    ranks: "Ranks",
    plan: Plan,
    mine: Int64Array,
    manifest: ManifestWriter,
) -> JobResult:
    out, world = config.out, ranks.world
    cores = max(1, default_jobs() // max(1, ranks.local_world))
    jobs, threads = config.jobs or cores, config.threads or max(2, cores // 4)
    meter = Meter({"crf": jobs if config.engine == presets.PYDENSECRF else 1, "encode": jobs})
    heartbeat = state.Heartbeat(out, plan.token, ranks.rank, len(mine), meter)
    display = (
        state.Display(out, plan.token, world, len(plan.pending), plan.done + plan.bad, config.prometheus)
        if ranks.main
        else None
    )

    def abandon() -> None:
        if ranks.main:
            _say_how_to_continue(meter.done, len(mine), "gave up what was in flight")

    stopping = Stopping(ranks.main, abandon)
    failure: BaseException | None = None
    unfinished: list[int] = []
    with stopping:
        try:
            if len(mine):
                _pipeline(model, dataset, config, precision, ranks.rank, mine, manifest, meter, stopping, jobs, threads)
        except BaseException as error:
            failure = error
        try:
            heartbeat.end(state.FAILED if failure else state.STOPPED if stopping.signal else state.DONE)
        except UserError as error:
            failure = failure or error  # a disk that is full stays full: the first message is the one to show
        manifest.close()
        if display is not None and failure is None:
            unfinished = state.wait_for_ranks(
                display.statuses, world, lambda rank: is_locked(rank_file(out, rank)), stopping.stopped
            )
    if display is not None:
        statuses = display.statuses()
        display.end()
    if failure is not None:
        raise failure
    exit_code = stopping.exit_code if stopping.signal else 0
    if display is None:
        return JobResult(meter.done, 0, [], meter.seconds, [], meter.utilisation(), exit_code)
    total = state.Total.of(statuses)
    bad: list[tuple[str, str]] = []
    if unfinished:
        what = "stopped" if exit_code else f"ranks {unfinished} ended early"
        _say_how_to_continue(total.done, len(plan.pending), what)
        exit_code = exit_code or 1
    else:
        bad = _merge_in_order(dataset, out)
        exit_code = EXIT_BAD if bad else 0
    return JobResult(total.done, plan.done, bad, meter.seconds, unfinished, total.busy, exit_code)


def _pipeline(
    model: PatchClassifier,
    dataset: Dataset,
    config: JobConfig,
    precision: str,
    rank: int,
    mine: Int64Array,
    manifest: ManifestWriter,
    meter: Meter,
    stopping: Stopping,
    jobs: int,
    threads: int,
) -> None:
    largest = max(config.cam.scales)
    network, room = split_budget(budget_bytes(config.memory), next(model.parameters()).device)
    refine = RefineConfig(config.out, tuple(dataset.classes.ids), config.label, config.unsure, config.outputs)
    workers = Workers(refine, jobs)  # first: its processes start while the network is made ready
    maps = MapMaker(model, config.cam, precision, network, config.cam.batch, threads)
    labeller = None
    if config.engine == presets.DEVICE and config.label.crf != presets.NONE:
        from pplfast.labels.device_crf import DeviceLabeller

        labeller = DeviceLabeller(config.label, config.unsure, maps.device)
    shards = ShardWriter(config.out, rank, config.shard_size) if "shards" in config.outputs else None
    stages = Stages(maps, labeller, workers, manifest, shards, "npy" in config.outputs)
    limit = most_pixels(room, int(dataset.known_labels.sum(axis=1).max()), largest)
    pipeline = Pipeline(dataset, mine, stages, meter, stopping, Room(room), largest, rank, config.strict)
    pipeline.run(lambda path: screen(path, config.rotated, limit), config.cam.batch, threads)


def _merge_in_order(dataset: Dataset, out: Path) -> list[tuple[str, str]]:
    """One line per image in the list's order (then those of other lists); the bad ones of this list."""
    records = read_manifest(out)
    order = {image_id: position for position, image_id in enumerate(dataset.ids)}
    state.remove_statuses(out)
    merge(out, sorted(records.values(), key=lambda record: order.get(record["id"], len(order))))
    return [
        (image_id, records[image_id]["reason"])
        for image_id in dataset.ids
        if records.get(image_id, {}).get("state") == BAD
    ]


def _say_how_to_continue(done: int, total: int, what: str) -> None:
    print(
        f"pplfast label: {what}: {done} of {total} images done; run the same command again to continue",
        file=sys.stderr,
        flush=True,
    )


def _settings(model: PatchClassifier, config: JobConfig, precision: str, dataset: Dataset) -> dict[str, Any]:
    """What decides the labels."""
    label = asdict(config.label) if config.unsure is None else {"crf": config.label.crf}
    return {
        "classifier": classifier_hash(model),
        "scales": list(config.cam.scales),
        "flip": config.cam.flip,
        "precision": precision,
        **label,
        "unsure": config.unsure,
        "crf_engine": config.engine,
        "classes": list(dataset.classes.ids),
        "outputs": list(config.outputs),
    }


def labelling_settings(settings: dict[str, Any], dataset: Dataset) -> "Settings":
    """What the ranks must agree on, as rank 0 shares out the images by their places in the list. settings: what decides
    the labels."""
    from pplfast.cluster.agreement import CODE, DATA, OPTIONS, code_versions

    digest = hashlib.sha256("\n".join(dataset.ids).encode() + dataset.known_labels.tobytes())
    data = {"the number of images": len(dataset), "the digest of ids and labels": digest.hexdigest()[:16]}
    return {CODE: code_versions(), DATA: data, OPTIONS: settings}


def local_ranks() -> int:
    """Ranks on this machine, as the launcher says."""
    from pplfast.cluster.ranks import local_world, world_size

    return local_world(os.environ, world_size(os.environ))


def share_threads() -> None:
    """Ranks on the CPU divide its cores among them; torch would give each of them all."""
    if not torch.cuda.is_available() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, default_jobs() // local_ranks()))
