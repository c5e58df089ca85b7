"""run_job(): what a folder was begun with stays; lists, foreign files, other jobs, exit codes."""

import dataclasses
import errno
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from jobs_small import OPTIONS, Mean, SmallClassifier, SmallSegmenter, images, replace
from label_jobs import jpeg

from pplfast.cluster import agreement
from pplfast.cluster.ranks import Ranks
from pplfast.errors import UserError
from pplfast.jobs.folder import find_outputs
from pplfast.jobs.job import Choice
from pplfast.jobs.manifest import ManifestWriter, read_manifest
from pplfast.jobs.options import JobOptions, Outcome
from pplfast.jobs.run import _digest, run_job
from pplfast.labels.cam import CamJob, generate_cams
from pplfast.labels.label import LabelJob, label_dataset
from pplfast.labels.network import ScaledNetwork
from pplfast.labels.segment import SegmentJob
from pplfast.lock import hold_folder
from pplfast.recipe import CamConfig, LabelConfig, SegmentationConfig

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def data(tmp_path):
    return images(tmp_path / "images", "abcdef")


def files(out):
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def settings(out):
    return json.loads((out / "settings.json").read_text())


# --- decided once ---


def test_what_was_left_open_is_decided_once_for_a_folder(data, tmp_path):
    def job(value):
        return Mean(data, chosen={"how": Choice(value, ("old", "new").__contains__)})

    out = tmp_path / "out"
    run_job(job("old"), out, OPTIONS)
    (out / "a.png").unlink()
    again = job("new")
    assert run_job(again, out, OPTIONS).written == 1 and again.settings["how"] == settings(out)["how"] == "old"


@pytest.mark.parametrize("value", [5, "x", None, ["old"], {"old": 1}, True, float("nan")])
def test_a_recorded_choice_that_cannot_be_is_not_taken(data, tmp_path, value):
    out = tmp_path / "out"
    job = Mean(data, chosen={"how": Choice("new", ("old", "new").__contains__)})
    run_job(job, out, OPTIONS)
    (out / "settings.json").write_text(json.dumps({"kind": "mean", "how": value}))
    with pytest.raises(UserError, match=r"out: was filled with how = .*, not 'new'; choose another output folder"):
        run_job(Mean(data, chosen=job.chosen), out, OPTIONS)


def models(data):
    cam = CamConfig((1.0,), True, 2, "auto")
    segment = dataclasses.replace(SegmentationConfig(scales=(1.0,), crf="none"))
    segment = dataclasses.replace(segment, optim=dataclasses.replace(segment.optim, precision="auto"))
    return {
        "cam": lambda: CamJob(SmallClassifier(), data, cam, False),
        "label": lambda: LabelJob(SmallClassifier(), data, cam, LabelConfig(value=0.4), None, ("png",), "auto", 10),
        "segment": lambda: SegmentJob(SmallSegmenter(), data.classes, data, segment),
    }


@pytest.mark.parametrize("name", ["cam", "label", "segment"])
def test_auto_precision_stays_as_it_was_decided(data, tmp_path, monkeypatch, name):
    make, out = models(data)[name], tmp_path / "out"
    monkeypatch.setattr("pplfast.jobs.workers.ProcessPoolExecutor", in_threads)
    monkeypatch.setattr("pplfast.labels.network.resolve_precision", lambda wanted, device: "bf16")
    run_job(make(), out, OPTIONS)
    assert settings(out)["precision"] == "bf16"
    monkeypatch.setattr("pplfast.labels.network.resolve_precision", lambda wanted, device: "fp32")
    replace(data.images[0], jpeg(seed=50))
    job = make()
    networks, plain = [], ScaledNetwork.__call__
    monkeypatch.setattr(ScaledNetwork, "__call__", lambda self, *given: networks.append(self) or plain(self, *given))
    assert run_job(job, out, OPTIONS).written == 1 and settings(out)["precision"] == "bf16"
    assert networks and all(network._bf16 for network in networks)


def in_threads(jobs, *_):
    """The worker processes of a job, without the processes."""
    return ThreadPoolExecutor(jobs)


