"""What the result of an image depends on: what changed is done again in every job, and nothing else."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
from jobs_small import CLASSES, OPTIONS, SmallBoundary, SmallClassifier, SmallSegmenter, images, replace
from label_jobs import jpeg

from pplfast.data.masks import read_mask
from pplfast.errors import UserError
from pplfast.jobs.manifest import read_manifest
from pplfast.labels.cam import generate_cams
from pplfast.labels.label import generate_affinity_labels, generate_labels, label_dataset
from pplfast.labels.segment import segment_images
from pplfast.labels.walk import walk_cams
from pplfast.recipe import AffinityConfig, CamConfig, LabelConfig, SegmentationConfig, WalkConfig

pytestmark = pytest.mark.usefixtures("one_thread")

IDS = ("a", "b", "c/d", "e", "f", "g")
CAM, LABEL = CamConfig((1.0,), True, 2, "fp32"), LabelConfig(value=0.4, crf="none")
SEGMENT = SegmentationConfig(scales=(1.0,), crf="none")
VERIFY = dataclasses.replace(OPTIONS, verify=True)


class Chain:
    """All jobs of a data set, each in its folder below `root`. labels: of another list, as a user corrects them."""

    def __init__(self, root, data=None):
        self.root, self.data = root, data or images(root / "images", IDS)

    def cam(self, options=OPTIONS):
        return generate_cams(SmallClassifier(), self.data, CAM, self.root / "cam", options=options)

    def label_model(self, options=OPTIONS):
        return label_dataset(SmallClassifier(), self.data, CAM, LABEL, self.root / "label_model", options=options)

    def label_cams(self, options=OPTIONS):
        return generate_labels(self.root / "cam", self.data, LABEL, self.root / "label_cams", options)

    def confident(self, options=OPTIONS):
        config = AffinityConfig(crf="none")
        return generate_affinity_labels(self.root / "cam", self.data, config, self.root / "confident", options)

    def walk(self, options=OPTIONS):
        return walk_cams(
            SmallBoundary(), self.root / "cam", self.data, WalkConfig(radius=2), self.root / "walk", options
        )

    def segment(self, options=OPTIONS):
        return segment_images(SmallSegmenter(), CLASSES, self.data, SEGMENT, self.root / "segment", options)

    def told(self, options=OPTIONS):
        return segment_images(SmallSegmenter(), CLASSES, self.data, SEGMENT, self.root / "told", options, told=True)

    def all(self, options=OPTIONS):
        """Of each job in turn the ids that it did, and the files of their folders that it wrote."""
        done = {}
        for name in JOBS:
            out = self.root / name
            before = self.files(out)
            getattr(self, name)(options)
            after = self.files(out)
            done[name] = sorted(key for key in after if after[key] != before.get(key))
        return done

    @staticmethod
    def files(out):
        found = (path for kind in ("npz", "png") for path in out.rglob(f"*.{kind}"))
        return {str(path.relative_to(out).with_suffix("")): path.stat().st_ino for path in found}


JOBS = ("cam", "label_model", "label_cams", "confident", "walk", "told", "segment")
OF_LABELS = JOBS[:-1]  # a segmentation network looks at no labels unless it is told


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    made = Chain(tmp_path_factory.mktemp("done"))
    assert made.all() == dict.fromkeys(JOBS, sorted(IDS))
    return made


@pytest.fixture
def chain(done, tmp_path):
    """A copy of it, with the times of the files."""
    root = tmp_path / "chain"
    shutil.copytree(done.root, root)
    moved = tuple(root / path.relative_to(done.root) for path in done.data.images)
    return Chain(root, dataclasses.replace(done.data, images=moved))


def test_the_same_again_does_nothing(chain):
    assert chain.all() == chain.all(VERIFY) == {name: [] for name in JOBS}


def test_a_corrected_label_does_its_image_again_in_all_jobs_that_follow_it(chain):
    labels = chain.data.labels.copy()
    labels[1], labels[2] = (1, 0, 1), (1, 0, 0)  # one class more; another one
    chain.data = dataclasses.replace(chain.data, labels=labels)
    changed = ["b", "c/d"]
    assert chain.all() == dict.fromkeys(OF_LABELS, changed) | {"segment": []}
    fresh = Chain(chain.root / "fresh")
    fresh.data = dataclasses.replace(fresh.data, labels=labels)
    fresh.all()
    for name in JOBS:
        for path in (fresh.root / name).rglob("*.*g*"):
            assert (chain.root / name / path.relative_to(fresh.root / name)).read_bytes() == path.read_bytes(), path
    assert read_manifest(chain.root / "cam")["b"]["inputs"] == {"classes": [0, 2]}


def test_a_network_that_is_told_gives_a_pixel_the_likeliest_class_that_its_image_has(chain):
    labels = np.array([(1, 0, 1), (0, 1, 0), (0, 0, 0), (1, 1, 1), (0, 0, 1), (1, 0, 0)], np.uint8)
    chain.data = dataclasses.replace(chain.data, labels=labels)
    chain.told(), chain.segment()
    found = {name: [read_mask(chain.root / name / f"{id}.png") for id in IDS] for name in ("told", "segment")}
    for index, label in enumerate(labels):
        own = {0, *np.array(CLASSES.ids)[label == 1]}
        free, told = found["segment"][index], found["told"][index]
        assert set(np.unique(told)) <= own
        assert np.array_equal(free[np.isin(free, list(own))], told[np.isin(free, list(own))])  # what won among all
    assert any(
        set(np.unique(mask)) - {0, *np.array(CLASSES.ids)[label == 1]} for mask, label in zip(found["segment"], labels)
    )
    assert read_manifest(chain.root / "told")["a"]["inputs"] == {"classes": [0, 2]}
    bare = dataclasses.replace(chain.data, labels=None)
    with pytest.raises(UserError, match="has no image labels; name their file with --labels"):
        segment_images(SmallSegmenter(), CLASSES, bare, SEGMENT, chain.root / "bare", OPTIONS, told=True)


@pytest.mark.parametrize("size, later", [((40, 24), 10), ((40, 24), -3600), ((48, 40), 0)])
def test_a_replaced_image_is_done_again_in_all_jobs(chain, size, later):
    """Of new time, also an older one; or of new size."""
    replace(chain.data.images[3], jpeg(*size, seed=77), later)
    assert chain.all() == {name: ["e"] for name in JOBS}


def test_with_verify_the_bytes_decide(chain):
    """One file changes at the same time and size; another one's time changes alone."""
    other, path = jpeg(seed=78), chain.data.images[4]
    data = path.read_bytes()
    mark = data.rindex(b"\xff\xd9")
    swapped = bytearray(data)
    swapped[mark - 40] ^= 1
    assert other != data and len(swapped) == len(data)
    replace(path, bytes(swapped), 0)
    os.utime(chain.data.images[0])
    assert chain.cam().written == 1, "by its time"
    (chain.root / "cam").rename(chain.root / "earlier")
    chain.cam()
    replace(path, data, 0)
    os.utime(chain.data.images[1])
    assert chain.cam(VERIFY).written == 1, "by its bytes alone"
    assert chain.label_model(VERIFY).written == 0 and chain.segment(VERIFY).written == 0, "of the bytes as they were"


