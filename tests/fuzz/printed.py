"""What is said of a fuzz, and kept of it."""

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fuzz.outcome import ACCEPTED, GOOD, KINDS
from fuzz.reader import Prepared
from fuzz.workers import Result, make_input

MOST = 100  # defects that are printed; all are kept

Defect = tuple[str, ...]  # reader, and Outcome.place


def print_counts(readers: Sequence[str], results: Sequence[Result]) -> None:
    """A row for each reader, a column for each outcome."""
    counts = {name: Counter[str]() for name in readers}
    for result in results:
        counts[result.reader][result.outcome.kind] += 1
    heads = (*GOOD, *KINDS)
    width = max(map(len, ("reader", *readers)))
    print(f"{'reader':<{width}}" + "".join(f"{head:>10}" for head in heads))
    for name, row in [*counts.items(), ("all", sum(counts.values(), Counter[str]()))]:
        print(f"{name:<{width}}" + "".join(f"{row[head]:>10}" for head in heads))


def by_defect(results: Sequence[Result]) -> dict[Defect, list[Result]]:
    """The results that must not be."""
    found: dict[Defect, list[Result]] = {}
    for result in sorted(results, key=lambda result: (result.reader, result.number)):
        if result.outcome.kind not in GOOD:
            found.setdefault((result.reader, *result.outcome.place), []).append(result)
    return found


def keep_inputs(
    prepared: Sequence[Prepared], seed: str, defects: dict[Defect, list[Result]], keep: Path
) -> dict[Defect, Path]:
    """Write the first input of each defect to keep/<reader>/; where each is."""
    by_name = {one.reader.name: one for one in prepared}
    kept = {}
    for defect, (first, *_) in defects.items():
        one = by_name[first.reader]
        name = re.sub(r"\W+", "_", seed)
        path = keep / first.reader / f"{name}-{first.number}-{Path(one.reader.file).name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_input(one, seed, first.number))
        kept[defect] = path
    return kept


def print_defects(defects: dict[Defect, list[Result]], kept: dict[Defect, Path], options: Sequence[str]) -> None:
    """options: what the command that repeats one needs, beside its reader and its file."""
    for defect, results in list(defects.items())[:MOST]:
        reader, outcome = results[0].reader, results[0].outcome
        words = ["-m", "fuzz", *options, "--reader", reader, "--repeat", str(kept[defect])]
        print(f"\n{reader}: {KINDS[outcome.kind]} ({len(results)} times)")
        print(f"  {outcome.what!r:.300} at {outcome.where or 'no line of pplfast'}")
        print(f"  PYTHONPATH=tests .venv/bin/python {shlex.join(words)}")
    if len(defects) > MOST:
        print(f"\n... and {len(defects) - MOST} more, in the folders beside these")


def print_refused(prepared: Sequence[Prepared], results: Sequence[Result]) -> int:
    """Valid contents that were not accepted: then the reader, or its seed, is not what the table takes it for."""
    valid = {one.reader.name: one.valid for one in prepared}
    refused = [result for result in results if result.number < valid[result.reader] and result.outcome.kind != ACCEPTED]
    for result in refused:
        print(f"{result.reader}: refuses its valid seed {result.number}: {result.outcome.what} {result.outcome.where}")
    return len(refused)
