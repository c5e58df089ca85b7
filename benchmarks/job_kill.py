"""`python -m pplfast.benchmarks.job_kill`: a job on many small images on two ranks, which are killed again and again;
checks that nothing is lost, nothing is written twice and the memory stays flat."""

import argparse
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from pplfast.benchmarks.label_data import (
    DIFFERENT,
    cam_arguments,
    data_arguments,
    image_id,
    label_arguments,
    make_boundary,
    make_images,
    make_segmentation,
)
from pplfast.files import write_json
from pplfast.jobs.manifest import FOLDER, rank_file, read_manifest, read_records

WORLD = 2
QUIET_END = 0.4  # share of the images at the end without kills, to see the memory over a long stretch
EARLY = 0.15  # share of the kills that come while the ranks still start
WARM_UP = 100  # images of a rank before its memory counts
TERM_LIMIT = 10.0  # seconds that a rank may take to end in order
POLL = 0.1


# Of each job the words of its command, from the folder that `make_inputs` filled and an output folder, and what its
# outputs end in. "label" is `pplfast label --model`, the others are the steps of the chain.
JOBS: dict[str, tuple[Callable[[Path, Path], list[str]], str]] = {
    "label": (lambda root, out: label_arguments(root, out, "--jobs", "1"), ".png"),
    "cam": (cam_arguments, ".npz"),
    "confident": (
        lambda root, out: [
            *("label", *data_arguments(root), "--out", str(out), "--cams", str(root / "cams")),
            *("--unsure", "0.05,0.3", "--crf", "labels", "--jobs", "1"),
        ],
        ".png",
    ),
    "walk": (
        lambda root, out: [
            *("refine", "walk", *data_arguments(root), "--out", str(out), "--cams", str(root / "cams")),
            *("--model", str(root / "boundary")),
        ],
        ".npz",
    ),
    "segment": (
        lambda root, out: [
            *("segment", "test", *data_arguments(root), "--out", str(out), "--model", str(root / "segmentation")),
            *("--scales", "1", "--no-flip", "--jobs", "1"),
        ],
        ".png",
    ),
}


def make_inputs(folder: Path, job: str, images: int) -> Path:
    """Images, labels, and what else the job reads: networks of random weights, and CAMs. Returns their folder."""
    root = make_images(folder, images)
    if job in ("confident", "walk"):
        _run(cam_arguments(root, root / "cams"))
    if job == "walk":
        make_boundary(root / "boundary")
    if job == "segment":
        make_segmentation(root / "segmentation")
    return root


def _run(arguments: list[str]) -> None:
    """One process, one thread, to its end."""
    command, environment = [sys.executable, "-m", "pplfast", *arguments], {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, env=environment)


@dataclass
class Leg:
    """One start of the ranks, up to a kill or to the end."""

    world: int = WORLD
    seconds: float = 0.0
    labels: int = 0
    killed: list[int] = field(default_factory=list)
    first_label: float | None = None  # seconds from the start of the processes to the first label
    lost: float = 0.0  # seconds between the last record of a killed rank and its kill: work that is done again
    unrecorded: int = 0  # labels on the disk whose record the kill prevented; they are written again
    growth: list[int] = field(default_factory=list)  # per rank: bytes, from warm-up to the highest
    peak: list[int] = field(default_factory=list)  # per rank: resident bytes, with its workers