def test_an_output_that_is_gone_or_torn_is_made_again(chain):
    for name in JOBS:
        suffix = "npz" if name in ("cam", "walk") else "png"
        (chain.root / name / f"a.{suffix}").unlink()
        torn = chain.root / name / f"f.{suffix}"
        torn.write_bytes(torn.read_bytes()[:-1])
        flipped = bytearray((chain.root / name / f"g.{suffix}").read_bytes())
        flipped[-1] ^= 255
        (chain.root / name / f"g.{suffix}").write_bytes(flipped)
        assert getattr(chain, name)().written == 2, name
        assert getattr(chain, name)(VERIFY).written == 1, name


def test_cams_that_changed_make_their_labels_again_and_equal_ones_do_not(chain):
    (chain.root / "cam" / "a.npz").unlink()
    assert chain.cam().written == 1
    assert chain.label_cams().written == chain.walk().written == 0, "the same bytes came out"
    table = dict(np.load(chain.root / "cam" / "a.npz"))
    table["cam"] = table["cam"][..., ::-1]
    (chain.root / "cam" / "manifest.jsonl").unlink()  # of a copied folder: times and sizes tell
    assert chain.label_cams().written == 6
    np.savez(chain.root / "cam" / "a.npz", **table)
    assert chain.label_cams().written == 1


