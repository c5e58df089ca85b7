"""python -m fuzz: damaged files into every reader. Exit code 1 where one is not refused with a clean line."""

import argparse
import dataclasses
import importlib
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import fuzz.one_thread  # before what loads libraries
from fuzz import printed
from fuzz.outcome import GOOD, SECONDS
from fuzz.reader import Reader, prepare
from fuzz.workers import Plan, run_all

TABLE = "fuzz.table:all_readers"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)

    def add(option: str, help: str, **settings: object) -> None:
        parser.add_argument(option, help=help, **settings)

    add("--count", "inputs, over all readers (default: %(default)s)", type=int, default=10_000)
    add("--seed", "any word; the same one gives the same inputs (default: a random one)", default="")
    add("--reader", "only this one; may be repeated", action="append", default=[], metavar="NAME")
    add("--jobs", "processes (default: one per core)", type=int, default=os.cpu_count())
    add("--keep", "folder for what fails (default: %(default)s)", type=Path, default=Path("runs/fuzz"))
    add("--seconds", "longest time of one input (default: %(default)g)", type=float, default=SECONDS)
    add("--table", "what gives the readers (default: %(default)s)", default=TABLE, metavar="MODULE:FUNCTION")
    add("--repeat", "read this one by --reader, and say what comes of it", type=Path, metavar="FILE")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    module, _, function = args.table.partition(":")
    known: list[Reader] = getattr(importlib.import_module(module), function)()
    names = [reader.name for reader in known]
    if unknown := [name for name in args.reader if name not in names]:
        print(f"no reader {unknown[0]!r}; there are: {', '.join(names)}", file=sys.stderr)
        return 2
    readers = [reader for reader in known if not args.reader or reader.name in args.reader]
    return repeat(readers[0], args) if args.repeat else fuzz(readers, args)


@contextmanager
def workplace() -> Iterator[Path]:
    """In memory where that can be: many small files are written."""
    folder = tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fuzz(readers: Sequence[Reader], args: argparse.Namespace) -> int:
    """Say what became of the inputs; 1 where one failed. Those are kept."""
    start, seed = time.monotonic(), args.seed or secrets.token_hex(4)
    print(f"{args.count} inputs, {len(readers)} readers, seed {seed}", flush=True)
    with workplace() as folder:
        prepared = prepare(readers, folder / "templates")
        results = run_all(prepared, args.count, Plan(seed, args.jobs, folder, args.seconds))
        defects = printed.by_defect(results)
        kept = printed.keep_inputs(prepared, seed, defects, args.keep)
    printed.print_counts([reader.name for reader in readers], results)
    printed.print_defects(defects, kept, [] if args.table == TABLE else ["--table", args.table])
    refused = printed.print_refused(prepared, results)
    failed = sum(map(len, defects.values()))
    print(f"{len(results)} inputs in {time.monotonic() - start:.0f} s, seed {seed}: {failed} failed")
    return 1 if failed or refused or len(results) != args.count else 0


def repeat(reader: Reader, args: argparse.Namespace) -> int:
    """One input again, in a process of its own."""
    with workplace() as folder:
        [one] = prepare([reader], folder / "templates")
        one = dataclasses.replace(one, seeds=(one.seeds[0], args.repeat.read_bytes()))
        *_, result = run_all([one], 2, Plan("", 1, folder, args.seconds))
    print(f"{result.outcome.kind}: {result.outcome.what} {result.outcome.where}")
    return 0 if result.outcome.kind in GOOD else 1


if __name__ == "__main__":
    sys.exit(main())