@pytest.mark.parametrize(("began", "now"), [("device", "cpu"), ("pydensecrf", "cuda")])
def test_the_crf_goes_on_where_it_began(data, tmp_path, monkeypatch, began, now):
    monkeypatch.setattr("pplfast.jobs.workers.ProcessPoolExecutor", in_threads)
    out, cam, label = tmp_path / "out", CamConfig((1.0,), False, 2, "fp32"), LabelConfig(value=0.4)
    plain = LabelJob.choices

    def choices(self, device, network_bytes):
        return plain(self, device, network_bytes) | self._rule.choices(torch.device(machine[0]))

    monkeypatch.setattr(LabelJob, "choices", choices)
    machine = ["cuda" if began == "device" else "cpu"]
    label_dataset(SmallClassifier(), data, cam, label, out, options=OPTIONS)
    assert settings(out)["crf_engine"] == began
    machine[0] = now
    (out / "a.png").unlink()
    assert label_dataset(SmallClassifier(), data, cam, label, out, options=OPTIONS).written == 1
    assert settings(out)["crf_engine"] == began
    for engine in {"device", "pydensecrf"} - {began}:
        with pytest.raises(UserError, match=f"was filled with crf_engine = '{began}', not '{engine}'"):
            label_dataset(SmallClassifier(), data, cam, label, out, engine=engine, options=OPTIONS)


@pytest.mark.parametrize(
    ("device", "preset", "engine"),
    [("cpu", "probabilities", "pydensecrf"), ("cuda:0", "probabilities", "device"), ("cuda:0", "none", None)],
)
def test_the_crf_is_computed_where_the_network_is(data, device, preset, engine):
    label = LabelConfig(value=0.3, crf=preset)

    def job(wanted):
        return LabelJob(SmallClassifier(), data, CamConfig(), label, None, ("png",), wanted, 10)

    choices = job("auto")._rule.choices(torch.device(device))
    assert choices.get("crf_engine", (None,))[0] == engine
    for chosen in ("pydensecrf", "device"):
        assert not job(chosen)._rule.choices(torch.device(device))
        assert job(chosen).wanted.get("crf_engine") == (None if preset == "none" else chosen)
    with pytest.raises(UserError, match="CRF engine 'gpu': must be one of pydensecrf, device, auto"):
        job("gpu")


@pytest.mark.parametrize(
    "change", [{"precision": 5}, {"precision": "fp16"}, {"call_pixels": "x"}, {"call_pixels": 1.0}, {"call_pixels": 1}]
)
def test_foreign_values_of_a_networks_choices_are_not_taken(data, tmp_path, change):
    out, config = tmp_path / "out", CamConfig((1.0,), False, 2, "auto")
    generate_cams(SmallClassifier(), data, config, out, options=OPTIONS)
    (out / "settings.json").write_text(json.dumps(settings(out) | change))
    (name,) = change
    with pytest.raises(UserError, match=f"out: was filled with {name} = "):
        generate_cams(SmallClassifier(), data, config, out, options=OPTIONS)


def test_the_tiles_of_a_folder_do_not_depend_on_the_memory_of_a_later_start(data, tmp_path):
    out, config = tmp_path / "out", CamConfig((1.0,), False, 2, "fp32")
    generate_cams(SmallClassifier(), data, config, out, options=OPTIONS)
    before = settings(out)["call_pixels"]
    generate_cams(SmallClassifier(), data, config, out, options=dataclasses.replace(OPTIONS, memory=2.0))
    assert settings(out)["call_pixels"] == before
    generate_cams(SmallClassifier(), data, config, tmp_path / "new", options=dataclasses.replace(OPTIONS, memory=2.0))
    assert settings(tmp_path / "new")["call_pixels"] > before


# --- lists ---


def test_a_pass_over_another_list_keeps_the_records_of_the_first(tmp_path):
    data, out = images(tmp_path / "images", "abcdef"), tmp_path / "out"
    data.images[1].write_bytes(b"")
    first, second = data.subset([0, 1, 2]), data.subset([4, 3, 2])
    assert [name for name, _ in run_job(Mean(first), out, OPTIONS).bad] == ["b"]
    outcome = run_job(Mean(second), out, OPTIONS)
    assert outcome.written == 2 and outcome.skipped == 1 and not outcome.bad and outcome.exit_code == 0
    records = read_manifest(out)
    assert list(records) == ["e", "d", "c", "a", "b"] and records["b"]["kind"] == "empty"
    assert "empty file" in find_outputs(out, first.ids, ".png", "pplfast mean")["b"]
    outcome = run_job(again := Mean(first), out, OPTIONS)
    assert outcome.skipped == 2 and outcome.bad[0][0] == "b" and not again.seen


