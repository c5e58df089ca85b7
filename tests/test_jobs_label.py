"""`pplfast label --model`: bad images, restarts, outputs, full disks, signals, and kills."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from label_jobs import BAD, label, pngs
from PIL import Image

from pplfast.benchmarks import job_kill
from pplfast.benchmarks.label_data import image_id, label_arguments, make_images
from pplfast.cli import main
from pplfast.data.masks import read_mask, voc_palette
from pplfast.jobs.status import resident_bytes
from pplfast.labels.device_crf import DeviceLabeller
from pplfast.lock import hold_folder
from pplfast.npy import load_npy_dict

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
SINGLE = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """24 images and their labels from a run that nothing disturbed."""
    root = make_images(tmp_path_factory.mktemp("clean"), 24)
    assert label(root, root / "out") == 0
    return root


def records(out):
    return {r["id"]: r for r in map(json.loads, (out / "manifest.jsonl").read_text().splitlines())}


def files(out):
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def test_labels_and_manifest(clean):
    out, found = clean / "out", records(clean / "out")
    assert list(found) == [image_id(n) for n in range(24)]
    assert files(out) == sorted(
        [f"{name}.png" for name in found] + ["confidence.csv", "manifest.jsonl", "settings.json"]
    )
    with Image.open(out / "00/000003.png") as image:
        assert image.mode == "P" and bytes(image.getpalette())[:48] == voc_palette()[:48]
        assert image.size == (found["00/000003"]["width"], found["00/000003"]["height"])
    for record in found.values():
        assert set(np.unique(read_mask(out / f"{record['id']}.png"))) <= {0, *record["classes"]}
    assert len(set(pngs(out).values())) > 10


def test_300_images_of_which_30_are_bad(tmp_path, capsys):
    root = make_images(tmp_path / "data", 300, sizes=((24, 16), (16, 24)))
    assert label(root, tmp_path / "clean", "--crf", "none") == 0
    kinds = {image_id(number * 9 + 4): list(BAD)[number % len(BAD)] for number in range(30)}
    for name, kind in kinds.items():
        path = root / "images" / f"{name}.jpg"
        path.unlink()
        if BAD[kind][0] is not None:
            path.write_bytes(BAD[kind][0]())
    before = resident_bytes()
    assert label(root, tmp_path / "out", "--crf", "none") == 3
    assert resident_bytes() - before < 500e6, "an image of 20,000 x 20,000 pixels was decoded"
    printed = capsys.readouterr()
    assert "270 labels written" in printed.out and "30 bad images" in printed.out and "Traceback" not in printed.err
    found, good = records(tmp_path / "out"), {k: v for k, v in pngs(tmp_path / "clean").items() if k not in kinds}
    assert pngs(tmp_path / "out") == good and len(good) == 270
    assert {name for name, record in found.items() if record["state"] == "bad"} == set(kinds)
    for name, kind in kinds.items():
        assert found[name]["kind"] == kind and re.search(BAD[kind][1], found[name]["reason"]), found[name]
        assert f"{name}.jpg" in found[name]["reason"]
    # started again: nothing to do, the same answer; a mended image is labelled
    assert label(root, tmp_path / "out", "--crf", "none") == 3
    assert "0 labels written" in capsys.readouterr().out
    first = next(iter(kinds))
    (root / "images" / f"{first}.jpg").write_bytes((root / "images" / f"{image_id(0)}.jpg").read_bytes())
    assert label(root, tmp_path / "out", "--crf", "none") == 3
    assert "1 labels written" in capsys.readouterr().out and len(pngs(tmp_path / "out")) == 271


def test_a_lattice_that_does_not_fit_costs_its_image_and_the_next_start_tries_it_again(tmp_path, monkeypatch, capsys):
    root, out = make_images(tmp_path / "data", 8), tmp_path / "out"
    whole, calls = DeviceLabeller.__call__, []

    def limited(self, pixels, maps, labels):
        calls.append(len(pixels))
        if len(calls) == 2:
            raise RuntimeError("CUDA error: out of memory")
        return whole(self, pixels, maps, labels)

    monkeypatch.setattr(DeviceLabeller, "__call__", limited)
    assert label(root, out, "--crf", "device") == 3
    printed = capsys.readouterr()
    assert "7 labels written" in printed.out
    (bad,) = [record for record in records(out).values() if record["state"] == "bad"]
    assert bad["kind"] == "memory" and re.search(
        r"\.jpg: it does not fit into the memory of the device even alone", bad["reason"]
    )
    monkeypatch.undo()
    assert label(root, out) == 0, "without --crf it goes on with the engine that it began with"
    assert "1 labels written" in capsys.readouterr().out and len(pngs(out)) == 8
    assert json.loads((out / "settings.json").read_text())["crf_engine"] == "device"


def test_on_a_cpu_the_crf_is_pydensecrfs(clean):
    assert json.loads((clean / "out/settings.json").read_text())["crf_engine"] == "pydensecrf"


def test_strict_and_rotated(clean, tmp_path, capsys):
    root = make_images(tmp_path / "data", 6)
    (root / "images" / "00/000002.jpg").write_bytes(BAD["rotated"][0]())
    assert label(root, tmp_path / "strict", "--fail-on-bad") == 2
    error = capsys.readouterr().err
    assert "000002.jpg: turned by EXIF" in error and "--fail-on-bad" in error and "Traceback" not in error
    assert label(root, tmp_path / "stored", "--rotated") == 0
    assert records(tmp_path / "stored")["00/000002"]["width"] == 40  # as stored


def test_what_exif_turns_is_labelled_from_its_cam_as_it_is_stored(tmp_path, capsys):
    """`pplfast cam` takes it so."""
    root = make_images(tmp_path / "data", 2)
    (root / "images" / "00/000001.jpg").write_bytes(BAD["rotated"][0]())
    data = ["--data", str(root / "images"), "--labels", str(root / "labels.csv"), "--classes", "bus=1,cat=2,person=3"]
    cams = ["--cams", str(root / "cam")]
    made = ["--out", str(root / "cam"), "--scales", "1", "--precision", "fp32"]
    assert main(["cam", *data, "--model", str(root / "model"), *made]) == 0
    assert main(["label", *data, *cams, "--value", "0.4", "--crf", "none", "--out", str(root / "out")]) == 0
    assert len(pngs(root / "out")) == 2, capsys.readouterr().err


def test_restart_redoes_what_is_torn_and_keeps_the_rest(clean, tmp_path, capsys):
    out = tmp_path / "out"
    some = tmp_path / "some.txt"
    some.write_text("\n".join(image_id(n) for n in range(10)))
    assert label(clean, out, "--list", str(some)) == 0
    times = {name: (out / f"{name}.png").stat().st_mtime_ns for name in map(image_id, range(10))}
    (out / f"{image_id(1)}.png").unlink()
    (out / f"{image_id(2)}.png").write_bytes(b"torn")
    same_size = bytearray((out / f"{image_id(3)}.png").read_bytes())
    same_size[60] ^= 255
    (out / f"{image_id(3)}.png").write_bytes(same_size)
    (out / "00" / ".000009.png.99999.partial").write_bytes(b"of a dead process")
    (out / "manifest").mkdir()
    (out / "manifest" / "rank00007.jsonl").write_text('{"id":"00/000005","state":"do')  # a torn last line
    capsys.readouterr()
    assert label(clean, out) == 0
    assert "16 labels written" in capsys.readouterr().out  # 14 of the longer list, and the two
    assert label(clean, out, "--verify") == 0
    assert "1 labels written" in capsys.readouterr().out
    assert pngs(out) == pngs(clean / "out") and files(out) == files(clean / "out")
    for n in (0, 4, 9):
        assert (out / f"{image_id(n)}.png").stat().st_mtime_ns == times[image_id(n)]
    with pytest.raises(SystemExit):
        label(clean, out, "--cams", "x")
    assert label(clean, out, "--crf", "none") == 2
    assert "was filled with crf = 'probabilities'" in capsys.readouterr().err


def test_all_outputs_device_crf_and_unsure(clean, tmp_path):
    out = tmp_path / "out"
    assert (
        label(
            clean,
            out,
            "--outputs",
            "png,npy,shards",
            "--shard-size",
            "10",
            "--crf",
            "device",
            "--prometheus",
            str(tmp_path / "metrics.prom"),
        )
        == 0
    )
    same = [
        np.mean(read_mask(out / f"{name}.png") == read_mask(clean / "out" / f"{name}.png"))
        for name in pngs(clean / "out")
    ]
    assert np.mean(same) > 0.999
    shards = sorted((out / "shards").iterdir())
    assert [path.name for path in shards] == [f"labels-00000-00000{n}.tar" for n in range(3)]
    members = {}
    for path in shards:
        with tarfile.open(path) as tar:
            names = tar.getnames()
            assert [name.rpartition(".")[2] for name in names] == ["jpg", "png", "json"] * (len(names) // 3)
            members |= {name: tar.extractfile(name).read() for name in names}
    assert len(members) == 3 * 24
    for name, record in records(out).items():
        assert members[f"{name}.png"] == (out / f"{name}.png").read_bytes()
        assert members[f"{name}.jpg"] == (clean / "images" / f"{name}.jpg").read_bytes()
        assert json.loads(members[f"{name}.json"])["classes"] == record["classes"]
        cams = load_npy_dict(out / f"{name}.npy")
        assert cams["high_res"].shape == (len(record["classes"]), record["height"], record["width"])
        assert cams["cam"].shape[1:] == (-(-record["height"] // 4), -(-record["width"] // 4))
        for entry in record["files"]:  # a member is found by its offset
            if entry.get("member", "").endswith("json"):
                data = (out / entry["file"]).read_bytes()[entry["offset"] : entry["offset"] + entry["bytes"]]
                assert data == members[entry["member"]]
    metrics = (tmp_path / "metrics.prom").read_text()
    assert 'pplfast_label_images{state="finished"} 24' in metrics and 'phase="network"' in metrics
    unsure = tmp_path / "unsure"
    arguments = list(label_arguments(clean, unsure, "--unsure", "0.2,0.7", "--jobs", "1"))
    at = arguments.index("--value")
    del arguments[at : at + 2]
    assert main(arguments) == 0
    values = [set(np.unique(read_mask(unsure / f"{name}.png"))) for name in pngs(unsure)]
    assert sum(255 in found for found in values) > 12 and any(found - {0, 255} for found in values)


@pytest.mark.parametrize(
    "change,message",
    [
        (["--unsure", "0.5,0.2"], "--value and --unsure exclude each other"),
        (["--outputs", "jpg"], "--outputs jpg: must be of png, npy, shards"),
        (["--memory", "0.1"], "--memory 0.1: must be 0.25 GiB or more"),
        (["--jobs", "0"], "--jobs 0: must be 1 or more"),
        (["--crf", "dense"], "CRF preset 'dense': must be one of"),
        (["--model", "nowhere"], "nowhere: no such folder"),
        (["--value", "1.5"], "background threshold 1.5"),
    ],
)
def test_command_errors_are_one_line(clean, tmp_path, capsys, change, message):
    assert label(clean, tmp_path / "out", *change) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 160 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_stops_clearly_and_the_job_continues(clean, small_disk, capsys):
    out = small_disk / "out"
    filler = small_disk / "filler"
    filler.write_bytes(bytes(110 * 1024))
    assert label(clean, out) == 2
    error = capsys.readouterr().err
    assert "the disk is full; make space, then run the same command again: it continues" in error
    assert "Traceback" not in error
    there = pngs(out)
    assert 0 < len(there) < 24
    assert not list(out.rglob("*.partial"))
    assert all(pngs(clean / "out")[name] == data for name, data in there.items()), "a torn label"
    filler.unlink()
    assert label(clean, out) == 0
    assert pngs(out) == pngs(clean / "out") and files(out) == files(clean / "out")


def test_a_second_job_is_refused_by_name(clean, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pplfast.jobs.file_outputs.PATIENCE", 0.0)
    with hold_folder(tmp_path / "out"):
        assert label(clean, tmp_path / "out") == 2
        assert os.listdir(tmp_path / "out") == [".lock"]
    assert f"process {os.getpid()} on {socket.gethostname()} writes to it; wait for it" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_in_order_within_10_seconds(clean, tmp_path, number):
    root, out = make_images(tmp_path / "data", 600), tmp_path / "out"
    command = [sys.executable, "-m", "pplfast", *label_arguments(root, out, "--jobs", "1")]
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=SINGLE
    )
    deadline = time.monotonic() + 90
    while len(pngs(out)) < 20 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    begin = time.monotonic()
    os.killpg(process.pid, number)  # as a terminal and a launcher do: the workers get it as well
    text = process.communicate(timeout=30)[0]
    assert time.monotonic() - begin < 10
    assert process.returncode == 128 + number and "Traceback" not in text, text
    assert "run the same command again to continue" in text
    done = [json.loads(line) for line in (out / "manifest/rank00000.jsonl").read_text().splitlines()]
    assert {record["id"] for record in done} == set(pngs(out)) and 20 <= len(done) < 600
    assert not list(out.rglob("*.partial"))


def test_two_ranks_under_the_launcher(clean, tmp_path):
    """With a bad image: the first rank alone says so with its exit code, or the launcher would end the other."""
    launcher = Path(sys.executable).parent / "deepspeed"
    root, out = make_images(tmp_path / "data", 24), tmp_path / "out"
    (root / "images" / f"{image_id(20)}.jpg").write_bytes(b"")
    command = [
        launcher,
        "--num_accelerators",
        "2",
        "--master_port",
        "29741",
        "--module",
        "pplfast",
        *label_arguments(root, out, "--jobs", "1"),
    ]
    run = subprocess.run(command, env={**SINGLE, "DS_ACCELERATOR": "cpu"}, capture_output=True, text=True, timeout=240)
    assert run.returncode == 3 and "23 labels written" in run.stdout, run.stdout + run.stderr
    found = records(out)
    assert {r["rank"] for r in found.values()} == {0, 1} and found[image_id(20)]["kind"] == "empty"
    assert pngs(out) == {k: v for k, v in pngs(clean / "out").items() if k != image_id(20)}


def test_killed_and_started_again(tmp_path):
    """The small version of `make test-kill-label`."""
    figures = job_kill.run(tmp_path, images=90, kills=1, seed=3)
    assert figures["kills"] == 1 and figures["labels_correct_and_once"] == 90
