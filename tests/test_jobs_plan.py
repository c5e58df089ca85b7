"""What is left to do: which records hold, what goes with those that do not, and how ranks share the rest."""

import json

import numpy as np
import pytest
from jobs_small import OPTIONS, Mean, images, plan_of, replace
from label_jobs import jpeg

from pplfast.data.images import BadImage
from pplfast.jobs.manifest import checksum, read_manifest
from pplfast.jobs.plan import share, source_state
from pplfast.jobs.run import run_job


@pytest.fixture
def done(tmp_path):
    data, out = images(tmp_path / "images", "abcd"), tmp_path / "out"
    run_job(Mean(data), out, OPTIONS)
    return data, out


def change(out, name, **fields):
    """The record of an image, with other fields; None: without."""
    records = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    for record in records:
        if record["id"] == name:
            record.update(fields)
    records = [{key: value for key, value in record.items() if value is not None} for record in records]
    (out / "manifest.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.mark.parametrize("world", [1, 2, 3, 8, 100])
@pytest.mark.parametrize("count", [0, 1, 5, 1000])
def test_ranks_share_all_positions_and_each_goes_once(count, world):
    positions = np.arange(count) * 3
    parts = [share(positions, rank, world) for rank in range(world)]
    assert sorted(np.concatenate(parts).tolist()) == positions.tolist()
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= max(1, count // (world * 64) + 1) * 2


def test_a_record_holds_while_all_that_it_depends_on_is_the_same(done):
    data, out = done
    assert [len(part) if number == 0 else part for number, part in enumerate(plan_of(Mean(data), out))] == [0, 4, 0]
    assert list(plan_of(Mean(data, inputs={2: {"classes": [6]}}), out)[0]) == [2]
    replace(data.images[1], data.images[1].read_bytes())
    assert list(plan_of(Mean(data), out)[0]) == [1, 2], "and what was found to do before is not forgotten"


@pytest.mark.parametrize(
    "fields",
    [
        {"source": None},
        {"source": [1, 2]},
        {"files": []},
        {"files": None},
        {"inputs": {"classes": [8]}},
        {"inputs": None},
    ],
)
def test_a_record_that_does_not_say_so_does_not_hold(done, fields):
    data, out = done
    job = Mean(data, inputs={index: {"classes": [6]} for index in range(4)})
    for name in "abcd":
        change(out, name, inputs={"classes": [6]})
    assert len(plan_of(job, out)[0]) == 0
    change(out, "c", **fields)
    assert list(plan_of(job, out)[0]) == [2]


def test_with_verify_the_time_of_an_image_does_not_count_and_its_bytes_do(done):
    data, out = done
    replace(data.images[0], data.images[0].read_bytes())
    change(out, "b", image_sha256=checksum(b"others"))
    change(out, "c", image_sha256=None)  # of a job that reads no pixels: time and size are all there is
    assert list(plan_of(Mean(data), out, verify=True)[0]) == [1]


@pytest.mark.parametrize("kind", ["memory", "maps", "failed", "unreadable", "too-large", "rotated"])
def test_bad_images_are_tried_again_where_the_reason_need_not_lie_in_the_file(done, kind):
    data, out = done
    source = source_state(data.images[0])
    change(out, "a", state="bad", kind="truncated", reason="x", source=source, files=None)
    assert len(plan_of(Mean(data), out)[0]) == 0
    change(out, "a", kind=kind)
    assert list(plan_of(Mean(data), out)[0]) == [0]


def test_an_image_that_is_known_to_have_no_result_keeps_its_record_until_that_changes(done):
    data, out = done

    class Without(Mean):
        def depends(self, index):
            if index == 3:
                raise BadImage("cam", self.reason)
            return {}

    assert run_job(Without(data, reason="no CAM"), out, OPTIONS).bad == [("d", f"{data.images[3]}: no CAM")]
    assert read_manifest(out)["d"]["inputs"] == {"bad": "no CAM"} and not (out / "d.png").exists()
    assert len(plan_of(Without(data, reason="no CAM"), out)[0]) == 0
    assert list(plan_of(Without(data, reason="another reason"), out)[0]) == [3]


def test_outputs_of_another_kind_go_with_what_they_were_made_of(tmp_path):
    """Made with more outputs than are asked for now: what nobody makes anew must not stay beside the new ones."""
    data, out = images(tmp_path / "images", "abc"), tmp_path / "out"
    run_job(Mean(data, suffixes=(".png", ".npy")), out, OPTIONS)
    assert run_job(Mean(data), out, OPTIONS).skipped == 3 and (out / "b.npy").exists()
    replace(data.images[1], jpeg(seed=9))
    assert run_job(Mean(data), out, OPTIONS).written == 1
    assert not (out / "b.npy").exists() and (out / "a.npy").exists() and (out / "b.png").exists()
    assert run_job(more := Mean(data, suffixes=(".png", ".npy")), out, OPTIONS).written == 1 and more.seen == ["b"]
