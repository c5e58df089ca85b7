"""A million images in a thousand shards: how long it takes until work begins, and how much memory it needs."""

import argparse
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pplfast.benchmarks.job_kill import POLL, Ranks, children, resident
from pplfast.benchmarks.shard_files import CLASSES, tiny_samples, write_shards
from pplfast.benchmarks.shard_parts import LAST_LINES, Goal, Part, label_words, make_network
from pplfast.errors import UserError

PLACES = ("/dev/shm", tempfile.gettempdir())
BYTES = 3500  # of a tiny image and its labels in a tar, with what is made of it
BATCH, CROP, THREADS = 16, 64, 2
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
KEPT = 5.0  # seconds between two rows of memory that are kept
SAMPLE = 1000  # images of the check
END_LIMIT = 60.0  # seconds that ranks may take to end in order
MEGA = 1e6


def place_for(images: int) -> str:
    """A folder with room for so many. UserError where there is none."""
    for place in PLACES:
        if os.path.isdir(place) and shutil.disk_usage(place).free > images * BYTES:
            return place
    raise UserError(
        f"{' and '.join(PLACES)}: no room for {images * BYTES / 1e9:.1f} GB; give --folder DIR, or fewer --images"
    )


def million(folder: Path, images: int, per_shard: int, batches: int, label_shards: int) -> Part:
    """batches: that are read as in training. label_shards: shards of labels after which the job is stopped."""
    data, model = str(folder / "images"), make_network(folder / "model")
    begin = time.monotonic()
    shards = len(write_shards(data, tiny_samples(images), per_shard))
    figures: dict[str, Any] = {"images": images, "shards": shards, "place": str(folder.parent)}
    figures["seconds_to_write"] = time.monotonic() - begin
    print(f"{images:,} images in {shards:,} shards, written in {figures['seconds_to_write']:.0f} s", flush=True)
    figures["index"] = asdict(_watched("data", "index", "--data", data))
    training = figures["training"] = _training(data, batches)
    goals = [
        Goal("training, seconds to the first batch", training["first_batch_seconds"], 10.0),
        Goal("training, resident then (MB)", training["first_batch_mb"], 1000.0),
        Goal(f"training, most resident in {batches:,} batches (MB)", training["most_mb"], 1000.0),
    ]
    rows: dict[str, list[Any]] = {}
    for world in (1, 2):
        name, out = f"labels, {world} rank{'s' * (world > 1)}", folder / f"labels-{world}"
        labelling = figures[name] = _label(label_words(data, model, str(out)), out, world, per_shard, label_shards)
        rows[name] = labelling.pop("rows")
        goals += [
            Goal(f"{name}, seconds to the first image", labelling["first_image_seconds"], 20.0),
            Goal(f"{name}, memory growth of a rank (MB)", labelling["growth_mb"], 50.0),
        ]
    figures["check"] = asdict(_watched("data", "check", "--data", data, "--sample", str(SAMPLE)))
    return Part(figures, goals, rows)


@dataclass(frozen=True)
class Cost:
    """Of a command. most_mb: resident, with the processes that it starts."""

    seconds: float
    most_mb: float


def _watched(*words: str) -> Cost:
    """Of a pplfast command, from its start to its end."""
    begin, most = time.monotonic(), 0
    process = subprocess.Popen([sys.executable, "-m", "pplfast", *words], stdout=subprocess.PIPE, text=True)
    try:
        while process.poll() is None:
            most = max(most, sum(map(resident, (process.pid, *children(process.pid)))))
            time.sleep(POLL)
    finally:
        process.kill()
        text = process.communicate()[0]
    if process.returncode:
        raise AssertionError(f"{' '.join(words)}: exit code {process.returncode}\n{text[-LAST_LINES:]}")
    return Cost(time.monotonic() - begin, most / MEGA)