def test_an_image_whose_cam_failed_is_named_and_comes_once_it_is_there(chain):
    good = chain.data.images[5].read_bytes()
    replace(chain.data.images[5], good[:-100], 5)
    outcome = chain.cam()
    assert outcome.bad[0][0] == "g" and "truncated" in outcome.bad[0][1]
    for job in (chain.label_cams, chain.confident, chain.walk):
        outcome = job()
        assert [name for name, _ in outcome.bad] == ["g"] and outcome.written == 0
        assert "has no CAM" in outcome.bad[0][1] and "truncated" in outcome.bad[0][1]
    assert not (chain.root / "label_cams" / "g.png").exists() and not (chain.root / "walk" / "g.npz").exists()
    replace(chain.data.images[5], good, 20)
    assert chain.all() == {name: ["g"] for name in JOBS}


def test_a_cam_that_goes_while_a_job_is_at_it_costs_its_image_alone(chain, monkeypatch):
    from pplfast.labels.label import CamLabelJob

    plain = CamLabelJob.prepare

    def lose(self, *arguments):
        (chain.root / "cam" / "b.npz").unlink()
        plain(self, *arguments)

    monkeypatch.setattr(CamLabelJob, "prepare", lose)
    out = chain.root / "others"
    outcome = generate_labels(chain.root / "cam", chain.data, LABEL, out, OPTIONS)
    assert outcome.written == 5 and [name for name, _ in outcome.bad] == ["b"]
    monkeypatch.undo()
    chain.cam()
    assert generate_labels(chain.root / "cam", chain.data, LABEL, out, OPTIONS).written == 1


def test_other_settings_are_refused_by_name_and_nothing_changes(chain):
    before = {name: chain.files(chain.root / name) for name in JOBS}
    with pytest.raises(UserError, match=r"cam: was filled with scales = \[1.0\], not \[0.5\]"):
        generate_cams(SmallClassifier(), chain.data, CamConfig((0.5,), True, 2, "fp32"), chain.root / "cam")
    with pytest.raises(UserError, match=r"label_cams: was filled with value = 0.4, not 0.5"):
        generate_labels(chain.root / "cam", chain.data, LabelConfig(value=0.5, crf="none"), chain.root / "label_cams")
    swapped = dataclasses.replace(CLASSES, names=CLASSES.names[::-1], ids=CLASSES.ids[::-1])
    swapped_data = dataclasses.replace(chain.data, classes=swapped, labels=chain.data.labels[:, ::-1].copy())
    with pytest.raises(UserError, match=r"cam: was filled with class_names = .*bus.*, not .*person"):
        generate_cams(SmallClassifier(), swapped_data, CAM, chain.root / "cam")
    for job in (generate_labels, lambda cams, data, *more: walk_cams(SmallBoundary(), cams, data, *more)):
        config = LABEL if job is generate_labels else WalkConfig(radius=2)
        with pytest.raises(UserError, match="was made for the classes bus,cat,person, not person,cat,bus"):
            job(chain.root / "cam", swapped_data, config, chain.root / "new")
    assert {name: chain.files(chain.root / name) for name in JOBS} == before and not (chain.root / "new").exists()


def test_a_settings_file_says_what_decided_all_results(chain):
    def settings(name):
        return json.loads((chain.root / name / "settings.json").read_text())

    cam = settings("cam")
    assert cam["class_names"] == ["bus", "cat", "person"] and cam["precision"] == "fp32" and cam["call_pixels"] >= 2**16
    assert settings("label_cams")["cams"] == settings("walk")["cams"] == cam
    assert settings("segment")["class_ids"] == [6, 8, 15]
