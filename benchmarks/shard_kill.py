"""Labels on a local object store: ranks that are killed again and again, and reads that fail."""

import json
import random
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from pplfast.benchmarks.job_kill import EARLY, POLL, QUIET_END, Leg, Ranks, describe, kill_figures
from pplfast.benchmarks.object_store import Store, local_store
from pplfast.benchmarks.shard_files import tiny_samples, write_shards
from pplfast.benchmarks.shard_parts import (
    LAST_LINES,
    Bucket,
    Goal,
    Labels,
    Part,
    check_labels,
    environment,
    keys_of_shards,
    label_words,
    make_index,
    make_network,
    undisturbed_labels,
)

IMAGES, LABELS = "images", "labels"  # folders in the bucket
WORLD, WORLDS = 2, (1, 2, 3)
LATEST_EARLY = 4.0  # seconds after the start of the ranks, for those kills that come early
LATER = 3.0  # seconds, at most, from a mark to the kill: what is killed is between two marks
LOOK = 0.3  # seconds between two looks at the marks: the store works on the same cores
FAIL, SHARDS = 0.1, 40  # with faults: share of the reads, and shards, of which one is gone
RETRIES = re.compile(r"(\d+) reads or writes were tried again")
WRITTEN = re.compile(r"(\d+) labels written to")


@dataclass
class Marks:
    """Of shards of labels that are whole, as they come. earlier: names of those that were there. new: by name."""

    bucket: Bucket
    earlier: set[str] = field(default_factory=set)
    new: dict[str, dict[str, Any]] = field(default_factory=dict)

    def look(self) -> None:
        for name in self.bucket.sizes(f"{LABELS}/manifest"):
            if name.endswith(".json") and name not in self.earlier and name not in self.new:
                self.new[name] = json.loads(self.bucket.read(name))

    def images(self, rank: int) -> int:
        return sum(mark["images"] for mark in self.new.values() if mark["rank"] == rank)

    def last(self, rank: int) -> float:
        """When the rank wrote its last one; 0 for none."""
        return max((float(mark["time"]) for mark in self.new.values() if mark["rank"] == rank), default=0.0)


@dataclass
class Killing:
    """One job that is killed. done: images whose shards were whole before the leg."""

    words: list[str]
    keys: dict[str, list[str]]
    bucket: Bucket
    log: TextIO
    chance: random.Random
    done: int = 0
    seen: set[str] = field(default_factory=set)

    def leg(self, world: int, moment: float | None) -> Leg:
        """One start of that many ranks. moment: images that are done when it is killed; None: to the end."""
        leg, begin, started, marks = Leg(world=world), time.monotonic(), time.time(), Marks(self.bucket, self.seen)
        chance = self.chance
        victims = list(range(world)) if chance.random() < 0.5 else [chance.randrange(world)]
        later, early = chance.uniform(0, LATER), chance.random() < EARLY
        kill_at = begin + chance.uniform(0, LATEST_EARLY) if early and moment is not None else None
        looked = 0.0
        with Ranks(self.words, self.log, world) as ranks:
            while ranks.running():
                if time.monotonic() - looked > LOOK:
                    marks.look()
                    looked = time.monotonic()
                made = [marks.images(rank) for rank in range(world)]
                if any(made) and leg.first_label is None:
                    leg.first_label = time.monotonic() - begin
                ranks.watch(made)
                if moment is not None and kill_at is None and any(made) and self.done + sum(made) >= moment:
                    kill_at = time.monotonic() + later
                if kill_at is not None and time.monotonic() >= kill_at:
                    now = time.time()
                    ranks.kill(victims)
                    leg.killed = victims
                    marks.look()
                    leg.lost = max(now - max(marks.last(rank), started) for rank in victims)
                    break
                time.sleep(POLL)
            else:
                self._check_end(ranks, moment)
        marks.look()
        leg.seconds, leg.growth, leg.peak = time.monotonic() - begin, ranks.growth(), ranks.peak()
        leg.labels = sum(mark["images"] for mark in marks.new.values())
        self.done, self.seen = self.done + leg.labels, self.seen | marks.new.keys()
        leg.unrecorded = self._unrecorded()
        return leg

    def _check_end(self, ranks: Ranks, moment: float | None) -> None:
        codes = [process.returncode for process in ranks.processes]
        if moment is not None or any(codes):
            raise AssertionError(f"the ranks ended with {codes}\n{Path(self.log.name).read_text()[-LAST_LINES:]}")

    def _unrecorded(self) -> int:
        """Images in shards of labels without their mark."""
        names = self.bucket.sizes(LABELS)
        without = [name for name in self.keys if f"{LABELS}/manifest/{name}.json" not in names]
        return sum(len(self.keys[name]) for name in without if f"{LABELS}/{name}.tar" in names)


