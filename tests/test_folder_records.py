"""Folders of strangers: their records can name no file but the program's own, and links lead nowhere."""

import json
import os
import tarfile
import tracemalloc

import pytest
from labels_small import small_dataset

from pplfast.errors import UserError
from pplfast.jobs.folder import Outcome, OutputFolder, find_outputs
from pplfast.labels.stream import shards
from pplfast.jobs.run import JobResult
from pplfast.jobs.manifest import checksum, read_manifest
from pplfast.jobs.plan import make_plan

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
    return small_dataset(tmp_path / "data"), out


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
    dataset, out = work
    text = json.dumps(record).replace("ABSOLUTE", str(tmp_path / "victim"))
    (out / "manifest").mkdir()
    (out / place).write_text(f"{json.dumps(done(plain()))}\n{text}\n")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    for verify in (False, True):
        with pytest.raises(UserError, match=rf"{place}, line 2: not a record of .*; delete this line") as refusal:
            make_plan(dataset, out, verify)
        assert "\n" not in str(refusal.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert (tmp_path / "victim").read_bytes() == VICTIM


@pytest.mark.parametrize(
    "line", ["[" * 100_000, '{"id": ' + "[" * 900 + "]" * 900 + "}", "7" * 5000, "nonsense", "NaN"]
)
def test_lines_that_are_torn_or_absurd_end_nothing(work, line):
    dataset, out = work
    (out / "manifest.jsonl").write_text(line)  # the last of a killed rank: no end
    assert len(make_plan(dataset, out, False).pending) == 5


def test_a_line_without_end_costs_no_memory(work):
    dataset, out = work
    with open(out / "manifest.jsonl", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match=r"manifest.jsonl, line 1: too long"):
        make_plan(dataset, out, False)


def test_own_records_hold_and_a_broken_shard_goes_alone(work):
    dataset, out = work
    png = done(plain(bytes=len(VICTIM), sha256=checksum(VICTIM)))
    torn = done(entry(offset=512, bytes=10**6), id="im1")
    (out / "manifest.jsonl").write_text(f"{json.dumps(png)}\n{json.dumps(torn)}\n")
    plan = make_plan(dataset, out, verify=True)
    assert plan.done == 1 and list(plan.pending) == [1, 2, 3, 4]
    assert (out / "im0.png").exists() and not (out / "shards" / "labels-00000-000000.tar").exists()
    assert (out / "mine.txt").exists()


@pytest.mark.parametrize("name", ["shards", "manifest"])
def test_a_linked_folder_is_refused_and_what_it_leads_to_stays(work, tmp_path, name):
    dataset, out = work
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
        make_plan(dataset, out, False)
    assert len(list(other.iterdir())) == 4 and all(path.read_bytes() == VICTIM for path in other.iterdir())


def test_linked_files_are_replaced_and_what_they_lead_to_stays(work, tmp_path):
    dataset, out = work
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
    make_plan(dataset, out, True)
    assert victim.read_bytes() == VICTIM and not list((out / "shards").iterdir())


def test_only_own_names_are_tidied_away(work):
    dataset, out = work
    (out / "manifest").mkdir()
    mine = ["shards/.notes.open", "manifest/rank-notes.jsonl", "manifest/rank.status", ".download.partial"]
    stale = [".im0.png.99.partial", ".99-0123456789abcdef.partial"]
    for name in (*mine, *stale):
        (out / name).write_bytes(VICTIM)
    make_plan(dataset, out, False)
    assert all((out / name).exists() for name in mine) and not any((out / name).exists() for name in stale)


def test_every_sample_of_a_shard_has_a_key_of_its_own(tmp_path):
    ids = ["a.b", "a_b", "a%2Eb", "a%b", "x/a.b", "x.y/a_b", ".a", "_a", "a"]
    writer = shards.ShardWriter(tmp_path, 0, 100)
    for image_id in ids:
        writer.add(shards.sample(image_id, b"jpeg", b"png", {}))
    writer.close_shard()
    with tarfile.open(tmp_path / "shards" / "labels-00000-000000.tar") as tar:
        names = tar.getnames()
        said = [json.load(tar.extractfile(name))["id"] for name in names if name.endswith(".json")]
    # As WebDataset does: up to the first dot of the last part.
    keys = {name[: len(name) - len(name.rpartition("/")[2]) + name.rpartition("/")[2].index(".")] for name in names}
    assert len(keys) == len(ids) and said == ids and len(set(names)) == 3 * len(ids)


# --- a folder of one output per image ---


def test_a_folder_in_an_outputs_place_is_named_and_not_counted_as_done(tmp_path):
    folder = OutputFolder(tmp_path, ".npz", {})
    (tmp_path / "a.npz").mkdir()
    with pytest.raises(UserError, match=r"a\.npz: is a folder, where a file is expected"):
        folder.pending(["a"])
    with pytest.raises(UserError, match=r"a\.npz: is a folder, where a file is expected"):
        find_outputs(tmp_path, ["a"], ".npz", "pplfast cam")


@pytest.mark.parametrize("name", ["manifest.jsonl", "manifest/rank00000.jsonl"])
def test_a_folder_in_a_manifests_place_is_named(work, name):
    dataset, out = work
    (out / name).mkdir(parents=True)
    with pytest.raises(UserError, match=rf"{name}: is a folder, where a file is expected"):
        make_plan(dataset, out, False)


def test_a_pipe_in_a_manifests_place_is_named_and_not_waited_for(work):
    dataset, out = work
    (out / "manifest").mkdir()
    os.mkfifo(out / "manifest" / "rank00000.jsonl")
    with pytest.raises(UserError, match=r"rank00000.jsonl: is no regular file"):
        make_plan(dataset, out, False)


def test_a_folder_that_may_not_be_read_is_named(work, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    dataset, out = work
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="out: may not be read .Permission denied.; ask its owner"):
        make_plan(dataset, out, False)


@pytest.mark.parametrize("name", ["settings.json", "bad.jsonl"])
def test_a_folder_in_a_records_place_is_named(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"{name}: is a folder"):
        OutputFolder(tmp_path, ".npz", {})


def test_outputs_do_not_go_through_a_link_out_of_their_folder(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "out" / "00").symlink_to(tmp_path / "other")
    folder = OutputFolder(tmp_path / "out", ".npz", {})
    with pytest.raises(UserError, match="out/00: a symbolic link leads out"):
        folder.pending(["00/a"])


def test_notes_of_failed_images_do_not_follow_a_link_and_a_full_disk_is_one_line(tmp_path, monkeypatch):
    folder = OutputFolder(tmp_path / "out", ".npz", {})
    (tmp_path / "out" / "bad.jsonl").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match=r"bad.jsonl: a symbolic link"):
        folder.failed("a", "broken")
    assert not (tmp_path / "victim").exists()
    (tmp_path / "out" / "bad.jsonl").unlink()
    monkeypatch.setattr("pplfast.jobs.folder.open_append", lambda path: open("/dev/full", "ab", buffering=0))
    with pytest.raises(UserError, match=r"bad.jsonl: the disk is full; make space"):
        folder.failed("a", "broken")