class Ranks:
    """The processes of one leg, as a launcher starts them; none of them outlives the context.

    world: how many. warm_up: images of a rank before its memory counts."""

    def __init__(self, arguments: list[str], log: TextIO, world: int = WORLD, warm_up: int = WARM_UP) -> None:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            port = server.getsockname()[1]
        common = {
            **os.environ,
            "WORLD_SIZE": str(world),
            "LOCAL_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "pplfast", *arguments]
        self.processes = [
            subprocess.Popen(
                command, env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=log, stderr=log
            )
            for rank in range(world)
        ]
        self.workers: set[int] = set()
        self._warm_up = warm_up
        self._warm: dict[int, int] = {}
        self._high: dict[int, int] = {}

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def running(self) -> bool:
        return any(process.poll() is None for process in self.processes)

    def watch(self, labels: list[int]) -> None:
        """Resident memory of each rank with its workers; labels: of each rank in this leg so far."""
        for rank, process in enumerate(self.processes):
            below = children(process.pid)
            self.workers.update(below)
            now = sum(resident(pid) for pid in (process.pid, *below))
            if now and labels[rank] >= self._warm_up:
                self._warm.setdefault(rank, now)
                self._high[rank] = max(self._high.get(rank, 0), now)

    def growth(self) -> list[int]:
        return [self._high[rank] - self._warm[rank] for rank in self._warm]

    def peak(self) -> list[int]:
        return list(self._high.values())

    def kill(self, ranks: list[int]) -> None:
        """SIGKILL for `ranks`; SIGTERM for the others, as a launcher does when a rank is gone."""
        for rank in ranks:
            self.processes[rank].kill()
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + TERM_LIMIT
        for process in self.processes:
            process.wait(max(0.1, deadline - time.monotonic()))
        while any(alive(pid) for pid in self.workers) and time.monotonic() < deadline:
            time.sleep(POLL)
        left = [pid for pid in self.workers if alive(pid)]
        if left:
            raise AssertionError(f"worker processes {left} outlive their rank")


class LineCounter:
    """Lines of a file that grows, not counting one that an earlier leg left."""

    def __init__(self, path: Path, since: float) -> None:
        self._path, self._since, self._read, self._lines = path, since, 0, 0

    def count(self) -> int:
        try:
            if self._path.stat().st_mtime < self._since:
                return 0
            with open(self._path, "rb") as file:
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:  # merged at the end
            return self._lines
        self._read += len(data)
        self._lines += data.count(b"\n")
        return self._lines


def run(folder: Path, images: int, kills: int, seed: int, job: str = "label") -> dict[str, Any]:
    """Returns the figures; raises AssertionError where something is lost, torn, written twice or left over."""
    chance = random.Random(seed)
    root, out, log_path = make_inputs(folder, job, images), folder / "out", folder / "log.txt"
    words, suffix = JOBS[job]
    arguments = words(root, out)
    moments = sorted(chance.uniform(0, 1 - QUIET_END) * images for _ in range(kills))
    legs = []
    with open(log_path, "w") as log:
        for moment in [*moments, None]:
            early = moment is not None and chance.random() < EARLY
            ranks = [0, 1] if chance.random() < 0.5 else [chance.randrange(WORLD)]
            delay = chance.uniform(0, 4) if early else None
            legs.append(_leg(arguments, out, suffix, log, moment, delay, ranks))
            print(f"leg {len(legs)}: {describe(legs[-1])}", flush=True)
    _check(root, out, images, job, log_path)
    return kill_figures(legs, images)


def _leg(
    arguments: list[str],
    out: Path,
    suffix: str,
    log: TextIO,
    moment: float | None,
    delay: float | None,
    victims: list[int],
) -> Leg:
    leg, begin, started = Leg(), time.monotonic(), time.time()
    before = len(read_manifest(out))
    with Ranks(arguments, log) as ranks:
        counters = [LineCounter(rank_file(out, rank), started) for rank in range(WORLD)]
        while ranks.running():
            labels = [counter.count() for counter in counters]
            if sum(labels) and leg.first_label is None:
                leg.first_label = time.monotonic() - begin
            ranks.watch(labels)
            late = moment is not None and delay is None and before + sum(labels) >= moment and leg.first_label
            if late or (delay is not None and time.monotonic() - begin > delay):
                now = time.time()
                ranks.kill(victims)
                leg.killed = victims
                last = [
                    max((r["time"] for r in read_records(rank_file(out, rank))), default=started) for rank in victims
                ]
                leg.lost = max(now - max(moment, started) for moment in last)
                break
            time.sleep(POLL)
        else:
            codes = [process.returncode for process in ranks.processes]
            assert codes == [0] * WORLD, f"exit codes {codes} of an undisturbed end"
    leg.seconds, leg.growth, leg.peak = time.monotonic() - begin, ranks.growth(), ranks.peak()
    records = read_manifest(out)
    leg.labels = len(records) - before
    leg.unrecorded = sum(1 for path in out.glob(f"*/*{suffix}") if f"{path.parent.name}/{path.stem}" not in records)
    return leg


def _check(root: Path, out: Path, images: int, job: str, log: Path) -> None:
    """Every output is there once, equals that of a run that nobody disturbed, and there is nothing else."""
    assert "Traceback" not in log.read_text(), f"a rank ended with a traceback: {log}"
    words, suffix = JOBS[job]
    clean = root / "clean"
    listed = root / "first.txt"
    listed.write_text("\n".join(image_id(number) for number in range(min(images, DIFFERENT))) + "\n")
    _run([*words(root, clean), "--list", str(listed)])
    records = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    ids = [record["id"] for record in records]
    assert ids == [image_id(number) for number in range(images)], "the manifest is not the list, each image once"
    for number, record in enumerate(records):
        made = (out / f"{record['id']}{suffix}").read_bytes()
        assert record["state"] == "done" and len(made) == record["files"][0]["bytes"], record
        assert made == (clean / f"{image_id(number % DIFFERENT)}{suffix}").read_bytes(), f"{record['id']}: another"
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    extra = files - {f"{name}{suffix}" for name in ids} - {"manifest.jsonl", "settings.json", "confidence.csv"}
    assert not extra, f"left over: {sorted(extra)[:5]}"
    assert not (out / FOLDER).exists(), "the ranks' manifests are left over"


def kill_figures(legs: list[Leg], images: int) -> dict[str, Any]:
    killed = [leg for leg in legs if leg.killed]
    again = [
        after.first_label
        for before, after in itertools.pairwise(legs)
        if before.killed and after.first_label is not None
    ]
    return {
        "images": images,
        "ranks": WORLD,
        "kills": len(killed),
        "kills_of_all_ranks": sum(len(leg.killed) == leg.world for leg in killed),
        "labels_correct_and_once": images,
        "seconds": sum(leg.seconds for leg in legs),
        "work_lost_per_kill_seconds": {
            "median": median([leg.lost for leg in killed]),
            "most": max((leg.lost for leg in killed), default=0.0),
        },
        "restart_to_first_label_seconds": {"median": median(again), "most": max(again, default=0.0)},
        "labels_written_again": sum(leg.unrecorded for leg in killed),
        "memory_growth_mb_per_rank": max((g for leg in legs for g in leg.growth), default=0) / 1e6,
        "memory_growth_mb_last_leg": max(legs[-1].growth, default=0) / 1e6,
        "labels_last_leg": legs[-1].labels,
        "memory_mb_per_rank": max((p for leg in legs for p in leg.peak), default=0) / 1e6,
        "legs": [vars(leg) for leg in legs],
    }


def describe(leg: Leg) -> str:
    first = "no label" if leg.first_label is None else f"first label after {leg.first_label:.1f} s"
    end = f"killed ranks {leg.killed}, lost {leg.lost:.1f} s" if leg.killed else "to the end"
    growth = f", memory +{max(leg.growth) / 1e6:.1f} MB" if leg.growth else ""
    return f"{leg.labels} labels in {leg.seconds:.1f} s, {first}, {end}, {leg.unrecorded} unrecorded{growth}"


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0


def children(pid: int) -> list[int]:
    try:
        direct = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*direct, *(grandchild for child in direct for grandchild in children(child))]


def resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pplfast.benchmarks.job_kill", description=__doc__)
    parser.add_argument("--job", choices=[*JOBS, "all"], default="label", help="all: one after the other")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the figures there")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the temporary folder goes
    return max(_judge(job, args) for job in (JOBS if args.job == "all" else [args.job]))


def _judge(job: str, args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="pplfast-job-kill-") as folder:
        figures = {"job": job, **run(Path(folder), args.images, args.kills, args.seed, job)}
    print(json.dumps({key: value for key, value in figures.items() if key != "legs"}, indent=2))
    if args.out:
        from pplfast.benchmarks.results import commit, hardware, versions

        path = args.out if args.job != "all" else args.out.with_stem(f"{args.out.stem}_{job}")
        write_json(path, {**figures, "hardware": hardware(), "versions": versions(), "commit": commit()})
    limits = {
        "work lost per kill": (figures["work_lost_per_kill_seconds"]["most"], 10.0),
        "memory growth per rank (MB)": (figures["memory_growth_mb_per_rank"], 50.0),
    }
    for name, (value, limit) in limits.items():
        print(f"{'ok' if value < limit else 'FAILED'}: {job}, {name}: {value:.1f}, below {limit:g}", flush=True)
    return 0 if all(value < limit for value, limit in limits.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