def _training(data: str, batches: int) -> dict[str, float]:
    """In a process of its own, from its start."""
    words = [sys.executable, "-m", "pplfast.benchmarks.shard_million", data, "--batches", str(batches)]
    begin = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        first = json.loads(process.stdout.readline() or "{}")
        seconds = time.monotonic() - begin
        last = json.loads(process.stdout.readline() or "{}")
        end = time.monotonic() - begin
        process.wait()
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise AssertionError(f"{' '.join(words)}: exit code {process.returncode}")
    return {
        "first_batch_seconds": seconds,
        "first_batch_mb": first["mb"],
        "last_batch_mb": last["mb"],
        "most_mb": last["most_mb"],
        "images_per_second": (batches - 1) * BATCH / (end - seconds),
    }


def _read_batches(data: str, batches: int) -> None:
    """Print the memory of this process after the first batch and after the last one."""
    from pplfast.data.dataset import DataConfig, open_dataset
    from pplfast.data.loader import TrainLoader
    from pplfast.recipe import AugmentConfig

    dataset = open_dataset(DataConfig(data, classes=",".join(CLASSES)))
    augment = AugmentConfig(crop=CROP, resize_long=(CROP, 2 * CROP))
    loader = TrainLoader(dataset, augment, MEAN, STD, BATCH, threads=THREADS, cache_mb=0)
    epochs = itertools.chain.from_iterable(loader.epoch(number) for number in itertools.count())
    most = 0
    for number, _ in enumerate(itertools.islice(epochs, batches)):
        now = resident(os.getpid())
        most = max(most, now)
        if number in (0, batches - 1):
            print(json.dumps({"mb": now / MEGA, "most_mb": most / MEGA}), flush=True)


def _label(words: list[str], out: Path, world: int, per_shard: int, label_shards: int) -> dict[str, Any]:
    """Until that many shards of labels are whole; then the ranks are told to stop."""
    begin, first, kept = time.monotonic(), None, 0.0
    rows: list[dict[str, Any]] = []
    log_path = out.with_suffix(".txt")
    with open(log_path, "w") as log, Ranks(words, log, world, warm_up=per_shard) as ranks:
        while ranks.running() and len(list(out.glob("manifest/*.json"))) < label_shards:
            done = [_done(out, rank) for rank in range(world)]
            seconds = time.monotonic() - begin
            if sum(done) and first is None:
                first = seconds
            ranks.watch(done)
            if seconds - kept > KEPT:
                kept = seconds
                memory = [round(resident(process.pid) / MEGA, 1) for process in ranks.processes]
                rows.append({"seconds": round(seconds, 1), "images": done, "resident_mb": memory})
            time.sleep(POLL)
        stopped = time.monotonic()
        for process in ranks.processes:
            process.terminate()
        for process in ranks.processes:
            process.wait(END_LIMIT)
        codes = [process.returncode for process in ranks.processes]
        ended = time.monotonic() - stopped
    if first is None or codes != [128 + signal.SIGTERM] * world:
        raise AssertionError(f"the ranks ended with {codes}\n{log_path.read_text()[-LAST_LINES:]}")
    marks = [json.loads(path.read_bytes()) for path in out.glob("manifest/*.json")]
    return {
        "first_image_seconds": first,
        "first_shard_seconds": min(mark["time"] for mark in marks) - (time.time() - (time.monotonic() - begin)),
        "images": sum(mark["images"] for mark in marks),
        "seconds_to_stop": ended,
        "growth_mb": max(ranks.growth(), default=0) / MEGA,
        "most_mb": max(ranks.peak(), default=0) / MEGA,
        "rows": rows,
    }


def _done(out: Path, rank: int) -> int:
    """Images that a rank has done, as its last heartbeat says; they come once a second."""
    with suppress(OSError, ValueError):
        return int(json.loads((out / "manifest" / f"rank{rank:05d}.status").read_bytes())["done"])
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pplfast.benchmarks.shard_million", description="Read batches as training does."
    )
    parser.add_argument("data", metavar="SHARDS")
    parser.add_argument("--batches", type=int, required=True, metavar="N")
    args = parser.parse_args(arguments)
    _read_batches(args.data, args.batches)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
