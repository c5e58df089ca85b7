"""The record of a job; folders of strangers: their records can name no file but the program's own, and links lead
nowhere."""

import json
import os
import tracemalloc

import pytest
from jobs_small import OPTIONS, Mean, images, plan_of

from pplfast.errors import UserError
from pplfast.jobs import plan
from pplfast.jobs.folder import claim_folder, find_outputs
from pplfast.jobs.manifest import ManifestWriter, checksum, merge, rank_file, read_manifest, read_records
from pplfast.jobs.run import run_job
from pplfast.lock import is_locked

SUM = "0" * 64
VICTIM = b"precious"
ZERO = "\u0660"  # a digit, but not one that the program writes


def entry(**changes) -> dict:
    return {"file": "shards/labels-00000-000000.tar", "offset": 512, "bytes": 4, "sha256": SUM} | changes


def plain(**changes) -> dict:
    return {key: value for key, value in entry(file="im0.png").items() if key != "offset"} | changes


def done(*files, **changes) -> dict:
    return {"id": "im0", "state": "done", "files": list(files)} | changes


@pytest.fixture
def work(tmp_path):
    """A data set, a folder of outputs, and files that are none of it."""
    out = tmp_path / "out"
    (out / "shards").mkdir(parents=True)
    for path in (tmp_path / "victim", out / "mine.txt", out / "shards" / "labels-00000-000000.tar", out / "im0.png"):
        path.write_bytes(VICTIM)
    return Mean(images(tmp_path / "data", [f"im{number}" for number in range(5)])), out


HOSTILE = [
    done(entry(file="../victim")),
    done(entry(file="ABSOLUTE")),
    done(entry(file="shards/../../victim")),
    done(entry(file="shards/labels-00000-000000.tar/../../mine.txt")),
    done(entry(file="mine.txt")),
    done(entry(file="shards/labels-00000-000000.tar\n")),
    done(entry(file=f"shards/labels-{5 * ZERO}-{6 * ZERO}.tar")),
    done(plain(file="../victim")),
    done(plain(file="mine.txt")),
    done(plain(file="im1.png")),
    done(plain(file=None)),
    done(plain(bytes=-1)),
    done(plain(bytes=True)),
    done(plain(bytes=1.5)),
    done(plain(sha256="0" * 63)),
    done(plain(sha256=7)),
    done(entry(offset=-512)),
    done(entry(offset="0")),
    done(entry(offset=10**400)),
    done("im0.png"),
    done(plain(), files="im0.png"),
    done(plain(), files={"file": "im0.png"}),
    done(plain(), id="../victim"),
    done(plain(), id="/etc/passwd"),
    done(plain(), id="a/../im0"),
    done(plain(), id="im0\0"),
    done(plain(), id="\ud800"),
    done(plain(), state=["done"]),
    done(plain(), state="gone"),
    done(plain(), time="soon"),
    done(plain(), time=float("inf")),
    done(plain(), time=10**400),
    done(plain(), rank={}),
    done(plain(), extra=1),
    done(plain(), inputs=7),
    done(plain(), inputs={"classes": [[6]]}),
    done(plain(), inputs={"classes": {}}),
    done(plain(), inputs={"cam": 1.5}),
    done(plain(), image_sha256=7),
    done(plain(), image_sha256="0" * 63),
    done(plain(), tiled=-1),
    done(plain(), source=[1, "2"]),
    done(plain(file="im0.npz/../im1.png")),
    {"id": "im0"},
    {"id": "im0", "state": "done", "files": [{"file": "im0.png"}]},
    {"id": "im0", "state": "bad"},
    {"id": "im0", "state": "bad", "reason": 5},
    {"id": "im0", "state": "bad", "reason": "x", "source": [1]},
    ["im0"],
    7,
    None,
]


