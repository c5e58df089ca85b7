"""The benchmark of jobs on shards: it finds what is wrong, and its parts run at a small size."""

import hashlib
import json
import os
import shutil
import tarfile
from collections import namedtuple
from pathlib import Path

import pytest

from pplfast.benchmarks import shard_equal, shard_jobs, shard_kill, shard_million
from pplfast.benchmarks.shard_files import tar_of, tiny_samples, write_shards
from pplfast.benchmarks.shard_parts import (
    Goal,
    Part,
    check_labels,
    environment,
    keys_of_shards,
    samples,
    what_is_torn,
    with_broken,
)
from pplfast.errors import UserError
from pplfast.storage import remote

KEYS = {"images-000000": ["0000000", "0000001"], "images-000001": ["0000002"]}
EXPECTED = [b"label 0", b"label 1", b"label 2"]


class Objects(dict):
    """Of a bucket, by name."""

    def sizes(self, folder: str = "") -> dict[str, int]:
        return {name: len(data) for name, data in self.items() if name.startswith(folder)}

    def read(self, name: str) -> bytes:
        return self[name]


def put_shard(objects: Objects, shard: str, labels: dict[str, bytes]) -> None:
    """As `pplfast label` does; an image without a label is bad."""
    tar = tar_of((key, {".seg.png": label} if label else {".seg.json": b"{}"}) for key, label in labels.items())
    records = []
    for key, label in labels.items():
        record = {"id": f"{shard}/{key}", "state": "done" if label else "bad"}
        file = {"offset": tar.index(label), "bytes": len(label), "sha256": digest(label)}
        records.append(record | ({"files": [file]} if label else {"reason": f"{shard}/{key}: no such file"}))
    objects[f"labels/{shard}.tar"] = tar
    text = "\n".join(map(json.dumps, records)).encode()
    files = {"tar": tar, "records": text}
    mark = {name: {"bytes": len(data), "sha256": digest(data)} for name, data in files.items()}
    objects[f"labels/manifest/{shard}.jsonl"] = text
    objects[f"labels/manifest/{shard}.json"] = json.dumps(mark).encode()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def objects() -> Objects:
    found = Objects({"images/pplfast-index.arrow": b"index", "labels/settings.json": b"{}"})
    for shard, keys in KEYS.items():
        found[f"images/{shard}.tar"] = b"images"
        put_shard(found, shard, {key: EXPECTED[int(key)] for key in keys})
    return found


def check(objects: Objects, folder: Path):
    return check_labels(objects, KEYS, EXPECTED, folder, "images", "labels")


def test_labels_that_are_right_are_counted(objects, tmp_path):
    found = check(objects, tmp_path)
    assert found.correct == 3
    assert not (found.bad or found.wrong or found.torn or found.other or found.missing)


@pytest.mark.parametrize(
    "labels, wrong",
    [
        ({"0000000": EXPECTED[0], "0000001": b"label x"}, "images-000000/0000001: another label"),
        ({"0000000": EXPECTED[0]}, "the keys are not those of its images"),
        ({"0000001": EXPECTED[1], "0000000": EXPECTED[0]}, "the keys are not those of its images"),
        ({"0000000": EXPECTED[0], "0000001": EXPECTED[1], "0000002": EXPECTED[2]}, "the keys are not those"),
    ],
)
def test_labels_that_are_wrong_are_named(objects, tmp_path, labels, wrong):
    put_shard(objects, "images-000000", labels)
    found = check(objects, tmp_path)
    assert found.correct < 3 and len(found.wrong) == 1 and wrong in found.wrong[0]


def test_a_record_of_another_label_is_wrong(objects, tmp_path):
    name = "labels/manifest/images-000001.jsonl"
    objects[name] = objects[name].replace(digest(EXPECTED[2]).encode(), b"0" * 64)
    assert check(objects, tmp_path).wrong == [
        "images-000001/0000002: its record is of another label",
        "labels/manifest/images-000001.json: is the mark of other records",
    ]


def test_a_mark_of_another_tar_is_wrong(objects, tmp_path):
    objects["labels/manifest/images-000001.json"] = objects["labels/manifest/images-000000.json"]
    mark = "labels/manifest/images-000001.json"
    assert check(objects, tmp_path).wrong == [
        f"{mark}: is the mark of another tar",
        f"{mark}: is the mark of other records",
    ]


def test_objects_that_are_torn_missing_or_left_over_are_named(objects, tmp_path):
    objects["labels/images-000000.tar"] = objects["labels/images-000000.tar"][:-600]
    del objects["labels/manifest/images-000001.json"]
    objects["labels/manifest/rank00000.status"] = b"{}"
    found = check(objects, tmp_path)
    assert found.torn == ["labels/images-000000.tar: without its end"]
    assert found.missing == ["labels/manifest/images-000001.json"]
    assert found.other == ["labels/manifest/rank00000.status"] and found.correct == 0