@pytest.mark.parametrize(
    "line", ["[" * 100_000, "[]", "7", '{"id": "a"}', '{"id": 1, "error": "x"}', "9" * 5000, "\xff"]
)
def test_damaged_notes_are_named(tmp_path, line):
    (tmp_path / "bad.jsonl").write_text(f'{{"id": "b", "error": "x"}}\n{line}\n', encoding="latin-1")
    with pytest.raises(UserError, match=r"bad.jsonl, line 2: not readable .*delete it"):
        find_outputs(tmp_path, ["a"], ".npz", "pplfast cam")


def test_reasons_from_a_folder_cannot_steer_a_terminal(tmp_path):
    outcome = Outcome(1, 0, [("a\n", "\x1b[2Jbroken")])
    result = JobResult(1, 0, outcome.bad, 1.0, [], {"crf": 0.5, "encode": 0.1}, 3)
    for text in (outcome.summary("CAMs", tmp_path), result.summary(tmp_path)):
        assert r"  a\n: \x1b[2Jbroken" in text.splitlines()


def test_the_checksum_of_a_sparse_file_is_found_without_holding_it_in_memory(work):
    dataset, out = work
    size = 300 * 2**20
    with open(out / "im0.png", "wb") as file:
        file.truncate(size)
    (out / "manifest.jsonl").write_text(json.dumps(done(plain(bytes=size))) + "\n")
    tracemalloc.start()
    try:
        assert make_plan(dataset, out, verify=True).done == 0
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_a_manifest_keeps_the_last_word_on_an_image(tmp_path):
    (tmp_path / "manifest").mkdir()
    for rank, time in ((0, 5), (1, 3.5)):
        line = {"id": "a", "state": "bad", "reason": f"rank {rank}", "rank": rank, "time": time}
        (tmp_path / "manifest" / f"rank0000{rank}.jsonl").write_text(json.dumps(line) + "\n")
    assert read_manifest(tmp_path)["a"]["rank"] == 0