@pytest.mark.parametrize("place", ["manifest.jsonl", "manifest/rank00000.jsonl"])
@pytest.mark.parametrize("record", HOSTILE)
def test_a_record_that_no_job_writes_is_refused_by_its_line_and_nothing_is_deleted(work, tmp_path, record, place):
    job, out = work
    text = json.dumps(record).replace("ABSOLUTE", str(tmp_path / "victim"))
    (out / "manifest").mkdir()
    (out / place).write_text(f"{json.dumps(done(plain()))}\n{text}\n")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    for verify in (False, True):
        with pytest.raises(UserError, match=rf"{place}, line 2: not a record of .*; delete this line") as refusal:
            plan_of(job, out, verify)
        assert "\n" not in str(refusal.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert (tmp_path / "victim").read_bytes() == VICTIM


@pytest.mark.parametrize(
    "line", ["[" * 100_000, '{"id": ' + "[" * 900 + "]" * 900 + "}", "7" * 5000, "nonsense", "NaN"]
)
def test_lines_that_are_torn_or_absurd_end_nothing(work, line):
    job, out = work
    (out / "manifest.jsonl").write_text(line)  # the last of a killed rank: no end
    assert len(plan_of(job, out, False)[0]) == 5


def test_a_line_without_end_costs_no_memory(work):
    job, out = work
    with open(out / "manifest.jsonl", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match=r"manifest.jsonl, line 1: too long"):
        plan_of(job, out, False)


def test_own_records_hold_and_a_broken_shard_goes_alone(work):
    job, out = work
    source = plan.source_state(job.dataset.images[0])
    png = done(plain(bytes=len(VICTIM), sha256=checksum(VICTIM)), source=source)
    torn = done(entry(offset=512, bytes=10**6), id="im1")
    (out / "manifest.jsonl").write_text(f"{json.dumps(png)}\n{json.dumps(torn)}\n")
    pending, good, bad = plan_of(job, out, True)
    assert (good, bad) == (1, 0) and list(pending) == [1, 2, 3, 4]
    assert (out / "im0.png").exists() and not (out / "shards" / "labels-00000-000000.tar").exists()
    assert (out / "mine.txt").exists()


@pytest.mark.parametrize("name", ["shards", "manifest"])
def test_a_linked_folder_is_refused_and_what_it_leads_to_stays(work, tmp_path, name):
    job, out = work
    other = tmp_path / "other"
    other.mkdir()
    for path in ("labels-00000-000000.tar", ".labels-00000-000001.tar.open", "rank00000.jsonl", "rank00000.status"):
        (other / path).write_bytes(VICTIM)
    if (out / name).exists():
        (out / name / "labels-00000-000000.tar").unlink()
        (out / name).rmdir()
    (out / name).symlink_to(other)
    (out / "manifest.jsonl").write_text(json.dumps(done(entry(bytes=10**6))) + "\n")
    with pytest.raises(UserError, match=rf"out/{name}: a symbolic link leads out of .*remove the link"):
        plan_of(job, out, False)
    assert len(list(other.iterdir())) == 4 and all(path.read_bytes() == VICTIM for path in other.iterdir())


def test_linked_files_are_replaced_and_what_they_lead_to_stays(work, tmp_path):
    job, out = work
    victim = tmp_path / "victim"
    record = done(entry(offset=0, bytes=4))
    (out / "manifest").mkdir()
    (out / "shards" / "labels-00000-000000.tar").unlink()
    for name in ("shards/.labels-00000-000000.tar.open", "manifest/rank00001.status", "manifest/rank00001.jsonl"):
        (out / name).symlink_to(victim)
    (out / "gone.png").symlink_to(tmp_path / "nowhere")
    (out / ".5-0123456789abcdef.partial").symlink_to(victim)
    os.link(victim, out / "shards" / ".labels-00000-000001.tar.open")
    (out / "manifest.jsonl").write_text(json.dumps(record) + "\n")
    plan_of(job, out, True)
    assert victim.read_bytes() == VICTIM and not list((out / "shards").iterdir())


def test_only_own_names_are_tidied_away(work):
    job, out = work
    (out / "manifest").mkdir()
    mine = ["shards/.notes.open", "manifest/rank-notes.jsonl", "manifest/rank.status", ".download.partial"]
    stale = [".im0.png.99.partial", ".99-0123456789abcdef.partial"]
    for name in (*mine, *stale):
        (out / name).write_bytes(VICTIM)
    plan_of(job, out, False)
    assert all((out / name).exists() for name in mine) and not any((out / name).exists() for name in stale)


def test_a_folder_in_an_outputs_place_is_named_and_not_counted_as_done(work):
    job, out = work
    (out / "im0.png").unlink()
    assert run_job(job, out, OPTIONS).written == 5
    (out / "im2.png").unlink()
    (out / "im2.png").mkdir()
    assert list(plan_of(job, out)[0]) == [2]
    for refused in (lambda: run_job(job, out, OPTIONS), lambda: find_outputs(out, ["im2"], ".png", "pplfast mean")):
        with pytest.raises(UserError, match=r"im2\.png: is a folder, where a file is expected"):
            refused()


@pytest.mark.parametrize("name", ["manifest.jsonl", "manifest/rank00000.jsonl"])
def test_a_folder_in_a_manifests_place_is_named(work, name):
    job, out = work
    (out / name).mkdir(parents=True)
    with pytest.raises(UserError, match=rf"{name}: is a folder, where a file is expected"):
        plan_of(job, out, False)


def test_a_pipe_in_a_manifests_place_is_named_and_not_waited_for(work):
    job, out = work
    (out / "manifest").mkdir()
    os.mkfifo(out / "manifest" / "rank00000.jsonl")
    with pytest.raises(UserError, match=r"rank00000.jsonl: is no regular file"):
        plan_of(job, out, False)


def test_a_folder_that_may_not_be_read_is_named(work, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    job, out = work
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="out: may not be read .Permission denied.; ask its owner"):
        plan_of(job, out, False)


def test_a_folder_in_the_settings_place_is_named(work):
    job, out = work
    (out / "settings.json").mkdir()
    with pytest.raises(UserError, match="settings.json: is a folder"):
        run_job(job, out, OPTIONS)


@pytest.mark.parametrize("text", ["", "[", "[]", "7", "9" * 5000, '{"a": ' * 100 + "1" + "}" * 100, "\xff"])
def test_damaged_settings_are_named(work, text):
    job, out = work
    (out / "settings.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"settings\.json: (not valid JSON|holds a).*delete it"):
        run_job(job, out, OPTIONS)


@pytest.mark.parametrize(
    ("there", "wanted", "words"),
    [
        ({"a": 1}, {"a": 2}, "a = 1, not 2"),
        ({"a": None}, {}, "a = None, not nothing"),
        ({}, {"a": None}, "a = nothing, not None"),
        ({"a": [1, 2]}, {"a": [1]}, r"a = \[1, 2\], not \[1\]"),
    ],
)
def test_the_setting_that_differs_is_named(tmp_path, there, wanted, words):
    claim_folder(tmp_path, there)
    claim_folder(tmp_path, there)
    with pytest.raises(UserError, match=f"was filled with {words}; choose another output folder, or delete this one"):
        claim_folder(tmp_path, wanted)


def test_outputs_do_not_go_through_a_link_out_of_their_folder(work, tmp_path):
    _, out = work
    (tmp_path / "other").mkdir()
    (out / "00").symlink_to(tmp_path / "other")
    job = Mean(images(tmp_path / "more", ["00/a", "b"]))
    with pytest.raises(UserError, match="out/00: a symbolic link leads out"):
        run_job(job, out, OPTIONS)
    assert not list((tmp_path / "other").iterdir())


def test_a_manifest_does_not_follow_a_link_and_a_full_disk_is_one_line(tmp_path, monkeypatch):
    rank_file(tmp_path, 0).parent.mkdir()
    rank_file(tmp_path, 0).symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match=r"rank00000.jsonl: a symbolic link"):
        ManifestWriter(tmp_path, 0)
    assert not (tmp_path / "victim").exists()
    rank_file(tmp_path, 0).unlink()
    monkeypatch.setattr("pplfast.jobs.manifest.open_append", lambda path: open("/dev/full", "ab", buffering=0))
    writer = ManifestWriter(tmp_path, 0)
    with pytest.raises(UserError, match=r"rank00000.jsonl: the disk is full; make space"):
        writer.append({"id": "a", "state": "bad", "reason": "x"})
    writer.close()


def test_a_manifest_survives_a_torn_line_and_refuses_a_second_writer(tmp_path):
    writer = ManifestWriter(tmp_path, 0)
    writer.append({"id": "a", "state": "done", "time": 1})
    with pytest.raises(UserError, match="another job is writing to this folder; wait for it, or stop it"):
        ManifestWriter(tmp_path, 0)
    assert is_locked(rank_file(tmp_path, 0))
    writer.close()
    assert not is_locked(rank_file(tmp_path, 0))
    with open(rank_file(tmp_path, 1), "w") as file:
        file.write('{"id":"a","state":"bad","reason":"empty","time":2}\n{"id":"b","sta')
    assert read_manifest(tmp_path)["a"]["state"] == "bad" and len(read_manifest(tmp_path)) == 1
    merge(tmp_path, read_manifest(tmp_path).values())
    assert [r["state"] for r in read_records(tmp_path / "manifest.jsonl")] == ["bad"]
    assert os.listdir(tmp_path) == ["manifest.jsonl"]


def test_a_bad_image_in_the_manifest_explains_its_missing_output(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "manifest.jsonl").write_text('{"id":"b","state":"bad","reason":"empty file"}\n')
    assert find_outputs(tmp_path, ["a", "b"], ".png", "pplfast label") == {"b": "empty file"}
    with pytest.raises(UserError, match="have no .png here .first: c"):
        find_outputs(tmp_path, ["a", "b", "c"], ".png", "pplfast label")
    with pytest.raises(UserError, match="all 1 images of the list failed .first: b: empty file"):
        find_outputs(tmp_path, ["b"], ".png", "pplfast label")
    with pytest.raises(UserError, match="nowhere: no such folder; make it with `pplfast label`"):
        find_outputs(tmp_path / "nowhere", ["b"], ".png", "pplfast label")


def test_the_checksum_of_a_sparse_file_is_found_without_holding_it_in_memory(work):
    job, out = work
    size = 300 * 2**20
    with open(out / "im0.png", "wb") as file:
        file.truncate(size)
    (out / "manifest.jsonl").write_text(json.dumps(done(plain(bytes=size))) + "\n")
    tracemalloc.start()
    try:
        assert plan_of(job, out, True)[1] == 0
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_a_manifest_keeps_the_last_word_on_an_image(tmp_path):
    (tmp_path / "manifest").mkdir()
    for rank, time in ((0, 5), (1, 3.5)):
        line = {"id": "a", "state": "bad", "reason": f"rank {rank}", "rank": rank, "time": time}
        (tmp_path / "manifest" / f"rank0000{rank}.jsonl").write_text(json.dumps(line) + "\n")
    assert read_manifest(tmp_path)["a"]["rank"] == 0
