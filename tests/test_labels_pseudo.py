"""CAM files to label PNGs: values, palette, resume, bad images, and the command."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from labels_small import small_dataset, write_cams
from PIL import Image

from pplfast.cli import main
from pplfast.data.masks import voc_palette
from pplfast.errors import UserError
from pplfast.files import read_json, write_json
from pplfast.jobs import JobOptions
from pplfast.jobs.manifest import read_manifest
from pplfast.labels.camfile import Cam, load_cam, save_cam
from pplfast.labels.crf import dense_crf
from pplfast.labels.label import generate_affinity_labels, generate_labels, label_cams
from pplfast.recipe import AffinityConfig, LabelConfig

THRESHOLD = LabelConfig(background="threshold", value=0.4, crf="none")
WITH_CRF = LabelConfig(background="alpha", value=4.0, crf="probabilities")
ONE, TWO = JobOptions(jobs=1, threads=1), JobOptions(jobs=2, threads=1)


@pytest.fixture
def small(tmp_path):
    dataset = small_dataset(tmp_path)
    return dataset, write_cams(tmp_path / "cams", dataset), tmp_path / "labels"


def read_all(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def test_pngs_hold_mask_ids_under_the_voc_palette(small):
    dataset, cams, out = small
    outcome = generate_labels(cams, dataset, THRESHOLD, out, ONE)
    assert (outcome.written, outcome.skipped, outcome.bad) == (5, 0, [])
    with Image.open(out / "im2.png") as image:
        assert image.mode == "P" and bytes(image.getpalette())[:48] == voc_palette()[:48]
        ids = np.array(image)
    maps = load_cam(cams / "im2.npz").full()
    expected = np.where(maps.max(0) > np.float32(0.4), np.array([6, 8, 15])[maps.argmax(0)], 0)
    np.testing.assert_array_equal(ids, expected)
    assert set(np.unique(np.array(Image.open(out / "im0.png")))) == {0, 6}


@pytest.mark.slow
def test_crf_result_is_the_argmax_of_its_marginals(small):
    dataset, cams, out = small
    generate_labels(cams, dataset, WITH_CRF, out, ONE)
    maps = load_cam(cams / "im1.npz").full()
    scores = np.concatenate([(1 - maps.max(0, keepdims=True)) ** 4, maps])
    marginals = dense_crf(np.array(Image.open(dataset.images[1])), scores, "probabilities")
    np.testing.assert_array_equal(np.array(Image.open(out / "im1.png")), np.array([0, 8, 15])[marginals.argmax(0)])


@pytest.mark.slow
def test_pool_equals_sequential_and_resume_keeps_what_is_there(small, tmp_path):
    dataset, cams, out = small
    generate_labels(cams, dataset, WITH_CRF, out, ONE)
    generate_labels(cams, dataset, WITH_CRF, tmp_path / "pool", TWO)
    assert read_all(out) == read_all(tmp_path / "pool") and len(read_all(out)) == 5
    before = (out / "im0.png").stat().st_mtime_ns
    (out / "im3.png").unlink()
    outcome = generate_labels(cams, dataset, WITH_CRF, out, ONE)
    assert (outcome.written, outcome.skipped) == (1, 4)
    assert (out / "im0.png").stat().st_mtime_ns == before and read_all(out) == read_all(tmp_path / "pool")


@pytest.mark.slow
def test_a_bad_image_is_noted_and_the_rest_goes_on(small):
    dataset, cams, out = small
    dataset.images[1].write_bytes(b"no image")
    (cams / "im2.npz").write_bytes(b"no cam")
    Image.new("RGB", (9, 9)).save(dataset.images[4])
    outcome = generate_labels(cams, dataset, WITH_CRF, out, TWO)
    assert outcome.written == 2 and sorted(name for name, _ in outcome.bad) == ["im1", "im2", "im4"]
    notes = {name: record.get("reason") for name, record in read_manifest(out).items()}
    assert "im1.jpg: not a JPEG" in notes["im1"] and "im2.npz: not a readable CAM" in notes["im2"]
    assert "im4.npz: is for 29 x 37 pixels, the image has 9 x 9" in notes["im4"]
    assert sorted(read_all(out)) == ["im0.png", "im3.png"]


def test_when_all_images_fail_it_is_an_error(small):
    dataset, cams, out = small
    for image in dataset.images:
        image.unlink()
    with pytest.raises(UserError, match="all 5 images failed .first: im0: .*im0.jpg: no such file"):
        generate_labels(cams, dataset, THRESHOLD, out, ONE)


def test_an_output_that_cannot_be_written_stops_the_run(small, monkeypatch):
    dataset, cams, out = small

    def full(source, target, replace=os.replace):
        if str(target).endswith(".png"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    generate_labels(cams, dataset.subset([1]), THRESHOLD, out, ONE)
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="im0.png: the disk is full"):
        generate_labels(cams, dataset, THRESHOLD, out, ONE)
    assert [path.name for path in out.glob("*.png")] == ["im1.png"] and not list(out.glob(".im*"))


def test_other_settings_and_missing_cams_are_refused(small):
    dataset, cams, out = small
    generate_labels(cams, dataset, THRESHOLD, out, ONE)
    with pytest.raises(UserError, match="labels: was filled with background = 'threshold', not 'alpha'"):
        generate_labels(cams, dataset, WITH_CRF, out, ONE)
    (cams / "im1.npz").unlink()
    with pytest.raises(UserError, match="1 of the list's 5 images have no .npz here .first: im1."):
        generate_labels(cams, dataset, THRESHOLD, out, ONE)


def test_cams_of_another_class_list_are_refused(small):
    dataset, cams, out = small
    write_json(cams / "settings.json", {"class_names": ["cat", "bus", "person"]})
    with pytest.raises(UserError, match="cams: was made for the classes cat,bus,person, not bus,cat,person"):
        generate_labels(cams, dataset, THRESHOLD, out, ONE)
    assert not out.exists()


def test_another_cam_makes_its_label_again(small):
    dataset, cams, out = small
    generate_labels(cams, dataset, THRESHOLD, out, ONE)
    cam = load_cam(cams / "im0.npz")
    save_cam(cams / "im0.npz", Cam(cam.classes, 1 - cam.maps, cam.size))
    outcome = generate_labels(cams, dataset, THRESHOLD, out, ONE)
    assert (outcome.written, outcome.skipped) == (1, 4)


def test_an_image_without_classes_is_background(small):
    dataset, cams, out = small
    save_cam(cams / "im2.npz", Cam(np.zeros(0, np.int16), np.zeros((0, 8, 11), np.float16), (31, 44)))
    for name, config, engine in (
        ("a", THRESHOLD, "auto"), ("b", WITH_CRF, "device"), ("c", LabelConfig("threshold", 0.4, "labels"), "device"),
    ):  # fmt: skip
        assert generate_labels(cams, dataset, config, out / name, ONE, engine).written == 5
        labels = np.array(Image.open(out / name / "im2.png"))
        assert labels.shape == (31, 44) and not labels.any()


@pytest.mark.slow
@pytest.mark.parametrize("crf", ["probabilities", "labels"])
@pytest.mark.parametrize("unsure", [None, (0.3, 0.6)])
def test_the_device_gives_the_labels_of_pydensecrf(small, crf, unsure):
    """Up to single pixels: both are exact, and sum floats in other orders."""
    dataset, cams, out = small
    config = LabelConfig("threshold", 0.4, crf)
    for engine in ("pydensecrf", "device"):
        assert label_cams(cams, dataset, config, out / engine, unsure, engine, ONE).written == 5
        assert read_json(out / engine / "settings.json")["crf_engine"] == engine
    for name in dataset.ids:
        one, other = (np.array(Image.open(out / engine / f"{name}.png")) for engine in ("pydensecrf", "device"))
        assert (one != other).mean() < 5e-3 and (unsure is None or 255 in one)


def test_a_cam_of_another_image_costs_its_own_image_on_the_device(small):
    dataset, cams, out = small
    (cams / "im2.npz").write_bytes((cams / "im4.npz").read_bytes())
    outcome = generate_labels(cams, dataset, WITH_CRF, out, ONE, "device")
    assert outcome.written == 4 and "im2.npz: is for 29 x 37 pixels, the image has 44 x 31" in outcome.bad[0][1]


def test_confident_labels(tmp_path):
    dataset = small_dataset(tmp_path).subset([2])
    maps = np.full((1, 8, 11), 0.02, np.float16)
    maps[:, :, 4:7], maps[:, :, 7:] = 0.15, 0.9
    save_cam(tmp_path / "cams" / "im2.npz", Cam(np.array([1], np.int16), maps, (31, 44)))
    config = AffinityConfig(foreground=0.3, background=0.05, crf="none")
    assert generate_affinity_labels(tmp_path / "cams", dataset, config, tmp_path / "out", ONE).written == 1
    labels = np.array(Image.open(tmp_path / "out" / "im2.png"))
    assert not labels[:, :14].any() and (labels[:, 21:25] == 255).all() and (labels[:, -14:] == 8).all()
    assert read_json(tmp_path / "out" / "settings.json")["unsure"] == [0.05, 0.3]
    with pytest.raises(UserError, match=r"background = 0.5: must be at most foreground = 0.3"):
        wrong = AffinityConfig(foreground=0.3, background=0.5)
        generate_affinity_labels(tmp_path / "cams", dataset, wrong, tmp_path / "no", ONE)
    with pytest.raises(UserError, match="two thresholds, 0 < LOW < HIGH < 1"):
        label_cams(tmp_path / "cams", dataset, THRESHOLD, tmp_path / "no", (0.5, 0.3))


@pytest.fixture
def voc_root(small):
    """The same data as a VOC root with a list and a CSV of labels."""
    dataset, cams, out = small
    root = out.parent
    (root / "images").rename(root / "JPEGImages")
    (root / "masks").rename(root / "SegmentationClass")
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(dataset.ids))
    rows = [
        f"{name},{';'.join(np.array(dataset.classes.names)[labels > 0])}"
        for name, labels in zip(dataset.ids, dataset.labels, strict=True)
    ]
    (root / "labels.csv").write_text("\n".join(["image,label", *rows]))
    return (
        [
            "--data",
            str(root),
            "--list",
            "val",
            "--labels",
            str(root / "labels.csv"),
            "--classes",
            "bus=6,cat=8,person=15",
        ],
        cams,
        out,
    )


def test_commands_label_and_eval(voc_root, capsys):
    data, cams, out = voc_root
    assert main(["eval", *data, "--cams", str(cams), "--out", str(out.parent / "eval.json"), "--jobs", "1"]) == 0
    sweep = json.loads((out.parent / "eval.json").read_text())
    assert sweep["images"] == 5 and len(sweep["sweep"]) == 56 and "val, 5 of 5 images" in capsys.readouterr().out
    assert main(["label", *data, "--cams", str(cams), "--out", str(out), "--crf", "none", "--jobs", "1"]) == 0
    assert f"threshold {sweep['threshold']:g}: the best CAM mIoU" in capsys.readouterr().out
    assert main(["eval", *data, "--pngs", str(out), "--out", str(out.parent / "label.json"), "--jobs", "1"]) == 0
    assert json.loads((out.parent / "label.json").read_text())["miou"] == pytest.approx(sweep["miou"], abs=1e-9)


def test_the_command_exits_with_3_where_some_images_failed(voc_root, capsys):
    data, cams, out = voc_root
    whole = (cams / "im2.npz").read_bytes()
    (cams / "im2.npz").write_bytes(b"no cam")
    command = ["label", *data, "--cams", str(cams), "--out", str(out), "--crf", "none", "--value", "0.4", "--jobs", "1"]
    assert main(command) == 3 and "1 bad images (see" in capsys.readouterr().out
    (cams / "im2.npz").write_bytes(whole)
    assert main(command) == 0


def test_the_command_leaves_unsure_pixels_of_cams(voc_root, capsys):
    data, cams, out = voc_root
    command = ["label", *data, "--cams", str(cams), "--out", str(out), "--crf", "none", "--jobs", "1"]
    assert main([*command, "--unsure", "0.3,0.6"]) == 0
    maps = load_cam(cams / "im0.npz").full()[0]
    expected = np.where(maps > np.float32(0.6), 6, np.where(maps > np.float32(0.3), 255, 0))
    np.testing.assert_array_equal(np.array(Image.open(out / "im0.png")), expected)
    assert main([*command, "--value", "0.4"]) == 2 and "was filled with " in capsys.readouterr().err
    assert main([*command, "--unsure", "0.3,0.6", "--value", "0.4"]) == 2


@pytest.mark.parametrize(
    "change,message",
    [
        (["--cams", "nowhere"], "nowhere: no such folder; make it with `pplfast cam`"),
        (["--value", "1.5"], "background threshold 1.5: must lie between 0 and 1"),
        (["--background", "alpha"], "--background alpha needs --value"),
        (["--masks", "nowhere"], "nowhere: no such folder of masks"),
    ],
)
def test_command_errors_are_one_line(voc_root, capsys, change, message):
    data, cams, out = voc_root
    assert main(["label", *data, "--cams", str(cams), "--out", str(out), "--jobs", "1", *change]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not out.exists()


def wait_for_end_of_group(group, seconds):
    """Names of the processes of the group that still run by then (Python's resource tracker ends a bit later)."""
    deadline = time.monotonic() + seconds
    while True:
        alive = []
        for process in psutil.process_iter(["status", "name"]):
            try:
                if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                    alive.append(process.info["name"])
            except ProcessLookupError:
                continue
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(0.05)


@pytest.mark.slow
def test_interrupt_ends_command_and_workers_and_resume_completes(voc_root, tmp_path):
    data, cams, out = voc_root
    names = [f"copy{number}" for number in range(600)]  # 200 were done before the signal came, once
    root = data[1]
    for name in names:
        os.link(f"{root}/JPEGImages/im2.jpg", f"{root}/JPEGImages/{name}.jpg")
        os.link(cams / "im2.npz", cams / f"{name}.npz")
    (tmp_path / "many.txt").write_text("\n".join(names))
    command = [
        sys.executable,
        "-m",
        "pplfast",
        "label",
        "--data",
        root,
        "--list",
        str(tmp_path / "many.txt"),
        "--labels",
        "none",
        "--classes",
        "bus=6,cat=8,person=15",
        "--cams",
        str(cams),
        "--out",
        str(out),
        "--value",
        "0.3",
        "--jobs",
        "2",
    ]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(list(out.glob("*.png"))) < 3 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal: parent and workers get it
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "run the same command again to continue" in error and "Traceback" not in error
    assert 3 <= len(read_all(out)) < len(names) and not list(out.glob(".*partial"))
    assert wait_for_end_of_group(process.pid, seconds=10) == []
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    assert len(read_all(out)) == len(names) and len(set(read_all(out).values())) == 1
