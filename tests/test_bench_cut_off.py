"""A benchmark that is killed at any moment: every row that it printed is in its results file.

python tests/test_bench_cut_off.py        prints how many of 20 tries kept all their rows
"""

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from pplfast.benchmarks.harness import Effort, alternate
from pplfast.benchmarks.results import Ratio, Report, commit, hardware, versions

TRIES, LONGEST = 20, 0.4  # seconds that a try runs at most after its first line
EFFORT = Effort(3, 0.0, sample=0.0)


def bench(out: Path, rows: int) -> None:
    """Rows through the report and the harness of the real ones, each of two contestants that do next to nothing."""
    report = Report("cpu", quick=True, ceilings={"copy": 1e10}, out=out)
    for number in range(rows):
        case = f"case {number}"
        report.check("kernels", case, "output 0 against float32", 0.0, 1e-5)
        samples = alternate({"reference": lambda: sum(range(300)), "pplfast": lambda: sum(range(100))}, "cpu", EFFORT)
        report.add("kernels", case, samples, [Ratio("reference", "pplfast")])
        report.skip("kernels", f"{case} on a GPU", "there is none")


def cut_off(folder: Path, seconds: float) -> tuple[str, Path]:
    """What a benchmark printed that is killed after so many seconds, and its results file."""
    log, out = folder / "log", folder / "results.json"
    child = os.fork()
    if child == 0:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 1)
        sys.stdout = open(1, "w", closefd=False)  # not pytest's
        bench(out, 1_000_000)
    deadline = time.monotonic() + 60
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.002)  # a busy machine takes longer to the first line than the whole of LONGEST
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return log.read_text(), out


def lost(printed: str, out: Path) -> list[str]:
    """Lines that the file has no record of."""
    lines = printed.split("\n")[:-1]  # the last one may be cut within
    if not lines:
        return []
    if not out.exists():
        return lines
    found = json.loads(out.read_text())
    if found["complete"]:
        return ["the file calls itself complete"]
    cases = {kind: {row["case"] for row in found[kind]} for kind in ("checks", "rows", "ratios")}
    skipped = {row["what"] for row in found["skipped"]}
    missing, case = [], ""
    for line in lines:
        words = line.split()
        if words[0] == "ok":
            known = line[9:].split(":")[0] in cases["checks"]
        elif words[0] == "kernels":
            case = line.removeprefix("  kernels ")
            known = case in cases["rows"]
        elif words[0] == "skipped":
            known = line.removeprefix("  skipped ").split(":")[0] in skipped
        else:
            known = case in cases["ratios"] and case in cases["rows"]
        if not known:
            missing.append(line)
    return missing


def count_kept(folder: Path) -> tuple[int, int]:
    """(tries that lost nothing, lines printed in all)."""
    hardware(), versions(), commit()  # looked up once; each try forks this process
    moments, kept, lines = random.Random(0), 0, 0
    for number in range(TRIES):
        own = folder / str(number)
        own.mkdir()
        printed, out = cut_off(own, moments.uniform(0.01, LONGEST))
        missing = lost(printed, out)
        kept, lines = kept + (not missing), lines + printed.count("\n")
        for line in missing:
            print(f"try {number}: lost: {line}")
    return kept, lines


@pytest.mark.slow
def test_every_printed_row_is_in_the_file():
    """In a process of its own: its tries are forks, whose garbage collection takes as long as the heap is large."""
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True)
    kept, lines = map(int, re.search(r"(\d+) of \d+ \((\d+) lines printed\)$", done.stdout.strip()).groups())
    assert kept == TRIES and done.returncode == 0, done.stdout
    assert lines > 2 * TRIES


def test_a_row_is_in_the_file_before_it_is_printed(tmp_path, monkeypatch):
    """The moment between the two is too short to be hit by chance."""
    out, printed, missing = tmp_path / "results.json", [], []

    class Console(io.StringIO):
        def write(self, text: str) -> int:
            printed.append(text)
            if "\n" in text:
                missing.extend(lost("".join(printed), out))
            return len(text)

    monkeypatch.setattr(sys, "stdout", Console())
    bench(out, 2)
    monkeypatch.undo()
    assert "".join(printed).count("\n") == 2 * 6 and missing == []


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        tries_kept, printed_lines = count_kept(Path(folder))
    print(f"{tries_kept} of {TRIES} ({printed_lines} lines printed)")
    sys.exit(tries_kept != TRIES)
