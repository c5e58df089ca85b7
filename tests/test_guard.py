"""The guard of the quick tests: it refuses processes and long work to every test that is not marked slow."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
CONFTEST = """
import guard

guard.LIMIT = 0.5

def pytest_configure(config):
    config.addinivalue_line("markers", "slow")
    config.pluginmanager.register(guard.Plugin())
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

@pytest.mark.slow
def test_marked():
    subprocess.run(["true"], check=True)
    begin = time.process_time()
    while time.process_time() - begin < 1:
        pass
"""
REFUSED = {"starts", "hides", "shell", "forks", "spawns", "asks", "long"}


@pytest.mark.slow
def test_quick_tests_start_no_process_and_take_no_time(tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_suite.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rA", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "1000"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    found = {
        name: f"{outcome}{text}"
        for outcome, name, text in re.findall(r"^(PASSED|FAILED|ERROR) \S*::test_(\w+)(.*)$", done.stdout, re.MULTILINE)
    }
    assert {name for name, outcome in found.items() if not outcome.startswith("PASSED")} == REFUSED, done.stdout
    assert set(found) == {*REFUSED, "computes", "marked"}
    assert all("@pytest.mark.slow" in found[name] for name in REFUSED), found
