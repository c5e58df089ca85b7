"""`pplfast export`: what is typed, what is said, and how it ends."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from export_sets import CAT, DOG, make_labelled, make_run, record_settings
from PIL import Image

from pplfast.cli import build_parser, main
from pplfast.cli.export import READERS
from pplfast.export.formats import FORMATS


def run(*words) -> int:
    return main(["export", *map(str, words), "--jobs", "1"])


def test_the_help_names_every_format():
    assert list(READERS) == list(FORMATS)
    text = "".join(build_parser("export").every_command()["pplfast export"].format_help().split())
    for name, reader in READERS.items():
        assert "".join(f"{name}: {reader}".split()) in text


def test_a_run_needs_no_other_option(tmp_path, capsys):
    made = make_run(tmp_path, ("labels", "labels_crf"))
    assert run(tmp_path / "run", "--format", "grey", "--out", tmp_path / "out") == 0
    said = capsys.readouterr()
    assert said.err.startswith(f"labels: {tmp_path}/run/ppl/labels_crf\n") and " images/s\n" in said.err
    assert re.search(r"^/.*/out: 4 images for .* \(\d+ images/s\)$", said.out, re.MULTILINE)
    assert said.out.splitlines()[-1].startswith("read it with: cv2.imread(")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "a.png")), made.maps["a"])


def test_a_folder_takes_its_data_set_from_the_options_and_its_classes_from_the_job(tmp_path, capsys):
    made = make_labelled(tmp_path)
    record_settings(made.labels, cat=CAT, dog=DOG)
    words = (made.labels, "--data", made.root, "--labels", "none", "--format", "mmseg", "--out", tmp_path / "out")
    assert run(*words, "--link-images") == 0
    assert "classes=('background', 'cat', 'dog')" in (tmp_path / "out" / "dataset_config.py").read_text()
    assert (tmp_path / "out" / "img_dir" / "a.jpg").is_symlink()
    assert capsys.readouterr().err.count("labels: ") == 1  # of the progress: the folder is the one that was given
    assert run(*words, "--classes", "cat=1,dog=2") == 2


def test_a_bad_label_is_named_and_the_rest_goes_on(tmp_path, capsys):
    made = make_run(tmp_path, ("labels",))
    bad = tmp_path / "run" / "ppl" / "labels" / "b.png"
    bad.write_bytes(bad.read_bytes()[:100])
    assert run(tmp_path / "run", "--format", "grey", "--out", tmp_path / "out") == 3
    said = capsys.readouterr().out
    assert said.startswith(f"left out: {bad}: not a readable PNG mask") and "3 images" in said
    assert sorted(made.maps) == ["a", "b", "deep/er/c", "images/d.v2"] and not (tmp_path / "out" / "b.png").exists()


@pytest.mark.parametrize(
    "words, message",
    (
        (("nowhere", "--format", "grey", "--out", "out"), "nowhere: no such folder; give a folder of label PNGs"),
        (("labels", "--format", "grey", "--out", "out"), "labels: lies in no run .*; give --data"),
        (("run", "--format", "grey", "--out", "run"), r"run: is not empty \(it holds"),
        (("run", "--format", "grey", "--out", "s3://bucket/out"), "s3://bucket/out: is a URL; give a folder on a disk"),
        (("run", "--format", "grey", "--out", "photos/new"), "lies among the data set's files"),
        (("run", "--format", "grey", "--out", "out", "--list", "val"), "give --data with the other options"),
        (("run", "--format", "grey", "--out", "out", "--link-images"), "no images are part of the format grey"),
        (("run", "--format", "grey", "--out", "out", "--jobs", "0"), "--jobs 0: must be 1 or more"),
        (
            ("labels", "--data", "photos", "--labels", "none", "--format", "grey", "--out", "out", "--jobs", "1"),
            r"none of its 4 labels can be exported \(first: .*a\.png: holds the value 99, which is no class",
        ),
    ),
)
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys, words, message):
    made = make_run(tmp_path, ("labels",))
    for image_id, values in made.maps.items():  # of no class of VOC's
        Image.fromarray(values + np.uint8(values > 0) * 100).save(made.labels / f"{image_id}.png")
    (made.labels / "deep/er/c.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir(tmp_path))
    assert main(["export", *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("pplfast export: error: ") and re.search(message, error), error
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.slow
@pytest.mark.parametrize("number, code", ((signal.SIGINT, 130), (signal.SIGTERM, 143)))
def test_ctrl_c_and_sigterm_leave_nothing(tmp_path, number, code):
    made = make_labelled(tmp_path)
    for index in range(400):
        for folder, suffix in ((made.root, "jpg"), (made.labels, "png")):
            os.link(folder / f"a.{suffix}", folder / f"n{index}.{suffix}")
    out = tmp_path / "new" / "out"
    words = [str(made.labels), "--data", str(made.root), "--labels", "none", "--classes", f"dog={DOG},cat={CAT}"]
    command = [sys.executable, "-m", "pplfast", "export", *words, "--format", "mmseg", "--out", str(out), "--jobs", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("new/.*.partial/ann_dir/*.png")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(number)
    said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "Traceback" not in said[1] and not (tmp_path / "new").exists()
