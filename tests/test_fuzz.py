"""Damaged files through every reader: some of those of `make test-fuzz`; and that it finds what it looks for."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz import planted
from fuzz.outcome import ACCEPTED, GOOD, KINDS

TESTS = Path(__file__).resolve().parent
COUNT, SEED = 1300, "make test"

pytestmark = pytest.mark.slow


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: it forks, which this one's threads would not survive."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-m", "fuzz", *arguments]
    return subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True, timeout=300)


def counts(text: str) -> dict[str, dict[str, int]]:
    """The printed table: reader -> outcome -> inputs."""
    heads = re.search(r"^reader +(.*)$", text, re.MULTILINE)[1].split()
    rows = re.findall(r"^(\w+)((?: +\d+)+)$", text, re.MULTILINE)
    return {name: dict(zip(heads, map(int, numbers.split()), strict=True)) for name, numbers in rows}


def test_nothing_damaged_ends_in_a_traceback_a_hang_or_an_allocation(tmp_path):
    done = fuzz("--count", str(COUNT), "--seed", SEED, "--jobs", "2", "--keep", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    found = counts(done.stdout)["all"]
    assert sum(found.values()) == COUNT and min(found[kind] for kind in GOOD) > COUNT / 5
    assert not any(tmp_path.iterdir())


def test_each_thing_that_can_be_wrong_is_found_and_named(tmp_path):
    arguments = ("--table", "fuzz.planted:readers", "--seconds", "0.5", "--count", "45", "--seed", "a")
    done = fuzz(*arguments, "--keep", str(tmp_path))
    assert done.returncode == 1, done.stdout + done.stderr
    found = counts(done.stdout)
    for act, kind in planted.KINDS.items():
        name = act.__name__.strip("_")
        expected = {ACCEPTED: 1, kind: 2} if kind != ACCEPTED else {ACCEPTED: 3}  # the seed, then two damaged ones
        assert {head: number for head, number in found[name].items() if number} == expected, name
        files = list(tmp_path.glob(f"{name}/*"))
        assert len(files) == (kind in KINDS), name
        if files:
            assert f"\n{name}: {KINDS[kind]} (2 times)" in done.stdout
    for name in ("raises", "dies"):
        [command] = re.findall(rf"^ +PYTHONPATH=tests \S+ -m fuzz (.*--reader {name} .*)$", done.stdout, re.MULTILINE)
        again = fuzz(*shlex.split(command))
        assert again.returncode == 1 and {"raises": "KeyError: 'planted'", "dies": "SIGSEGV"}[name] in again.stdout


def test_a_seed_gives_the_same_inputs_again(tmp_path):
    for run in ("one", "two"):
        fuzz(
            "--table",
            "fuzz.planted:readers",
            "--reader",
            "raises",
            "--count",
            "5",
            "--seed",
            "b",
            "--keep",
            str(tmp_path / run),
        )
    one, two = (sorted((tmp_path / run).rglob("*-file")) for run in ("one", "two"))
    assert len(one) == len(two) == 1 and one[0].read_bytes() == two[0].read_bytes() and one[0].name == two[0].name