def test_bad_images_come_with_their_reason(objects, tmp_path):
    put_shard(objects, "images-000001", {"0000002": b""})
    found = check(objects, tmp_path)
    assert found.bad == [("images-000001/0000002", "images-000001/0000002: no such file")] and found.correct == 2


def test_a_tar_is_whole_or_torn():
    whole = tar_of(tiny_samples(3))
    assert what_is_torn(whole) == ""
    assert what_is_torn(whole[:-512]) == "without its end"
    assert what_is_torn(whole[:-1]) == "without its end"
    info = tarfile.TarInfo("0.seg.png")
    info.size = 5000
    assert what_is_torn(info.tobuf() + bytes(2048)) not in ("", "without its end")


def test_keys_are_those_of_the_shards(tmp_path):
    shards = write_shards(str(tmp_path), tiny_samples(7), 3)
    keys = keys_of_shards(7, 3)
    assert [Path(shard).stem for shard in shards] == list(keys)
    assert [sample["__key__"] for sample in samples(shards)] == [key for own in keys.values() for key in own]


def test_one_picture_is_broken_and_the_others_are_as_they_were():
    made, broken = list(tiny_samples(4)), list(with_broken(tiny_samples(4), 2))
    assert [place for place in range(4) if made[place] != broken[place]] == [2]
    assert broken[2][0] == made[2][0] and broken[2][1][".cls"] == made[2][1][".cls"]


def test_a_goal_says_whether_it_is_met():
    assert str(Goal("labels", 20_000, 20_000, exact=True)) == "ok: labels: 20,000, to be 20,000"
    assert str(Goal("labels", 20_001, 20_000, exact=True)).startswith("FAILED: labels: 20,001")
    assert str(Goal("seconds", 9.96, 10.0)) == "ok: seconds: 10.0, below 10.0"
    assert not Goal("seconds", 10.0, 10.0).met and not Goal("seconds", float("nan"), 10.0).met


def test_the_environment_is_as_before(monkeypatch):
    monkeypatch.setenv("KNOWN_HERE", "before")
    with environment(KNOWN_HERE="within", NEW_HERE="within"):
        assert os.environ["KNOWN_HERE"] == os.environ["NEW_HERE"] == "within"
    assert os.environ["KNOWN_HERE"] == "before" and "NEW_HERE" not in os.environ


def test_a_million_images_need_room(monkeypatch):
    usage = namedtuple("Usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(2 * 10**9))
    assert shard_million.place_for(100_000) in shard_million.PLACES
    with pytest.raises(UserError, match="no room for 3.5 GB; give --folder DIR"):
        shard_million.place_for(10**6)


def test_results_are_printed_and_written(tmp_path, monkeypatch, capsys):
    made = Part({"images": 1000, "check": {"seconds": 2.5}}, [Goal("keys", 1000, 1000, exact=True)], {"legs": [1]})
    monkeypatch.setenv("PPLFAST_COMMIT", "0123")
    monkeypatch.setattr(shard_equal, "equal", lambda *_: made)
    out = tmp_path / "equal.json"
    assert shard_jobs.main(["equal", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "check, seconds" in said and "ok: equal, keys: 1,000, to be 1,000" in said
    value = json.loads(out.read_text())
    assert value["figures"] == made.figures and value["legs"] == [1] and value["goals"][0]["met"]
    assert value["commit"] == "0123" and value["command"].startswith("python -m pplfast.benchmarks.shard_jobs equal")
    made.goals.append(Goal("PNGs", 999, 1000, exact=True))
    assert shard_jobs.main(["equal"]) == 1


# ---- two parts, small: `make test-shards` runs all; tests/test_shard_ranks.py kills ranks too


@pytest.fixture
def forget_stores(monkeypatch):
    monkeypatch.setattr(remote, "_systems", {})


def missed(part: Part) -> list[str]:
    return [str(goal) for goal in part.goals if not goal.met]


@pytest.mark.slow
@pytest.mark.usefixtures("forget_stores")
def test_labels_with_faults_of_the_store(tmp_path):
    part = shard_kill.faults(tmp_path, images=160, seed=0)
    assert missed(part) == [] and part.figures["faults"]["gone"] > 0
    assert part.figures["reads_or_writes_tried_again"] > 0


@pytest.mark.slow
def test_label_shards_are_equal_to_label_files(tmp_path):
    part = shard_equal.equal(tmp_path, images=50, per_shard=20)
    assert missed(part) == []
