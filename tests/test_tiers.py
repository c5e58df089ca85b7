"""The tiers: together they are all tests, no test is in both, and the quick one refuses processes and long work."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiers

TESTS = Path(__file__).parent
CONFTEST = """
import guard
from tiers import pytest_addoption, pytest_configure, select

guard.LIMIT = 0.5

def pytest_collection_modifyitems(config, items):
    select(config, items)
"""
SUITE = """
import multiprocessing, os, subprocess, time
import pytest

@pytest.fixture
def begun():
    subprocess.run(["true"])

def test_computes():
    pass

def test_starts():
    subprocess.run(["true"])

def test_hides():
    try:
        subprocess.run(["true"])
    except Exception:
        pass

def test_shell():
    os.system("true")

def test_forks():
    multiprocessing.get_context("fork").Process(target=print).start()

def test_spawns():
    multiprocessing.get_context("spawn").Process(target=print).start()

def test_asks(begun):
    pass

def test_long():
    begin = time.process_time()
    while time.process_time() - begin < 1:
        pass

@pytest.mark.process
def test_marked():
    subprocess.run(["true"], check=True)

@pytest.mark.slow
def test_marked_long():
    pass
"""
REFUSED = {"starts", "hides", "shell", "forks", "spawns", "asks", "long"}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, dict[str, str]]:
    """By tier: each test's outcome."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_suite.py").write_text(SUITE)
    return {tier: outcomes_of(folder, "--tier", tier) for tier in ("quick", "rest")}


def outcomes_of(folder: Path, *options: str) -> dict[str, str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rA", *options, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "1000"}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    found = re.findall(r"^(PASSED|FAILED|ERROR) \S*::test_(\w+)(.*)$", done.stdout, re.MULTILINE)
    return {name: f"{outcome}{text}" for outcome, name, text in found}


@pytest.mark.process
def test_the_tiers_share_no_test_and_leave_none_out(outcomes):
    quick, rest = (set(outcomes[tier]) for tier in ("quick", "rest"))
    assert rest == {"marked", "marked_long"}
    assert quick == {"computes", *REFUSED}


@pytest.mark.process
def test_the_quick_tier_refuses_processes_and_long_work(outcomes):
    quick = outcomes["quick"]
    assert {name for name, outcome in quick.items() if not outcome.startswith("PASSED")} == REFUSED
    assert "@pytest.mark.slow" in quick["long"]
    assert all("@pytest.mark.process" in quick[name] for name in REFUSED - {"long"}), quick


@pytest.mark.process
def test_marked_tests_start_what_they_like(outcomes):
    assert all(outcome.startswith("PASSED") for outcome in outcomes["rest"].values())


def names_in(module: Path) -> set[str]:
    """Of tests and fixtures."""
    return {
        node.name for node in ast.parse(module.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize("module", sorted(tiers.REST))
def test_the_list_names_what_exists(module):
    path = TESTS / f"{module}.py"
    assert path.is_file()
    assert set(tiers.REST[module]) - set(tiers.ALL) <= names_in(path)
