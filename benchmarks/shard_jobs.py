"""Jobs on data sets in tar shards: what is promised, shown at its full size.

    python -m pplfast.benchmarks.shard_jobs kill      labels on an object store, ranks that are killed 20 times
    python -m pplfast.benchmarks.shard_jobs faults    one read in ten fails, and a shard is gone
    python -m pplfast.benchmarks.shard_jobs million   a million images: the start, and the memory
    python -m pplfast.benchmarks.shard_jobs equal     label shards, read by the webdataset library and by training

The object store is on this machine, and the network has random weights. Everything is in temporary folders; `million`
needs 3.5 GB. The exit code is 1 where a goal is missed.
"""

# The processes that decode import this module: the rest is imported when it is run.
import argparse
import datetime
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pplfast.errors import UserError

if TYPE_CHECKING:
    from pplfast.benchmarks.shard_parts import Part

PROGRAM = "python -m pplfast.benchmarks.shard_jobs"
IMAGES = {"kill": 20_000, "faults": 4_000, "million": 1_000_000, "equal": 1_000}
PER_SHARD = {"kill": 100, "million": 1000, "equal": 100}
BATCHES, LABEL_SHARDS = 2000, 12  # of a million


def main(arguments: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", metavar="PART", choices=IMAGES, help=", ".join(IMAGES))
    sizes = ", ".join(f"{part} {images:,}" for part, images in IMAGES.items())
    parser.add_argument("--images", type=int, metavar="N", help=f"(default: {sizes})")
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="of kill (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of kill and faults (default: %(default)s)")
    parser.add_argument("--folder", metavar="DIR", help="for temporary files (default: of million /dev/shm)")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the figures there (default: none)")
    args = parser.parse_args(words)
    # So that what is temporary goes, and the processes.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        part = _run(args.part, args.images or IMAGES[args.part], args.kills, args.seed, args.folder)
        _show(args.part, part)
        if args.out:
            _write(args.out, args.part, part, shlex.join([*PROGRAM.split(), *words]))
    except (UserError, AssertionError) as error:
        print(f"FAILED: {args.part}: {error}", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0 if all(goal.met for goal in part.goals) else 1


def _run(name: str, images: int, kills: int, seed: int, place: str | None) -> "Part":
    from pplfast.benchmarks import shard_equal, shard_kill, shard_million

    if name == "million":
        place = place or shard_million.place_for(images)
    with tempfile.TemporaryDirectory(prefix=f"pplfast-shards-{name}-", dir=place) as folder:
        root = Path(folder)
        if name == "kill":
            return shard_kill.kill(root, images, PER_SHARD[name], kills, seed)
        if name == "faults":
            return shard_kill.faults(root, images, seed)
        if name == "equal":
            return shard_equal.equal(root, images, PER_SHARD[name])
        return shard_million.million(root, images, PER_SHARD[name], BATCHES, LABEL_SHARDS)


def _show(name: str, part: "Part") -> None:
    from pplfast.benchmarks.shard_parts import number

    for label, value in _flat(part.figures):
        print(f"{label:<44} {number(value) if isinstance(value, int | float) else value}")
    for goal in part.goals:
        line = str(goal)
        print(line.replace(": ", f": {name}, ", 1), flush=True)


def _flat(figures: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in figures.items():
        label = f"{before}{name.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{label}, ")
        else:
            yield label, value


def _write(path: Path, name: str, part: "Part", command: str) -> None:
    from pplfast.benchmarks.results import commit, hardware, versions
    from pplfast.files import write_json

    head = {
        "part": name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": command,
        "hardware": hardware(),
        "versions": versions(),
        "load_average": list(os.getloadavg()),
    }
    goals = [{**vars(goal), "met": goal.met} for goal in part.goals]
    write_json(path, {**head, "figures": part.figures, "goals": goals, **part.rows})


if __name__ == "__main__":
    raise SystemExit(main())
