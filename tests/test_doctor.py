"""The doctor runs every part for real, says what it does, names what fails, and waits for nothing that never comes."""

import json
import os
import time

import pytest

from pplfast import doctor, probes
from pplfast.cli import main
from pplfast.doctor import Probe

pytestmark = pytest.mark.slow

PARTS = """
import os, signal, time
from pplfast.probes import Finding

def works():
    return [Finding("part", "here", "it works")]

def broken():
    raise OSError("libpart.so: cannot open shared object file\\nsecond line")

def waits_for_a_lock():
    time.sleep(600)

def computes():
    end = time.thread_time() + 2.5
    while time.thread_time() < end:
        pass
    print("a library's own words")
    return works()

def crashes():
    print("what the library said last")
    os.kill(os.getpid(), signal.SIGSEGV)

def leaves():
    os._exit(3)
"""


@pytest.fixture
def parts(monkeypatch, tmp_path):
    """Gives the doctor other probes: those of PARTS that are named."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "parts_of_a_test.py").write_text(PARTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "parts"))

    def use(*names):
        found = {name: Probe(f"runs {name}", {name: f"parts_of_a_test:{name}"}) for name in names}
        monkeypatch.setattr(doctor, "PROBES", found)

    return use


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def diagnosis(said) -> doctor.Diagnosis:
    return doctor.examine(said.append)


def test_every_part_works_here(diagnosis):
    assert [finding for finding in diagnosis.findings if not finding.ok] == []
    engines = {finding.engine for finding in diagnosis.findings}
    assert {
        "kernel patch_split",
        "kernel patch_pool",
        "kernel cam_fuse",
        "loader",
        "other images",
        "training",
        "dense CRF",
        "precision auto",
    } <= engines
    assert all(finding.backend and finding.why for finding in diagnosis.findings)


def test_says_what_it_does_before_and_what_came_of_it_after(diagnosis, said):
    assert said[: len(doctor.PROBES)] == [f"{name}: {probe.what} ..." for name, probe in doctor.PROBES.items()]
    assert {line.split(" (")[0] for line in said[len(doctor.PROBES) :]} == {f"{name}: works" for name in doctor.PROBES}


def test_json_holds_versions_hardware_and_findings(diagnosis):
    report = diagnosis.to_dict()
    assert report["ok"] and json.loads(json.dumps(report)) == report
    assert report["versions"]["torch"].startswith("2.")
    assert "cores usable" in report["hardware"]["cpu"] and report["hardware"]["gpus"]


def test_a_part_that_fails_is_named_and_the_others_are_still_examined(parts, capsys):
    parts("broken", "works")
    assert main(["doctor", "--json"]) == 1
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert not report["ok"]
    assert report["findings"][0] == {
        "engine": "broken",
        "backend": "fails",
        "ok": False,
        "why": "OSError: libpart.so: cannot open shared object file",
    }
    assert report["findings"][1]["ok"] and report["hardware"]["cpu"]
    assert "broken: fails: OSError: libpart.so" in captured.err and "works: works" in captured.err
    assert main(["doctor"]) == 1
    assert "libpart.so" in capsys.readouterr().out


def test_one_that_waits_for_what_does_not_come_is_ended_and_its_place_named(parts, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "STUCK", 3.0)
    parts("waits_for_a_lock", "computes", "works")
    start = time.monotonic()
    assert main(["doctor", "--json"]) == 1
    assert time.monotonic() - start < 60  # not 600
    captured = capsys.readouterr()
    stuck, *others = json.loads(captured.out)["findings"]
    assert stuck["why"].startswith("no answer: it has waited for 3 s, in parts_of_a_test.py, line ")
    assert stuck["why"].endswith(" in waits_for_a_lock")
    assert len(others) == 2 and all(finding["ok"] for finding in others)  # however long they compute
    assert "time.sleep" not in captured.out + captured.err and "a library's own words" not in captured.out
    assert not any("waits_for_a_lock" in command for command in commands())


def commands():
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{process}/cmdline") as file:
                yield file.read()
        except OSError:
            continue


def test_one_that_computes_without_end_is_ended(parts, monkeypatch):
    monkeypatch.setattr(doctor, "LIMIT", 1.0)
    parts("computes")
    (finding,) = doctor.examine().findings
    assert not finding.ok and finding.why.startswith("no answer within 1 s")


def test_one_that_ends_without_an_answer_is_named_by_its_signal_or_its_exit_code(parts):
    parts("crashes", "leaves")
    crashed, left = doctor.examine().findings
    assert crashed.why == "ended without an answer (SIGSEGV): what the library said last"
    assert left.why == "ended without an answer (exit code 3): no message"


def test_what_lies_in_the_working_folder_is_not_imported(parts, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("json", "pplfast", "torch"):
        (tmp_path / f"{name}.py").write_text("open('imported', 'w')\nraise SystemExit(9)\n")
    parts("works")
    (finding,) = doctor.examine().findings
    assert finding.ok and not (tmp_path / "imported").exists()


def test_training_compiles_nothing_and_waits_neither_for_a_stale_lock_nor_for_other_ranks(monkeypatch, tmp_path):
    lock = tmp_path / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir()
    lock.touch()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "9")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(doctor, "PROBES", {"training": doctor.PROBES["training"]})
    (finding,) = doctor.examine().findings
    assert finding.ok and finding.backend.startswith("DeepSpeed on ")
    assert sorted(tmp_path.rglob("*")) == [lock.parent, lock]


def test_wrong_results_of_the_crf_are_found(monkeypatch):
    monkeypatch.setattr("pplfast.labels.crf.dense_crf", lambda image, probabilities, preset: probabilities)
    with pytest.raises(RuntimeError, match="wrong labels"):
        probes.crf()
