"""`export_labels`, and what it takes for labels: runs, folders; bad images; a folder that is whole or not there."""

import dataclasses
import json
import os
import shlex
import shutil
from pathlib import Path

import export_sets
import numpy as np
import pytest
from export_sets import CAT, DOG, make_labelled, make_run, record_settings, write_palette
from PIL import Image
from test_shard_jobs import SHARDS, Labels, members_of, shards

import pplfast
from pplfast.data.classes import ClassList
from pplfast.errors import UserError
from pplfast.export.formats import FORMATS, find_format
from pplfast.export.labels import recorded_classes
from pplfast.export.source import find_source, open_labelled
from pplfast.export.yolo import label_place
from pplfast.jobs.run import run_job
from pplfast.whole_folder import whole_folder


@pytest.fixture
def made(tmp_path):
    return make_labelled(tmp_path)


def exported(made, tmp_path, format="grey", **options):
    return pplfast.export_labels(made.labels, format, tmp_path / "out", made.dataset, jobs=1, **options)


def grey(folder, image_id):
    image = Image.open(folder / f"{image_id}.png")
    assert image.mode == "L"
    return np.asarray(image)


# ---- what is exported


def test_every_label_is_there_with_its_values_and_nothing_else(made, tmp_path):
    done = exported(made, tmp_path)
    for image_id, values in made.maps.items():
        assert np.array_equal(grey(done.out, image_id), values)
    files = {path.relative_to(done.out).as_posix() for path in done.out.rglob("*") if path.is_file()}
    assert files == {f"{image_id}.png" for image_id in made.maps} | {"classes.json"}
    assert json.loads((done.out / "classes.json").read_text()) == {
        "background": 0,
        "dog": DOG,
        "cat": CAT,
        "ignore": 255,
    }
    assert (done.images, done.failed, done.bad, done.exit_code, done.regions) == (4, {}, {}, 0, None)
    assert "4 images for 8-bit grey PNG" in done.summary() and f"cv2.imread('{done.out}/ID.png'" in done.summary()
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".partial")]


