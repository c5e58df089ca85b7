"""Jobs on a data set in tar shards, whose outputs are shards: committed whole, side by side with their images."""

import dataclasses
import io
import itertools
import json
import os
import signal
import tarfile
import time
import tracemalloc
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow
import pytest
from jobs_small import CLASSES, OPTIONS, Mean
from label_jobs import jpeg
from PIL import Image
from pyarrow import parquet

from pplfast.data.dataset import Dataset
from pplfast.data.shard_index import build_index, open_index
from pplfast.errors import UserError
from pplfast.jobs import output_shards, shard_marks, shard_outputs, shard_plan, status
from pplfast.jobs.job import Finish, Finished
from pplfast.jobs.options import Outcome
from pplfast.jobs.output_shards import OutputShards
from pplfast.jobs.run import run_job
from pplfast.labels.camfile import Cam, encode_cam, stored_size
from pplfast.labels.camfolder import CamFolder, load_cam_of
from pplfast.storage import StorageError, find
from pplfast.train.masks import mask_record, with_masks

SHARDS = dataclasses.replace(OPTIONS, shards=True)


def write_tar(path: Path, members) -> None:
    """members: name -> bytes, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def opened(root: Path, suffix: str = ".tar") -> Dataset:
    """The shards of a folder as they are now."""
    found = find(str(root), (suffix,))
    build_index(found, str(root / "pplfast-index.arrow"))
    index = open_index(root / "pplfast-index.arrow", found)
    labels = np.eye(len(CLASSES), dtype=np.uint8)[np.arange(len(index)) % len(CLASSES)]
    return Dataset("small", index.ids, index.images, CLASSES, labels, index.masks, shards=index)


def shards(root: Path, counts=(3, 2, 3), bad=()) -> Dataset:
    """a.tar, b.tar, ... of so many images; keys are not in the order of the alphabet. bad: ids of empty ones."""
    number = 0
    for name, count in zip("abcdefgh", counts, strict=False):
        members = {}
        for at in range(count):
            key = f"x/{9 - at}{name}"
            members[f"{key}.jpg"] = b"" if f"{name}/{key}" in bad else jpeg(40 + 8 * (at % 2), 24, seed=number)
            members[f"{key}.cls"] = b"0"
            number += 1
        write_tar(root / f"{name}.tar", members)
    return opened(root)


def members_of(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}


def files(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def mark(out: Path, name: str) -> dict:
    return json.loads((out / "manifest" / f"{name}.json").read_text())


@pytest.fixture
def data(tmp_path):
    return shards(tmp_path / "in")


# --- what is written ---


def test_each_shard_of_images_gets_one_of_the_same_keys_in_the_same_order(data, tmp_path):
    out = tmp_path / "out"
    outcome = run_job(Mean(data), out, SHARDS)
    assert (outcome.written, outcome.skipped, outcome.exit_code) == (8, 0, 0)
    names = [f"{name}.tar" for name in "abc"]
    names += [f"manifest/{name}.{kind}" for name in "abc" for kind in ("json", "jsonl")] + ["settings.json"]
    assert sorted(files(out)) == sorted(names)
    position = 0
    for name, count in zip("abc", (3, 2, 3), strict=True):
        members = members_of(out / f"{name}.tar")
        keys = [f"x/{9 - at}{name}" for at in range(count)]
        assert list(members) == [f"{key}.seg.{kind}" for key in keys for kind in ("png", "json")]
        lines = (out / "manifest" / f"{name}.jsonl").read_text().splitlines()
        for key, record in zip(keys, map(json.loads, lines), strict=True):
            said = json.loads(members[f"{key}.seg.json"])
            assert said["state"] == "done" and said["id"] == record["id"] == data.ids[position] == f"{name}/{key}"
            assert (said["height"], said["width"]) == (24, 40 + 8 * (keys.index(key) % 2))
            assert record["source"] == data.images[position].state and len(record["image_sha256"]) == 64
            assert abs(float(members[f"{key}.seg.png"]) - 127) < 60
            for file in record["files"]:
                place = slice(file["offset"], file["offset"] + file["bytes"])
                assert (out / file["file"]).read_bytes()[place] == members[file["member"]]
            position += 1
    said = mark(out, "b")
    assert (said["images"], said["done"], said["bad"], said["rows"], said["bad_rows"]) == (2, 2, 0, None, [])
    assert said["source"] == [data.shards.shards[1].size, data.shards.shards[1].stamp]
    assert said["tar"]["bytes"] == (out / "b.tar").stat().st_size


def test_a_shard_that_is_made_twice_is_the_same(data, tmp_path):
    for name in ("one", "two"):
        run_job(Mean(data), tmp_path / name, SHARDS)
    for shard in "abc":
        assert (tmp_path / "one" / f"{shard}.tar").read_bytes() == (tmp_path / "two" / f"{shard}.tar").read_bytes()


def test_webdataset_reads_images_and_labels_side_by_side(data, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    run_job(Mean(data), tmp_path / "out", SHARDS)

    def samples(folder):
        urls = [str(folder / f"{name}.tar") for name in "abc"]
        return list(webdataset.WebDataset(urls, shardshuffle=False))

    images, labels = samples(tmp_path / "in"), samples(tmp_path / "out")
    assert [sample["__key__"] for sample in images] == [sample["__key__"] for sample in labels] and len(images) == 8
    for image, label in zip(images, labels, strict=True):
        assert json.loads(label["seg.json"])["id"].endswith(image["__key__"]) and label["seg.png"]


def test_maps_are_members_of_their_own_kind(data, tmp_path):
    run_job(Mean(data, suffixes=(".npz", ".npy")), tmp_path / "out", SHARDS)
    assert list(members_of(tmp_path / "out" / "b.tar"))[:3] == [f"x/9b.cam.{kind}" for kind in ("npz", "npy", "json")]


def test_a_bad_image_has_a_record_in_its_place_and_no_output(tmp_path):
    data, out = shards(tmp_path / "in", bad=("a/x/8a",)), tmp_path / "out"
    outcome = run_job(Mean(data), out, SHARDS)
    assert (outcome.written, outcome.bad_count, outcome.exit_code) == (7, 1, 3)
    assert outcome.bad == [("a/x/8a", f"{tmp_path}/in/a.tar/x/8a.jpg: empty file; restore it")]
    assert f"1 bad images (see {out}/manifest):" in outcome.summary("labels", out)
    members = members_of(out / "a.tar")
    assert [name for name in members if "8a" in name] == ["x/8a.seg.json"] and list(members)[2] == "x/8a.seg.json"
    assert json.loads(members["x/8a.seg.json"])["kind"] == "empty"
    assert mark(out, "a")["bad_rows"] == [1] and mark(out, "a")["again_rows"] == []
    again = run_job(job := Mean(data), out, SHARDS)
    assert not job.seen and again.bad == outcome.bad and (again.skipped, again.bad_count) == (7, 1)


def test_no_more_than_the_first_bad_images_are_named(tmp_path):
    data = shards(tmp_path / "in", (30, 1), bad=[f"a/x/{9 - at}a" for at in range(30)])
    outcome = run_job(Mean(data), tmp_path / "out", SHARDS)
    assert (outcome.bad_count, len(outcome.bad), outcome.written) == (30, 20, 1)
    assert "... and 10 more" in outcome.summary("labels", tmp_path)


# --- again ---


def test_what_is_whole_is_not_done_again(data, tmp_path):
    out = tmp_path / "out"
    run_job(Mean(data), out, SHARDS)
    before = files(out)
    outcome = run_job(job := Mean(data), out, SHARDS)
    assert not job.seen and (outcome.written, outcome.skipped) == (0, 8) and files(out) == before


@pytest.mark.parametrize(
    "damage", ["no mark", "torn mark", "no tar", "short tar", "no records", "short records", "foreign mark", "partial"]
)
def test_a_shard_without_its_mark_or_tar_is_made_again_alone(data, tmp_path, damage):
    out = tmp_path / "out"
    run_job(Mean(data), out, SHARDS)
    before, path = files(out), out / "manifest" / "b.json"
    if damage == "no mark":
        path.unlink()
    elif damage == "torn mark":
        path.write_bytes(path.read_bytes()[:-30])
    elif damage == "no tar":
        (out / "b.tar").unlink()
    elif damage == "short tar":
        (out / "b.tar").write_bytes(b"torn")
    elif damage == "no records":
        (out / "manifest/b.jsonl").unlink()
    elif damage == "short records":
        (out / "manifest/b.jsonl").write_bytes((out / "manifest/b.jsonl").read_bytes()[:-5])
    elif damage == "foreign mark":
        path.write_text(json.dumps(mark(out, "b") | {"bad_rows": [0]}))
    else:
        path.unlink()
        (out / "manifest" / ".99999-0123456789abcdef.partial").write_bytes(b"of a dead process")
    outcome = run_job(job := Mean(data), out, SHARDS)
    assert sorted(job.seen) == ["b/x/8b", "b/x/9b"] and (outcome.written, outcome.skipped) == (2, 6)
    after = files(out)
    assert after.keys() == before.keys() and all(after[f"{name}.tar"] == before[f"{name}.tar"] for name in "abc")


def test_other_inputs_of_one_image_and_a_changed_shard_are_seen(data, tmp_path):
    out = tmp_path / "out"
    run_job(Mean(data), out, SHARDS)
    job = Mean(data, inputs={4: {"classes": [1]}})
    run_job(job, out, SHARDS)
    assert sorted(job.seen) == ["b/x/8b", "b/x/9b"]
    write_tar(tmp_path / "in" / "c.tar", {"y.png": png(8, 16)})
    changed = opened(tmp_path / "in")
    job = Mean(changed, inputs={4: {"classes": [1]}})
    assert run_job(job, out, SHARDS).skipped == 5 and job.seen == ["c/y"]


def test_verify_finds_what_has_the_right_size(data, tmp_path):
    out = tmp_path / "out"
    run_job(Mean(data), out, SHARDS)
    good = (out / "a.tar").read_bytes()
    (out / "a.tar").write_bytes(good[:600] + b"?" + good[601:])
    assert run_job(Mean(data), out, SHARDS).written == 0
    assert run_job(Mean(data), out, dataclasses.replace(SHARDS, verify=True)).written == 3
    assert (out / "a.tar").read_bytes() == good


def test_images_that_failed_by_accident_are_tried_again_alone(data, tmp_path):
    """The others are taken over from the tar that is there."""
    out = tmp_path / "out"
    run_job(Mean(data), tmp_path / "whole", SHARDS)

    class Failing(Mean):
        def compute(self, batch, stopped):
            from pplfast.data.images import BadImage

            return [
                BadImage("maps", "not finite") if self.dataset.ids[index] == "c/x/8c" else payload
                for index, payload in zip(batch.indices, super().compute(batch, stopped), strict=True)
            ]

    outcome = run_job(Failing(data), out, SHARDS)
    assert (outcome.written, outcome.bad_count) == (7, 1) and mark(out, "c")["again_rows"] == [1]
    outcome = run_job(job := Mean(data), out, SHARDS)
    assert job.seen == ["c/x/8c"] and (outcome.written, outcome.skipped, outcome.bad_count) == (1, 7, 0)
    assert (out / "c.tar").read_bytes() == (tmp_path / "whole" / "c.tar").read_bytes()
    assert len((out / "manifest" / "c.jsonl").read_text().splitlines()) == 3


def test_a_shard_that_is_gone_fails_and_the_others_do_not(data, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "in" / "b.tar").rename(tmp_path / "away")
    outcome = run_job(Mean(data), out, SHARDS)
    assert (outcome.written, outcome.bad_count, outcome.exit_code) == (6, 2, 3)
    assert [name for name, _ in outcome.bad] == ["b/x/9b", "b/x/8b"] and "b.tar" in outcome.bad[0][1]
    assert list(members_of(out / "b.tar")) == ["x/9b.seg.json", "x/8b.seg.json"]
    assert mark(out, "b")["again_rows"] == [0, 1]
    (tmp_path / "away").rename(tmp_path / "in" / "b.tar")
    outcome = run_job(job := Mean(data), out, SHARDS)
    assert sorted(job.seen) == ["b/x/8b", "b/x/9b"] and (outcome.written, outcome.exit_code) == (2, 0)


def test_a_kill_between_two_files_of_a_shard_leaves_no_mark(data, tmp_path, monkeypatch):
    """Also of a shard that was there before: its mark goes first."""
    out, plain = tmp_path / "out", shard_outputs.put
    run_job(Mean(data), out, SHARDS)
    before = files(out)
    for stop_at in ("b.tar", "manifest/b.jsonl", "manifest/b.json"):

        def put(folder, name, content, stop_at=stop_at):
            if name == stop_at:
                raise UserError("killed here")
            plain(folder, name, content)

        monkeypatch.setattr(shard_outputs, "put", put)
        with pytest.raises(UserError, match="killed here"):
            run_job(Mean(data, inputs={4: {"stop": stop_at}}), out, SHARDS)
        assert not (out / "manifest" / "b.json").exists()
    monkeypatch.setattr(shard_outputs, "put", plain)
    assert run_job(Mean(data), out, SHARDS).written == 2
    assert all(files(out)[f"{name}.tar"] == before[f"{name}.tar"] for name in "abc")


def test_what_cannot_be_written_ends_the_job_by_name(data, tmp_path, monkeypatch):
    def refuse(path, data):
        if path.endswith("b.tar"):
            raise StorageError("access is refused; give the credentials")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(data)

    monkeypatch.setattr(shard_marks, "write_file", refuse)
    with pytest.raises(UserError, match=r"out/b\.tar: access is refused; give the credentials"):
        run_job(Mean(data), tmp_path / "out", SHARDS)


def test_an_images_failure_of_a_strict_job(tmp_path):
    data = shards(tmp_path / "in", bad=("a/x/8a",))
    with pytest.raises(UserError, match=r"a\.tar/x/8a\.jpg: empty file; restore it \(--fail-on-bad\)"):
        run_job(Mean(data), tmp_path / "out", dataclasses.replace(SHARDS, strict=True))


def test_a_stop_keeps_the_shards_that_are_whole(data, tmp_path, capsys):
    class Stopped(Mean):
        batch = 1

        def compute(self, batch, stopped):
            if len(self.seen) == 4:
                os.kill(os.getpid(), signal.SIGTERM)
                while not stopped():
                    time.sleep(0.01)
                return None
            return super().compute(batch, stopped)

    out = tmp_path / "out"
    outcome = run_job(Stopped(data), out, SHARDS)
    assert outcome.exit_code == 143 and outcome.written == 3 and outcome.unfinished == [0]
    assert "3 of 8 images done; run the same command again to continue" in capsys.readouterr().err
    assert sorted(path.name for path in out.glob("*.tar")) == ["a.tar"]
    outcome = run_job(job := Mean(data), out, SHARDS)
    assert (outcome.written, outcome.skipped) == (5, 3) and not any(name.startswith("a/") for name in job.seen)


# --- folders ---


def test_other_settings_and_foreign_files_are_refused(data, tmp_path):
    out = tmp_path / "out"
    run_job(Mean(data), out, SHARDS)
    with pytest.raises(UserError, match="out: was filled with kind = 'mean', not 'other'"):
        run_job(Mean(data, {"kind": "other"}), out, SHARDS)
    with pytest.raises(UserError, match="out: was filled with layout = 'shards', not nothing"):
        run_job(Mean(data), out, OPTIONS)
    with pytest.raises(UserError, match=r"in/a\.tar: is in the way, and .*in has no settings\.json of a job"):
        run_job(Mean(data), tmp_path / "in", SHARDS)
    with pytest.raises(UserError, match="is not in shards"):
        run_job(Mean(dataclasses.replace(data, shards=None)), out, SHARDS)
    with pytest.raises(UserError, match="s3://bucket/x: files of single images are written to a folder alone"):
        run_job(Mean(data), "s3://bucket/x", OPTIONS)
    with pytest.raises(UserError, match="--outputs shards"):
        run_job(Mean(data, shards=2, suffixes=()), out, SHARDS)


def test_files_of_single_images_can_be_made_of_shards_too(data, tmp_path):
    out = tmp_path / "out"
    assert run_job(Mean(data), out, OPTIONS).written == 8 and (out / "a" / "x" / "9a.png").is_file()
    assert run_job(job := Mean(data), out, OPTIONS).skipped == 8 and not job.seen
    assert run_job(Mean(data), out, dataclasses.replace(OPTIONS, verify=True)).skipped == 8


def test_a_part_of_a_data_set_has_the_shards_of_its_images(data, tmp_path):
    out, part = tmp_path / "out", data.subset([7, 0, 2, 5])
    assert run_job(job := Mean(part), out, SHARDS).written == 4 and len(job.seen) == 4
    assert sorted(path.name for path in out.glob("*.tar")) == ["a.tar", "c.tar"]
    assert list(members_of(out / "a.tar"))[::2] == ["x/9a.seg.png", "x/7a.seg.png"], "in the shard's order"
    assert mark(out, "a")["rows"] == [0, 2] and mark(out, "c")["rows"] == [0, 2]
    assert run_job(job := Mean(part), out, SHARDS).skipped == 4 and not job.seen
    assert OutputShards(out, data.subset([5, 7]), "pplfast mean").part(0, ".png").name == "x/9c.seg.png"
    with pytest.raises(UserError, match=r"a\.tar: was made for other images of the shard; run `pplfast mean`"):
        OutputShards(out, data.subset([1]), "pplfast mean")


# --- the plan ---


def test_shards_of_parquet_have_the_keys_of_their_index(tmp_path):
    names = ["a.b", "x/a.c", "c"]
    table = pyarrow.table(
        {"image": [{"bytes": jpeg(seed=n), "path": f"{name}.jpg"} for n, name in enumerate(names)], "id": names}
    )
    (tmp_path / "in").mkdir()
    parquet.write_table(table, tmp_path / "in" / "p.parquet")
    data, out = opened(tmp_path / "in", ".parquet"), tmp_path / "out"
    assert run_job(Mean(data), out, SHARDS).written == 3
    keys = list(data.shards.keys)
    assert list(members_of(out / "p.tar"))[::2] == [f"{key}.seg.png" for key in keys]
    assert not any("." in key.rpartition("/")[2] for key in keys), "readers of tars cut there"
    assert OutputShards(out, data, "pplfast mean").part(1, ".png").name == f"{keys[1]}.seg.png"
    assert run_job(job := Mean(data), out, SHARDS).skipped == 3 and not job.seen


def test_the_plan_is_divided_over_ranks_and_each_shard_is_of_one(data, tmp_path):
    out = tmp_path / "out"
    run_job(Mean(data), out, SHARDS)
    (out / "manifest" / "a.json").unlink()
    (out / "manifest" / "c.json").unlink()
    rows, job = shard_plan.ShardRows(data), Mean(data)
    found = shard_plan.Listed.of(shard_marks.listing(str(out), rows.names), rows)
    left = [shard_plan.left_of(job, rows, str(out), found, rows.used[rank::2], False) for rank in range(2)]
    whole = shard_plan.Left.of(left)
    assert whole.pending.tolist() == [0, 2] and (whole.images, whole.done, whole.bad) == (6, 2, 0)
    assert [rows.positions(shard).tolist() for shard in (0, 1, 2)] == [[0, 1, 2], [3, 4], [5, 6, 7]]
    assert [rows.shard(position) for position in range(8)] == [0, 0, 0, 1, 1, 2, 2, 2]


class Rows:
    """Of a million images in a thousand shards, as an index has them."""

    def __init__(self, size: int, each: int) -> None:
        names = [f"s{number:04d}" for number in range(size // each)]
        self.shards = tuple(_Shard(f"{name}.tar", name, 10**8, 7) for name in names)
        self.bounds, self.keys = np.arange(0, size + 1, each), range(size)
        self.shard_of = np.arange(size) // each


@dataclasses.dataclass
class _Shard:
    path: str
    name: str
    size: int
    stamp: int


@dataclasses.dataclass
class _Many:
    shards: Rows
    rows: None = None
    name: str = "many"

    def __len__(self) -> int:
        return len(self.shards.keys)


def test_the_plan_of_a_million_images_takes_no_memory_for_each(tmp_path):
    data = _Many(Rows(1_000_000, 1000))
    tracemalloc.start()
    rows = shard_plan.ShardRows(data)
    found = shard_plan.Listed.of({}, rows)
    left = shard_plan.left_of(None, rows, str(tmp_path), found, rows.used, False)
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(left.pending) == 1000 and left.images == 1_000_000 and used < 4_000_000, "four bytes each"


# --- read again ---


class FinishLabel(Finish):
    """A real label PNG, and a real CAM."""

    def __call__(self, payload) -> Finished:
        size, shown = payload
        mask = np.full(size, shown, np.uint8)
        cam = Cam(np.array([0], np.int16), np.ones((1, *stored_size(*size)), np.float16), size)
        buffer = io.BytesIO()
        Image.fromarray(mask).save(buffer, "PNG")
        return Finished({".png": buffer.getvalue(), ".npz": encode_cam(cam)})


class Labels(Mean):
    """suffixes: of the two kinds, the one that is written."""

    def finish(self, settings):
        return FinishLabel()

    def compute(self, batch, stopped):
        return [(batch.size, CLASSES.ids[index % 3]) for index in batch.indices]


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def test_label_shards_are_the_masks_of_a_training(tmp_path):
    data, out = shards(tmp_path / "in", bad=("a/x/8a",)), tmp_path / "out"
    run_job(Labels(data, suffixes=(".png",)), out, SHARDS)
    part = with_masks(data, str(out))
    with mock.patch.object(output_shards, "read_records") as read:  # a million of them would keep all ranks waiting
        assert None not in part.masks and not read.called
    assert len(part) == 7 and "a/x/8a" not in list(part.ids)
    for position, (name, mask) in enumerate(zip(part.ids, part.masks, strict=True)):
        with Image.open(io.BytesIO(mask.read())) as image:
            shown = np.array(image)
        assert np.all(shown == CLASSES.ids[list(data.ids).index(name) % 3])
        assert str(mask).endswith(f"{name.partition('/')[2]}.seg.png") and part.masks[position] == mask
    assert list(part.masks[2:4]) == list(part.masks)[2:4]
    first = mask_record("segmentation", {}, part, 0)["dataset"]
    assert first["images"] == 7
    run_job(Labels(data, suffixes=(".png",), inputs={0: {"more": "1"}}), out, SHARDS)
    assert mask_record("segmentation", {}, with_masks(data, out), 0)["dataset"] == first, "the tars are the same"
    (out / "manifest" / "b.json").unlink()
    with pytest.raises(UserError, match="out: has no outputs for the shard b; make them with `pplfast label`"):
        with_masks(data, out)


def test_cam_shards_are_the_input_of_the_jobs_that_follow(tmp_path):
    data, out = shards(tmp_path / "in", bad=("a/x/8a",)), tmp_path / "out"
    run_job(Labels(data, {"class_names": list(CLASSES.names)}, suffixes=(".npz",)), out, SHARDS)
    cams = CamFolder(str(out), data)
    assert cams.settings["class_names"] == list(CLASSES.names)
    assert cams.load(0, (24, 40)).size == (24, 40) and load_cam_of(cams.file(2), (24, 40), 3).maps.shape == (1, 6, 10)
    assert "is for 40 x 24 pixels, the image has 8 x 8" in str(cams.load(0, (8, 8)))
    assert cams.state(0) == cams.state(2) == {"cam": mark(out, "a")["tar"]["sha256"]} != cams.state(3)
    with pytest.raises(Exception, match="has no CAM: .*empty file"):
        cams.state(1)
    (out / "b.tar").unlink()
    lost = cams.load(3, (24, 40))
    assert lost.kind == "unreadable" and "no such file" in str(lost)


@pytest.mark.parametrize("change", [{"bytes": 10**9}, {"offset": -1}, {"file": "../x.tar"}, {"member": 5}])
def test_records_that_no_job_writes_are_refused(data, tmp_path, change):
    out = tmp_path / "out"
    run_job(Mean(data), out, SHARDS)
    path = out / "manifest" / "a.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[1]["files"][0] |= change
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(UserError, match=r"a\.jsonl: is not as it was written"):
        OutputShards(out, data, "pplfast mean").part(0, ".png")
    content = path.read_bytes()
    file = {"bytes": len(content), "sha256": shard_outputs.checksum(content)}
    (out / "manifest" / "a.json").write_text(json.dumps(mark(out, "a") | {"records": file}))
    with pytest.raises(UserError, match=r"a\.jsonl: holds no records of a job .*delete .*a\.json"):
        OutputShards(out, data, "pplfast mean").part(0, ".png")


@pytest.mark.parametrize(
    "change",
    [
        {"shard": "b"}, {"images": 2}, {"bad": -1}, {"bad_rows": [7]}, {"again_rows": [0]}, {"rows": [2, 1, 0]},
        {"rows": ["a", "b", "c"]}, {"tar": {"bytes": 1}}, {"tar": {"bytes": 1, "sha256": "x"}}, {"first_bad": [["a"]]},
        {"source": None}, {"inputs": 5}, {"more": 1}, {"time": "now"}, {"first_bad": None}, {"bad_rows": None},
    ],
)  # fmt: skip
def test_a_mark_that_no_job_writes_is_none(data, tmp_path, change):
    out = tmp_path / "out"
    run_job(Mean(data), out, SHARDS)
    path = out / "manifest" / "a.json"
    assert shard_marks.parse_mark(path.read_bytes(), "a", 3).done == 3
    with pytest.raises(ValueError, match="no mark of (a|the) shard"):
        shard_marks.parse_mark(json.dumps(mark(out, "a") | change).encode(), "a", 3)


def test_another_state_of_the_images_is_named(data, tmp_path):
    out = tmp_path / "out"
    run_job(Mean(data), out, SHARDS)
    os.utime(tmp_path / "in" / "a.tar", ns=(0, 0))
    with pytest.raises(UserError, match=r"a\.json: was made of another state of the shard a; run `pplfast mean` again"):
        OutputShards(out, opened(tmp_path / "in"), "pplfast mean")


def test_the_retries_of_all_ranks_are_said(tmp_path):
    lines = Outcome(8, 2, [], 4.0, dict.fromkeys(("decode", "network", "crf", "encode", "write"), 0.1), retries=213)
    assert "; 213 reads or writes were tried again" in lines.summary("labels", tmp_path)


def test_the_retries_of_all_ranks_are_in_prometheus(tmp_path):
    both = [status.Status("token", rank, status.RUNNING, 5, 2, 0, 1.0, retries=rank + 4) for rank in range(2)]
    status.write_prometheus(tmp_path / "m.prom", both, 10, 0)
    assert "\npplfast_label_storage_retries 9\n" in (tmp_path / "m.prom").read_text()


def test_a_rank_whose_status_stands_still_is_given_up():
    def running(rank, done):
        return status.Status("token", rank, status.RUNNING, 5, done, 0, 1.0)

    done, counts = status.Status("token", 0, status.DONE, 5, 5, 0, 1.0), itertools.count()
    beats = status.Beats(lambda: [done, running(1, min(next(counts), 5)), running(2, 0)], 0.3)
    start = time.monotonic()
    assert status.wait_for_ranks(beats.statuses, 4, beats.alive, lambda: False, 0.05) == [1, 2, 3]
    assert 0.5 < time.monotonic() - start < 0.9, "as long as any of them changes, and the silence after it"
