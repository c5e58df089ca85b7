"""The doctor runs every part for real, and names what fails."""

import json

import pytest

from pplfast import doctor
from pplfast.cli import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def findings() -> list[doctor.Finding]:
    return doctor.examine()


def test_every_part_works_here(findings):
    assert [finding for finding in findings if not finding.ok] == []
    engines = {finding.engine for finding in findings}
    assert {
        "kernel patch_split",
        "kernel patch_pool",
        "kernel cam_fuse",
        "loader",
        "training",
        "dense CRF",
        "precision auto",
    } <= engines
    assert all(finding.backend and finding.why for finding in findings)


def test_a_part_that_fails_is_named_and_the_others_are_still_examined(monkeypatch, capsys):
    def broken():
        raise OSError("libpart.so: cannot open shared object file\nsecond line")

    monkeypatch.setattr(doctor, "PROBES", {"part": broken, "precision auto": doctor._probe_precision})
    assert main(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["ok"]
    assert report["findings"][0] == {
        "engine": "part",
        "backend": "fails",
        "ok": False,
        "why": "OSError: libpart.so: cannot open shared object file",
    }
    assert report["findings"][1]["ok"]
    assert main(["doctor"]) == 1
    assert "libpart.so" in capsys.readouterr().out


def test_wrong_results_of_the_crf_are_found(monkeypatch):
    monkeypatch.setattr("pplfast.labels.crf.dense_crf", lambda image, probabilities, preset: probabilities)
    with pytest.raises(RuntimeError, match="wrong labels"):
        doctor._probe_crf()


def test_a_training_step_that_fails_is_named_by_its_own_message(monkeypatch):
    monkeypatch.setattr(doctor, "_TRAINING", "raise OSError('no network interface')")
    with pytest.raises(RuntimeError, match="exit code 1: OSError: no network interface"):
        doctor._probe_training()


def test_json_holds_versions_hardware_and_findings(findings):
    report = doctor.to_dict(findings)
    assert report["ok"] and json.loads(json.dumps(report)) == report
    assert report["versions"]["torch"].startswith("2.")
    assert "cores usable" in report["hardware"]["cpu"]
