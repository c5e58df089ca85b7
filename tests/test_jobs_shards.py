"""WebDataset tars of a job: torn, linked, replaced; their names and keys."""

import json
import os
import tarfile

import pytest
from jobs_small import OPTIONS, Mean, images, replace
from label_jobs import jpeg

from pplfast.jobs import shards
from pplfast.jobs.manifest import checksum, read_manifest
from pplfast.jobs.run import run_job


def sharded(dataset, **changes):
    return Mean(dataset, shards=2, suffixes=(), **changes)


def samples(out):
    """Name -> bytes of every member of every tar; each name once."""
    found = {}
    for path in sorted((out / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            for name in tar.getnames():
                assert name not in found, name
                found[name] = tar.extractfile(name).read()
    return found


def key(name):
    """As WebDataset does: up to the first dot of the last part."""
    folder, slash, stem = name.rpartition("/")
    return folder + slash + stem[: stem.index(".")]


def test_a_sample_has_the_image_the_label_and_what_is_known_of_it(tmp_path):
    dataset, out = images(tmp_path / "images", ("a/x", "a/y", "b")), tmp_path / "out"
    assert run_job(sharded(dataset), out, OPTIONS).written == 3
    found = samples(out)
    assert list(found) == [f"{name}.{kind}" for name in dataset.ids for kind in ("jpg", "png", "json")]
    assert sorted(os.listdir(out / "shards")) == ["labels-00000-000000.tar", "labels-00000-000001.tar"]
    for name, path in zip(dataset.ids, dataset.images, strict=True):
        assert found[f"{name}.jpg"] == path.read_bytes() and float(found[f"{name}.png"]) > 0
        assert json.loads(found[f"{name}.json"]) == {"id": name, "height": 24, "width": 40}
    for record in read_manifest(out).values():  # a member is found by its offset, and has the recorded checksum
        for entry in record["files"]:
            data = (out / entry["file"]).read_bytes()[entry["offset"] : entry["offset"] + entry["bytes"]]
            assert data == found[entry["member"]] and checksum(data) == entry["sha256"]
    assert run_job(again := sharded(dataset), out, OPTIONS).skipped == 3 and not again.seen


def test_a_replaced_image_takes_its_shard_with_it_and_no_other(tmp_path):
    dataset, out = images(tmp_path / "images", "abcd"), tmp_path / "out"
    run_job(sharded(dataset), out, OPTIONS)
    replace(dataset.images[2], jpeg(48, 16, seed=9))
    assert run_job(again := sharded(dataset), out, OPTIONS).written == 2 and sorted(again.seen) == ["c", "d"]
    found = samples(out)
    assert {name[0] for name in found} == set("abcd") and found["c.jpg"] == dataset.images[2].read_bytes()
    assert not (out / "shards" / "labels-00000-000001.tar").exists() or len(os.listdir(out / "shards")) == 2


def test_ids_of_any_length_and_with_dots_have_keys_of_their_own(tmp_path):
    long = "n" * 120
    ids = ["a.b", "a_b", "a%2Eb", "a%b", "x/a.b", "x.y/a_b", ".a", "_a", "a", "é" * 60]
    ids += [f"{long}/{long}", long + "1", long + "2", "m" * 251, f"{'d' * 200}/{'e' * 250}"]
    dataset, out = images(tmp_path / "images", ids, (8, 8)), tmp_path / "out"
    outcome = run_job(sharded(dataset), out, OPTIONS)
    assert outcome.written == len(ids), outcome.bad
    found = samples(out)
    assert len({key(name) for name in found}) == len(ids) and len(found) == 3 * len(ids)
    said = {json.loads(data)["id"]: key(name) for name, data in found.items() if name.endswith(".json")}
    assert set(said) == set(ids)
    for name, path in zip(dataset.ids, dataset.images, strict=True):
        assert found[f"{said[name]}.jpg"] == path.read_bytes()


def test_a_name_too_long_for_a_file_is_bad_where_files_are_written_beside_shards(tmp_path):
    dataset, out = images(tmp_path / "images", ("a", "n" * 251), (8, 8)), tmp_path / "out"
    longer = "n" * 252  # its image has another suffix: .jpg would not fit either
    path = dataset.images[1].rename(tmp_path / "images" / "n.jpg")
    changed = type(dataset)("small", ("a", longer), (dataset.images[0], path), dataset.classes, None, (None, None))
    outcome = run_job(Mean(changed, shards=2), out, OPTIONS)
    assert outcome.written == 1 and "would have 256 bytes" in outcome.bad[0][1]
    assert read_manifest(out)[longer]["kind"] == "name" and len(samples(out)) == 3


def test_a_torn_shard_is_closed_behind_its_last_recorded_sample(tmp_path):
    writer, records = shards.ShardWriter(tmp_path, 2, 10), {}
    for number in range(3):
        contents = {".jpg": b"jpeg" * number, ".png": b"png", ".json": b"{}"}
        members, places = writer.add(f"a/b.{number}", contents)
        if number < 2:  # the kill comes before the third is recorded
            files = [
                {"file": file, "offset": offset, "bytes": len(member.data)}
                for member, (file, offset) in zip(members, places, strict=True)
            ]
            records[f"a/b.{number}"] = {"files": files}
    open_name = tmp_path / "shards" / ".labels-00002-000000.tar.open"
    with open(open_name, "ab") as file:
        file.write(b"half a sample")
    shards.finish_torn_shards(tmp_path, records)
    path = tmp_path / "shards" / "labels-00002-000000.tar"
    with tarfile.open(path) as tar:
        assert tar.getnames() == [f"a/b%2E{n}.{kind}" for n in range(2) for kind in ("jpg", "png", "json")]
        assert tar.extractfile("a/b%2E1.jpg").read() == b"jpeg"
    assert path.stat().st_size % 512 == 0 and not open_name.exists()
    assert shards.ShardWriter(tmp_path, 2, 10)._number == 1
    (tmp_path / "shards" / ".labels-00000-000000.tar.open").write_bytes(b"never recorded")
    shards.finish_torn_shards(tmp_path, records)
    assert os.listdir(tmp_path / "shards") == [path.name]


def test_an_image_that_goes_while_it_is_copied_into_a_shard_costs_itself_alone(tmp_path):
    dataset, out = images(tmp_path / "images", "abc"), tmp_path / "out"

    class Vanishing(Mean):
        def compute(self, batch, stopped):
            if batch.indices == [1]:  # it has been read
                dataset.images[1].unlink()
            return super().compute(batch, stopped)

    outcome = run_job(Vanishing(dataset, shards=2, suffixes=()), out, OPTIONS)
    assert outcome.written == 2 and [name for name, _ in outcome.bad] == ["b"]
    assert "No such file" in outcome.bad[0][1] and {name[0] for name in samples(out)} == {"a", "c"}
    dataset.images[1].write_bytes(jpeg(seed=3))
    assert run_job(sharded(dataset), out, OPTIONS).written == 1 and {name[0] for name in samples(out)} == set("abc")


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_job_that_failed_half_way_goes_on_in_its_shards(tmp_path, stop_after):
    dataset, out = images(tmp_path / "images", "abcdef"), tmp_path / "out"

    class Broken(Mean):
        batch = 1

        def compute(self, batch, stopped):
            if len(self.seen) == stop_after:
                raise ZeroDivisionError("broken")
            return super().compute(batch, stopped)

    with pytest.raises(ZeroDivisionError):
        run_job(Broken(dataset, shards=2, suffixes=()), out, OPTIONS)
    assert run_job(sharded(dataset), out, OPTIONS).written >= 6 - stop_after
    assert {name[0] for name in samples(out)} == set("abcdef")
