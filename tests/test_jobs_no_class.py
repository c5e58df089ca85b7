"""Images without any of the classes: background only, and CAM files without maps, in every job."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from jobs_small import OPTIONS, SmallBoundary, SmallClassifier, images, in_batches

from pplfast.data.masks import read_mask
from pplfast.jobs.manifest import read_manifest
from pplfast.labels.cam import generate_cams
from pplfast.labels.camfile import load_cam
from pplfast.labels.label import generate_affinity_labels, generate_labels, label_cams, label_dataset
from pplfast.labels.walk import walk_cams
from pplfast.npy import load_npy_dict
from pplfast.recipe import AffinityConfig, CamConfig, LabelConfig, WalkConfig

pytestmark = pytest.mark.usefixtures("one_thread")

CAM = CamConfig((1.0,), True, 4, "fp32")
THRESHOLD, ALPHA = LabelConfig(value=0.4, crf="none"), LabelConfig("alpha", 4.0, "none")


@pytest.fixture(params=["alone", "in a batch with others"])
def data(tmp_path, request, monkeypatch):
    """The first of three has no class, or none has."""
    in_batches(monkeypatch)
    found = images(tmp_path / "images", "abc")
    labels = found.labels.copy()
    labels[0] = 0
    if request.param == "alone":
        labels[:] = 0
    return dataclasses.replace(found, labels=labels)


@pytest.mark.parametrize("npy", [False, True])
def test_its_cam_has_no_maps_and_can_be_read(data, tmp_path, npy):
    outcome = generate_cams(SmallClassifier(), data, CAM, tmp_path / "cam", npy, OPTIONS)
    assert outcome.written == 3 and not outcome.bad
    cam = load_cam(tmp_path / "cam" / "a.npz", 3)
    assert cam.classes.shape == (0,) and cam.maps.shape == (0, 6, 10) and cam.size == (24, 40)
    if npy:
        table = load_npy_dict(tmp_path / "cam" / "a.npy")
        assert table["high_res"].shape == (0, 24, 40) and table["cam"].shape == (0, 6, 10) and not len(table["keys"])


@pytest.mark.parametrize("crf", ["none", "probabilities", "labels"])
@pytest.mark.parametrize("engine", ["pydensecrf", "device"])
@pytest.mark.parametrize("rule", [("threshold", 0.4, None), ("alpha", 4.0, None), ("threshold", 0.0, (0.2, 0.6))])
def test_its_label_is_background_from_images_and_from_cams(data, tmp_path, rule, engine, crf, monkeypatch):
    monkeypatch.setattr("pplfast.jobs.workers.ProcessPoolExecutor", in_threads)
    background, value, unsure = rule
    config = LabelConfig(background, value, crf)
    straight, cams = tmp_path / "straight", tmp_path / "cams"
    outcome = label_dataset(
        SmallClassifier(), data, CAM, config, straight, unsure, ("png", "npy"), engine, options=OPTIONS
    )
    assert outcome.written == 3, outcome.bad
    generate_cams(SmallClassifier(), data, CAM, tmp_path / "cam", options=OPTIONS)
    assert label_cams(tmp_path / "cam", data, config, cams, unsure, engine, OPTIONS).written == 3
    for out in (straight, cams):
        mask = read_mask(out / "a.png")
        assert mask.shape == (24, 40) and not mask.any(), out
        others = [np.unique(read_mask(out / f"{name}.png")) for name in "bc"]
        assert any(found.any() for found in others) == data.labels.any()
    assert load_npy_dict(straight / "a.npy")["high_res"].shape == (0, 24, 40)
    assert read_manifest(straight)["a"]["classes"] == read_manifest(cams)["a"]["classes"] == []


def in_threads(jobs, *_):
    """The worker processes of a job, without the processes."""
    return ThreadPoolExecutor(jobs)


def test_the_walk_and_the_confident_labels_take_it(data, tmp_path):
    generate_cams(SmallClassifier(), data, CAM, tmp_path / "cam", options=OPTIONS)
    walked = walk_cams(SmallBoundary(), tmp_path / "cam", data, WalkConfig(radius=2), tmp_path / "walk", OPTIONS)
    assert walked.written == 3 and not walked.bad
    assert load_cam(tmp_path / "walk" / "a.npz", 3).maps.shape == (0, 6, 10)
    config = AffinityConfig(crf="none")
    generate_affinity_labels(tmp_path / "cam", data, config, tmp_path / "confident", OPTIONS)
    assert not read_mask(tmp_path / "confident" / "a.png").any()
    for cams in ("cam", "walk"):
        for number, rule in enumerate((THRESHOLD, ALPHA)):
            out = tmp_path / f"{cams}-{number}"
            assert generate_labels(tmp_path / cams, data, rule, out, OPTIONS).written == 3
            assert not read_mask(out / "a.png").any()


@pytest.mark.parametrize("engine", ["pydensecrf", "device"])
def test_what_is_no_number_in_another_images_map_does_not_make_it_bad(tmp_path, engine, monkeypatch):
    monkeypatch.setattr("pplfast.jobs.workers.ProcessPoolExecutor", in_threads)
    in_batches(monkeypatch)
    data = images(tmp_path / "images", "ab")
    data = dataclasses.replace(data, labels=np.array([[0, 0, 0], [1, 1, 1]], np.uint8))
    model = SmallClassifier()
    with torch.no_grad():
        model.classifier.weight[2] = float("nan")
    rule = LabelConfig(value=0.4)
    outcome = label_dataset(model, data, CAM, rule, tmp_path / "out", engine=engine, options=OPTIONS)
    assert [name for name, _ in outcome.bad] == ["b"] and outcome.written == 1
    assert "not finite" in outcome.bad[0][1]