def test_the_manifest_has_each_image_once_in_the_lists_order(data, tmp_path):
    out = tmp_path / "out"
    run_job(Mean(data.subset([5, 3])), out, OPTIONS)
    run_job(Mean(data), out, OPTIONS)
    ids = [json.loads(line)["id"] for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert ids == list("abcdef")
    assert files(out) == sorted([f"{name}.png" for name in ids] + ["manifest.jsonl", "settings.json"])


# --- foreign files ---


def test_a_foreign_file_of_an_outputs_name_is_refused_and_untouched(data, tmp_path):
    out = tmp_path / "images"  # as somebody's labels lie beside the images
    (out / "c.png").write_bytes(b"drawn by hand")
    for _ in range(2):
        with pytest.raises(UserError, match=r"images/c\.png: is in the way, and .*images has no settings.json"):
            run_job(Mean(data), out, OPTIONS)
    assert files(out) == sorted([f"{name}.jpg" for name in "abcdef"] + ["c.png"])
    assert (out / "c.png").read_bytes() == b"drawn by hand"
    (out / "c.png").unlink()
    (out / "e.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"e\.png: is in the way"):
        run_job(Mean(data), out, OPTIONS)


def test_files_that_are_no_outputs_stay(data, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "other.png").write_text("mine")
    data.images[1].write_bytes(b"")
    assert run_job(Mean(data), out, OPTIONS).written == 5
    assert (out / "notes.txt").read_text() == (out / "other.png").read_text() == "mine"


def test_a_file_in_the_folders_place_is_one_line(data, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="out: is a file; give a folder for the outputs"):
        run_job(Mean(data), tmp_path / "out", OPTIONS)


def test_a_second_job_is_refused_by_name(data, tmp_path, monkeypatch):
    monkeypatch.setattr("pplfast.jobs.file_outputs.PATIENCE", 0.0)
    with hold_folder(tmp_path / "out"):
        with pytest.raises(UserError, match=f"process {os.getpid()} on {socket.gethostname()} writes to it; wait"):
            run_job(Mean(data), tmp_path / "out", OPTIONS)
        assert os.listdir(tmp_path / "out") == [".lock"]


def test_a_rank_of_another_job_that_is_still_at_work_is_waited_for_and_named(data, tmp_path, monkeypatch):
    monkeypatch.setattr("pplfast.jobs.plan.PATIENCE", 0.0)
    out = tmp_path / "out"
    writer = ManifestWriter(out, 1)
    with pytest.raises(UserError, match=r"rank00001\.jsonl: another job is writing to this folder"):
        run_job(Mean(data), out, OPTIONS)
    writer.close()
    assert run_job(Mean(data), out, OPTIONS).written == 6


# --- restarts ---


def test_a_restart_does_what_is_torn_and_leaves_nothing_behind(data, tmp_path):
    out = tmp_path / "out"
    run_job(Mean(data), out, OPTIONS)
    before = {name: (out / name).read_bytes() for name in files(out) if name.endswith(".png")}
    times = {name: (out / name).stat().st_mtime_ns for name in before}
    (out / "a.png").unlink()
    (out / "b.png").write_bytes(b"torn")
    (out / ".99999-0123456789abcdef.partial").write_bytes(b"of a dead process")
    (out / "manifest").mkdir()
    (out / "manifest" / "rank00007.jsonl").write_text('{"id":"c","state":"do')  # a torn last line
    (out / "manifest" / "rank00007.status").write_text("{}")
    assert run_job(again := Mean(data), out, OPTIONS).written == 2 and again.seen == ["a", "b"]
    assert {name: (out / name).read_bytes() for name in before} == before
    assert files(out) == sorted([*before, "manifest.jsonl", "settings.json"])
    assert all((out / f"{name}.png").stat().st_mtime_ns == times[f"{name}.png"] for name in "cdef")


def test_what_ranks_left_is_merged_and_divided_anew(data, tmp_path):
    """Of four ranks, two of which were killed: each record counts, wherever it lies."""
    out = tmp_path / "out"
    run_job(Mean(data), out, OPTIONS)
    lines = (out / "manifest.jsonl").read_text().splitlines(keepends=True)
    (out / "manifest").mkdir()
    (out / "manifest.jsonl").write_text(lines[0])
    for rank, line in enumerate(lines[1:5]):
        (out / "manifest" / f"rank0000{rank}.jsonl").write_text(line)
    assert run_job(again := Mean(data), out, OPTIONS).written == 1 and again.seen == ["f"]
    assert not (out / "manifest").exists()


class Stopped(Mean):
    """Gets a signal after two images."""

    batch = 1

    def compute(self, batch, stopped):
        if len(self.seen) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            deadline = time.monotonic() + 20
            while not stopped():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            return None
        return super().compute(batch, stopped)


def test_a_stopped_job_says_how_to_go_on_and_goes_on(data, tmp_path, capsys):
    out, handler = tmp_path / "out", signal.getsignal(signal.SIGTERM)
    outcome = run_job(Stopped(data), out, OPTIONS)
    assert outcome.signal == signal.SIGTERM and outcome.exit_code == 143 and outcome.unfinished == [0]
    assert "2 of 6 images done; run the same command again to continue" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is handler
    assert run_job(again := Mean(data), out, OPTIONS).written == 4 and "a" not in again.seen


STOPPED_UNREAD = """
import os, signal, sys, threading, time
from pplfast.jobs import stopping
stopping.LIMIT = float(sys.argv[1])
gone, unread = os.pipe()
if sys.argv[2] == "broken":
    os.close(gone)
else:
    os.set_blocking(unread, False)
    try:
        while os.write(unread, bytes(4096)):
            pass
    except BlockingIOError:
        os.set_blocking(unread, True)
os.dup2(unread, 2)
with stopping.Stopping(True, lambda: print("given up", file=sys.stderr, flush=True)) as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    begin = time.monotonic()
    while not stop.stopped() or sys.argv[1] == "0.1":
        assert time.monotonic() < begin + 20
        time.sleep(0.01)
os._exit(7)
"""


@pytest.mark.slow
@pytest.mark.parametrize("limit, code", (("0.1", 143), ("60", 7)))
@pytest.mark.parametrize("stderr", ("broken", "full"))
def test_a_signal_counts_where_nobody_reads_what_is_said_of_it(stderr, limit, code):
    assert subprocess.run([sys.executable, "-c", STOPPED_UNREAD, limit, stderr], timeout=30).returncode == code


class Unread(io.StringIO):
    """A pipe whose reader has ended."""

    def write(self, text):
        raise BrokenPipeError


def test_a_job_whose_progress_nobody_reads_is_done_all_the_same(data, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Unread())
    outcome = run_job(Mean(data), tmp_path / "out", OPTIONS)
    assert outcome.written == 6 and not (tmp_path / "out" / "manifest").exists()
    outcome = run_job(Stopped(data), tmp_path / "stopped", OPTIONS)
    assert outcome.signal == signal.SIGTERM and outcome.written == 2


def test_a_job_can_be_done_from_a_thread(data, tmp_path):
    """Where Python allows no handlers of signals."""
    found = []
    thread = threading.Thread(target=lambda: found.append(run_job(Mean(data), tmp_path / "out", OPTIONS)))
    thread.start()
    thread.join()
    assert found and found[0].written == 6


# --- the outcome ---


def test_a_job_without_one_good_image_is_an_error(data, tmp_path):
    for path in data.images:
        path.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(UserError, match=r"out: all 6 images failed \(first: a: .*a\.jpg: empty file"):
            run_job(Mean(data), tmp_path / "out", OPTIONS)


def test_the_outcome_is_the_same_where_the_ranks_had_joined_before(data, tmp_path):
    data.images[0].write_bytes(b"")
    first, second = (run_job(Mean(data), tmp_path / name, OPTIONS) for name in ("one", "two"))
    assert first.bad == second.bad == [("a", f"{data.images[0]}: empty file; restore it")]


def test_exit_codes():
    assert Outcome().exit_code == 0 and Outcome(bad=[("a", "x")]).exit_code == 3
    assert Outcome(bad=[("a", "x")], unfinished=[1]).exit_code == 1
    assert Outcome(bad=[("a", "x")], unfinished=[1], signal=2).exit_code == 130


def test_a_summary_names_the_first_bad_images_and_cannot_steer_a_terminal(tmp_path):
    busy = {"decode": 0.1, "network": 0.2, "crf": 0.5, "encode": 0.1, "write": 0.0}
    bad = [("a\n", "\x1b[2Jbroken"), *((f"b{number}", "x") for number in range(30))]
    lines = Outcome(8, 2, bad, 4.0, busy).summary("labels", tmp_path).splitlines()
    assert lines[0].startswith("8 labels written") and "(2.0 images/s), 2 were there already" in lines[0]
    assert "bottleneck: crf (60% busy)" in lines[0]
    assert r"  a\n: \x1b[2Jbroken" in lines and lines[-1] == "  ... and 11 more" and len(lines) == 23


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"jobs": 0}, "--jobs 0: must be 1 or more"),
        ({"threads": -1}, "--threads -1: must be 1 or more"),
        ({"memory": 0.1}, "--memory 0.1: must be 0.25 GiB or more"),
        ({"memory": float("nan")}, "--memory nan: must be"),
        ({"memory": 1e9}, "--memory 1e.09: must be at most"),
    ],
)
def test_options_that_mean_nothing_are_refused_before_anything_is_made(data, tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        run_job(Mean(data), tmp_path / "out", JobOptions(**options))
    assert not (tmp_path / "out").exists()


def test_progress_for_prometheus(data, tmp_path):
    data.images[0].write_bytes(b"")
    options = dataclasses.replace(OPTIONS, prometheus=tmp_path / "m.prom")
    run_job(Mean(data), tmp_path / "out", options)
    text = (tmp_path / "m.prom").read_text()
    assert 'images{state="finished"} 6' in text and 'images{state="bad"} 1' in text and 'phase="decode"' in text


# --- ranks ---


@pytest.mark.parametrize("world", [1, 2])
def test_several_ranks_need_a_file_system_with_locks(data, tmp_path, monkeypatch, world):
    def none(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    ranks = Ranks(0, world, world, torch.device("cpu"))
    monkeypatch.setattr("fcntl.flock", none)
    monkeypatch.setattr("pplfast.jobs.run.start_ranks", lambda local_rank: ranks)
    monkeypatch.setattr("pplfast.jobs.run.agree", lambda *_: None)
    monkeypatch.setattr("pplfast.jobs.run.on_main", lambda ranks, work: work())
    if world > 1:
        with pytest.raises(UserError, match="out: its file system has no locks, which several ranks need; take one"):
            run_job(Mean(data), tmp_path / "out", OPTIONS)
        assert not (tmp_path / "out" / "settings.json").exists()
        return
    monkeypatch.setattr("pplfast.jobs.run.together", lambda ranks, work: work())
    monkeypatch.setattr("pplfast.jobs.run.gather", lambda ranks, value: [value])
    assert run_job(Mean(data), tmp_path / "out", OPTIONS).exit_code == 0
    assert len(read_manifest(tmp_path / "out")) == 6


def test_ranks_that_mean_different_jobs_are_told_apart(data):
    swapped = dataclasses.replace(data, labels=data.labels[::-1].copy())
    first = _digest(data)
    assert _digest(data.subset(range(3)))["the number of images"] == 3
    assert _digest(swapped) != first and _digest(data.subset([1, 0, 2, 3, 4, 5])) != first
    assert _digest(dataclasses.replace(data, labels=None)) != first
    hosts = [
        (host, {agreement.OPTIONS: agreement._flat({"crf": crf})}) for host, crf in (("a", "none"), ("b", "labels"))
    ]
    assert "crf is 'none' on host a (rank 0) and 'labels' on host b" in agreement.difference(hosts)