@pytest.mark.parametrize(
    "spoil, reason",
    (
        (lambda made: (made.labels / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n"), "not a readable PNG mask"),
        (lambda made: write_palette(made.labels / "b.png", made.maps["b"][1:]), "is 90 x 69 pixels, its image 90 x 70"),
        (lambda made: write_palette(made.labels / "b.png", made.maps["b"] + 1), "holds the value 1, which is no class"),
        (lambda made: (made.root / "b.png").write_bytes(b"no image"), "photos/b.png: "),
    ),
    ids=("damaged", "size", "value", "image"),
)
def test_a_bad_image_is_named_and_left_out(made, tmp_path, spoil, reason):
    spoil(made)
    done = exported(made, tmp_path)
    assert list(done.bad) == ["b"] and reason in done.bad["b"] and done.exit_code == 3 and done.images == 3
    assert not (done.out / "b.png").exists() and np.array_equal(grey(done.out, "a"), made.maps["a"])
    first, last = done.summary().splitlines()[0], done.summary().splitlines()[-2]
    assert first == f"left out: {done.bad['b']}" and last.endswith("; 1 are left out")


def test_an_image_that_exif_turns_is_left_out(made, tmp_path):
    image = Image.open(made.root / "a.jpg")
    exif = image.getexif()
    exif[0x112] = 6
    image.save(made.root / "a.jpg", exif=exif)
    done = exported(made, tmp_path)
    assert "orientation 6" in done.bad["a"] and done.images == 3


def test_nothing_is_left_where_no_label_can_be_exported(made, tmp_path):
    for label in made.labels.rglob("*.png"):
        label.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of its 4 labels can be exported \(first: .*a\.png"):
        exported(made, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["labels", "photos"]


def test_missing_labels_are_an_error_and_failed_ones_are_counted(made, tmp_path):
    (made.labels / "b.png").unlink()
    with pytest.raises(UserError, match=r"1 of the list's 4 images have no \.png here \(first: b\)"):
        exported(made, tmp_path)
    record = {"id": "b", "state": "bad", "kind": "truncated", "reason": "cut off", "rank": 0, "time": 1.0}
    (made.labels / "manifest.jsonl").write_text(json.dumps(record) + "\n")
    done = exported(made, tmp_path)
    assert done.failed == {"b": "cut off"} and done.exit_code == 0 and done.images == 3
    assert "1 images have no label, as they failed earlier" in done.summary()


def test_other_classes_than_the_folder_was_made_with_are_refused(made, tmp_path):
    record_settings(made.labels, cat=DOG, dog=CAT)
    with pytest.raises(UserError, match="labels are of the classes cat=12,dog=8, but the data set has dog=12,cat=8"):
        exported(made, tmp_path)
    record_settings(made.labels, cat=CAT, dog=DOG)  # their order is the data set's affair
    assert exported(made, tmp_path).images == 4
    (made.labels / "settings.json").write_text('{"class_names": ["cat"], "class_ids": [0]}')
    with pytest.raises(UserError, match=r"labels/settings\.json: class_ids are not all between 0 and 255"):
        recorded_classes(made.labels)


def test_a_full_disk_ends_it_and_leaves_nothing(made, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", str(tmp_path / "x"))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match="disk is full|No space left"):
        exported(made, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["labels", "photos"]


def test_the_line_that_says_how_to_read_it_can_be_pasted(made, tmp_path):
    pytest.importorskip("cv2")
    out = tmp_path / "for the team"
    done = pplfast.export_labels(made.labels, "yolo", out, made.dataset, jobs=1)
    assert shlex.split(done.summary().splitlines()[-1])[-1] == f"data={out}/data.yaml"


@pytest.mark.slow
def test_processes_make_the_same_in_the_same_order(made, tmp_path):
    one, two = (
        pplfast.export_labels(made.labels, "mmseg", tmp_path / str(jobs), made.dataset, jobs=jobs) for jobs in (1, 2)
    )
    files = [path.relative_to(one.out) for path in sorted(one.out.rglob("*.*"))]
    assert len(files) == 9 and [path.relative_to(two.out) for path in sorted(two.out.rglob("*.*"))] == files
    for name in files:
        assert (one.out / name).read_bytes() == (two.out / name).read_bytes()


# ---- shards


def test_labels_in_shards_of_images_in_shards(tmp_path):
    data, labels = shards(tmp_path / "in", bad=("a/x/8a",)), tmp_path / "labels"
    run_job(Labels(data, suffixes=(".png",)), labels, SHARDS)
    done = pplfast.export_labels(labels, "mmseg", tmp_path / "out", data, jobs=1)
    assert done.images == 7 and list(done.failed) == ["a/x/8a"] and not done.bad
    for position, name in enumerate(data.ids):
        if name != "a/x/8a":
            shard, _, key = name.partition("/")
            label = np.asarray(Image.open(done.out / "ann_dir" / f"{name}.png"))
            assert (label == position % 3 + 1).all()  # the job gives the images the three classes in turn
            image = (done.out / "img_dir" / f"{name}.jpg").read_bytes()
            assert image == members_of(tmp_path / "in" / f"{shard}.tar")[f"{key}.jpg"]
    with pytest.raises(UserError, match="small lies in shards, where images are no files"):
        pplfast.export_labels(labels, "mmseg", tmp_path / "linked", data, link=True, jobs=1)
    (labels / "manifest" / "b.json").unlink()
    with pytest.raises(UserError, match="labels: has no outputs for the shard b"):
        pplfast.export_labels(labels, "mmseg", tmp_path / "more", data, jobs=1)


# ---- where it goes


def test_the_folder_must_be_free(made, tmp_path):
    (tmp_path / "out").mkdir()
    exported(made, tmp_path)  # an empty one is
    with pytest.raises(UserError, match=r"out: is not empty \(it holds"):
        exported(made, tmp_path)
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="out: is a file"):
        exported(made, tmp_path)


def test_a_folder_is_whole_or_not_there(tmp_path):
    out = tmp_path / "new" / "out"
    with pytest.raises(KeyboardInterrupt), whole_folder(out) as folder:
        (folder / "part").mkdir()
        (folder / "part" / "file").write_text("x")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
    with whole_folder(out) as folder:
        (folder / "file").write_text("x")
        assert not out.exists() and folder.parent == out.parent
    assert os.listdir(tmp_path / "new") == ["out"] and os.listdir(out) == ["file"]


def test_a_folder_that_is_there_stays_the_same_one(tmp_path):
    """A shell that stands in it sees what has come, and a mount point, which cannot be renamed, will do."""
    out = tmp_path / "out"
    out.mkdir()
    before = out.stat().st_ino
    with pytest.raises(KeyboardInterrupt), whole_folder(out) as folder:
        (folder / "part").mkdir()
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["out"] and os.listdir(out) == []
    with pytest.raises(UserError, match=r"is not empty \(it holds mine\)"), whole_folder(out) as folder:
        (folder / "mine").write_text("of the export")
        (out / "mine").write_text("of another")
    assert os.listdir(out) == ["mine"] and (out / "mine").read_text() == "of another"
    (out / "mine").unlink()
    with whole_folder(out) as folder:
        (folder / "part").mkdir()
        (folder / "part" / "file").write_text("x")
        (folder / "file").write_text("x")
    assert sorted(os.listdir(out)) == ["file", "part"] and os.listdir(out / "part") == ["file"]
    assert out.stat().st_ino == before and os.listdir(tmp_path) == ["out"]


def test_nothing_is_left_of_a_folder_that_cannot_be_moved(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    move = Path.rename

    def once(path, target):
        if path.name == "b":
            raise OSError(28, "No space left on device", str(target))
        return move(path, target)

    monkeypatch.setattr(Path, "rename", once)
    with pytest.raises(UserError, match="disk is full|No space left"), whole_folder(out) as folder:
        (folder / "a").mkdir()
        (folder / "b").write_text("x")
    assert os.listdir(out) == []


def test_what_cannot_be_is_said_before_anything_is_read(made, tmp_path):
    with pytest.raises(UserError, match="gray: no format; choose from grey, .*did you mean grey"):
        exported(made, tmp_path, "gray")
    with pytest.raises(UserError, match="no images are part of the format grey"):
        exported(made, tmp_path, link=True)
    with pytest.raises(UserError, match="jobs 0: must be 1 or more"):
        pplfast.export_labels(made.labels, "grey", tmp_path / "out", made.dataset, jobs=0)


def test_a_library_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(find_format("grey"), "needs", ("pplfast", "no_such_library"))
    with pytest.raises(
        UserError, match=r"needs no_such_library, which is not installed; pip install 'pplfast\[export\]'"
    ):
        find_format("grey")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_its_name_and_says_what_it_is(name):
    module, attribute = FORMATS[name].split(":")
    found = getattr(pytest.importorskip(module), attribute)
    assert found.name == name and found.tool and "{out}" in found.read_with
    assert "https://" in found.__doc__ or "https://" in found.__mro__[1].__doc__ or name == "colour"
    assert found.unsure in ("", "background")


# ---- what a path means


def test_a_run_means_its_final_labels(tmp_path):
    made = make_run(tmp_path, ("labels", "labels_crf", "labels_walk", "predictions", "labels_network", "labels_train"))
    run = tmp_path / "run"
    for name in ("labels_network", "labels_walk", "labels_crf", "labels"):
        source = find_source(run)
        assert source.folder == str(run / "ppl" / name) == find_source(run / "ppl").folder
        assert source.data == made.config
        shutil.rmtree(run / "ppl" / name)
    with pytest.raises(UserError, match="has made no labels yet"):
        find_source(run)
    assert find_source(run / "ppl" / "labels_train").data == made.config


def test_the_data_set_of_labels_in_a_run_is_that_of_their_list(tmp_path, monkeypatch):
    make_run(tmp_path, ("affinity_labels", "labels", "predictions"))
    run = tmp_path / "run"
    record = json.loads((run / "run.json").read_text())
    record["data"]["train"] = {**record["data"]["train"], "list": "train.txt"}
    (run / "run.json").write_text(json.dumps(record))
    assert find_source(run / "ppl" / "affinity_labels").data.list == "train.txt"
    assert find_source(run / "ppl" / "labels").data.list == ""
    monkeypatch.chdir(run / "ppl" / "labels")
    assert find_source(".").data.list == "" and find_source(".").folder == "."
    # The list that the network is tested on is only known where it is that which gets labels, or is recorded.
    assert find_source(run / "ppl" / "predictions").data is None
    for name, known in (("photos", True), ("others", False)):
        lists = {"val": {"list": "photos"}, "test": {"list": name}}
        (run / "summary.json").write_text(json.dumps({"data": lists}))
        assert (find_source(run / "ppl" / "predictions").data is not None) == known
    record["data"]["test"] = {**record["data"]["val"], "list": "test.txt"}
    (run / "run.json").write_text(json.dumps(record))
    assert find_source(run / "ppl" / "predictions").data.list == "test.txt"


def test_images_that_a_run_has_left_out_are_left_out(tmp_path):
    made = make_run(tmp_path, ("labels",))
    run = tmp_path / "run"
    (run / "steps").mkdir()
    (run / "steps" / "check data.json").write_text(json.dumps({"values": {"left_out": {"b": "truncated"}}}))
    (run / "ppl" / "labels" / "b.png").unlink()
    source = find_source(run)
    dataset = open_labelled(source, source.data)
    assert dataset.ids == ("a", "deep/er/c", "images/d.v2") and dataset.classes.names == ("dog", "cat")
    done = pplfast.export_labels(source.folder, "grey", tmp_path / "out", dataset, jobs=1)
    assert done.images == 3 and np.array_equal(grey(done.out, "a"), made.maps["a"])


def test_what_means_no_labels_says_what_does(tmp_path):
    make_run(tmp_path, ("labels",), ("plain", "ppl"))
    run = tmp_path / "run"
    with pytest.raises(UserError, match=f"holds the labels of 2 variants; give {run}/plain or {run}/ppl"):
        find_source(run)
    (run / "ppl" / "cams").mkdir()
    with pytest.raises(UserError, match="ppl/cams: holds no labels; give one of labels beside it"):
        find_source(run / "ppl" / "cams")
    (tmp_path / "seeds").mkdir()
    run.rename(tmp_path / "seeds" / "seed0")
    with pytest.raises(UserError, match="seeds: holds 1 runs; give one of them, like .*seeds/seed0"):
        find_source(tmp_path / "seeds")
    with pytest.raises(UserError, match="nowhere: no such folder"):
        find_source(tmp_path / "nowhere")
    assert find_source(tmp_path / "labels").data is None and find_source("s3://bucket/labels").data is None


@pytest.mark.parametrize("value", (7, "a\0b", None))
def test_a_damaged_record_is_an_error_that_names_it(tmp_path, value):
    make_run(tmp_path, ("labels",))
    file = tmp_path / "run" / "run.json"
    record = json.loads(file.read_text())
    record["data"]["val"]["root"] = value
    file.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"run\.json: data\.val\.root is"):
        find_source(tmp_path / "run")


def test_the_classes_are_those_that_the_labels_were_made_with(made):
    record_settings(made.labels, cat=CAT, dog=DOG)
    source = find_source(made.labels)
    no_classes = export_sets.DataConfig(str(made.root), labels="none")
    assert open_labelled(source, no_classes).classes == ClassList(("cat", "dog"), (CAT, DOG))
    assert open_labelled(source, made.config).classes.names == ("dog", "cat")  # as --classes says


def test_image_labels_are_not_needed_where_the_classes_are_known(made):
    source, config = find_source(made.labels), export_sets.DataConfig(str(made.root))
    with pytest.raises(UserError, match="no image labels"):
        open_labelled(source, config)
    assert open_labelled(source, dataclasses.replace(config, classes="a=1")).classes.names == ("a",)
    record_settings(made.labels, cat=CAT, dog=DOG)
    assert list(open_labelled(source, config).ids) == list(made.maps)
    (made.root / "labels.csv").write_text("image,labels\nb,cat\n")  # which lists the images
    assert open_labelled(source, config).ids == ("b",)


def test_the_text_of_an_image_lies_where_ultralytics_looks_for_it(tmp_path):
    for inner in ("a.jpg", "images/a.v2.png", "x/images/y/a.tif"):
        place = tmp_path / "images" / inner
        head, tail = str(place).rsplit("/images/", 1)
        assert str(label_place(place)) == f"{head}/labels/{tail}".rsplit(".", 1)[0] + ".txt"