def kill(folder: Path, images: int, per_shard: int, kills: int, seed: int) -> Part:
    """Labels from shards to shards, both on the store; the ranks are killed `kills` times at random moments, and
    started again in another number. At the end every object is read."""
    model, keys, log_path = make_network(folder / "model"), keys_of_shards(images, per_shard), folder / "log.txt"
    chance = random.Random(seed)
    moments = sorted(chance.uniform(0, 1 - QUIET_END) * images for _ in range(kills))
    with local_store() as store, environment(**store.environment, XDG_CACHE_HOME=str(folder / "cache")):
        words, bucket = _prepare(store, images, per_shard, model), Bucket()
        legs: list[Leg] = []
        with open(log_path, "w") as log:
            killing = Killing(words, keys, bucket, log, chance)
            for number, moment in enumerate([*moments, None]):
                world = chance.choice(WORLDS) if 0 < number < kills else WORLD
                legs.append(killing.leg(world, moment))
                print(f"leg {number + 1}, {world} ranks: {describe(legs[-1])}", flush=True)
        expected = undisturbed_labels(folder, model, images)
        labels = check_labels(bucket, keys, expected, folder, IMAGES, LABELS)
        uploads = bucket.unfinished_uploads()
    labels.show()
    figures = kill_figures(legs, images) | {
        "images_per_shard": per_shard,
        "ranks": [leg.world for leg in legs],
        "labels_correct_and_once": labels.correct,
        "tracebacks": log_path.read_text().count("Traceback"),
    }
    rows = {"legs": figures.pop("legs")}
    goals = [
        Goal("kills", figures["kills"], kills, exact=True),
        Goal("labels that are there once and correct", labels.correct, images, exact=True),
        *_goals_of_objects(labels),
        Goal("uploads that were begun and left", uploads, 0, exact=True),
        Goal("ranks that ended with a traceback", figures["tracebacks"], 0, exact=True),
        Goal("memory growth of a rank (MB)", figures["memory_growth_mb_per_rank"], 50.0),
    ]
    return Part(figures, goals, rows)


def _prepare(store: Store, images: int, per_shard: int, model: Path) -> list[str]:
    """Put the shards and their index there; the words of the command."""
    data = f"{store.url}/{IMAGES}"
    write_shards(data, tiny_samples(images), per_shard)
    make_index(data)
    return label_words(data, model, f"{store.url}/{LABELS}")


def _goals_of_objects(labels: Labels, when: str = "") -> list[Goal]:
    counts = {
        "objects that are torn": len(labels.torn),
        "objects that are missing": len(labels.missing),
        "objects that are not of the job": len(labels.other),
        "labels or shards that are wrong": len(labels.wrong),
    }
    return [Goal(f"{name}{when}", count, 0, exact=True) for name, count in counts.items()]


def faults(folder: Path, images: int, seed: int) -> Part:
    """Two ranks, of whose reads one in ten fails, and of whose shards one is gone; then once more, when all is well."""
    per_shard = max(1, images // SHARDS)
    model, keys = make_network(folder / "model"), keys_of_shards(images, per_shard)
    gone = random.Random(seed).choice(list(keys))
    with local_store() as store, environment(**store.environment, XDG_CACHE_HOME=str(folder / "cache")):
        words, bucket = _prepare(store, images, per_shard, model), Bucket()
        expected = undisturbed_labels(folder, model, images)
        before = store.counts()["requests"]
        store.set_faults(fail=FAIL, gone=f"{IMAGES}/{gone}.tar", seed=seed)
        first = _to_the_end(words, folder / "first.txt")
        store.set_faults(fail=0.0, gone="")
        counts = store.counts()
        requests = {method: number - before.get(method, 0) for method, number in counts["requests"].items()}
        labels = check_labels(bucket, keys, expected, folder, IMAGES, LABELS)
        again = _to_the_end(words, folder / "again.txt")
        labels_again = check_labels(bucket, keys, expected, folder, IMAGES, LABELS)
        uploads = bucket.unfinished_uploads()
    labels.show()
    labels_again.show()
    figures = {
        "images": images,
        "shards": len(keys),
        "ranks": WORLD,
        "gone": gone,
        "requests": requests,
        "faults": counts["faults"],
        "reads_or_writes_tried_again": first.retries,
        "seconds": first.seconds,
        "seconds_again": again.seconds,
    }
    named = [reason for image, reason in labels.bad if image.startswith(f"{gone}/") and gone in reason]
    at_fault = images - len(keys[gone])
    goals = [
        Goal("exit code", first.code, 3, exact=True),
        Goal("images of the gone shard, bad by its name", len(named), len(keys[gone]), exact=True),
        Goal("other bad images", len(labels.bad) - len(named), 0, exact=True),
        Goal("labels that are correct", labels.correct, at_fault, exact=True),
        *_goals_of_objects(labels),
        Goal("exit code, with the shard back", again.code, 0, exact=True),
        Goal("labels written then", again.written, len(keys[gone]), exact=True),
        Goal("labels that are correct then", labels_again.correct, images, exact=True),
        *_goals_of_objects(labels_again, " then"),
        Goal("uploads that were begun and left", uploads, 0, exact=True),
    ]
    return Part(figures, goals, {"first_bad": labels.bad[:3]})


@dataclass(frozen=True)
class End:
    """Of a run to its end. code: of rank 0. retries, written: as its summary says."""

    code: int
    seconds: float
    retries: int
    written: int


def _to_the_end(words: list[str], log_path: Path) -> End:
    begin = time.monotonic()
    with open(log_path, "w") as log, Ranks(words, log, WORLD) as ranks:
        while ranks.running():
            time.sleep(POLL)
    seconds, text = time.monotonic() - begin, log_path.read_text()
    if "Traceback" in text or "labels written" not in text:
        raise AssertionError(text[-LAST_LINES:])
    retries, written = RETRIES.search(text), WRITTEN.search(text)
    code = ranks.processes[0].returncode
    return End(code, seconds, int(retries[1]) if retries else 0, int(written[1]) if written else 0)
