"""CAM files, the settings of an output folder, and the enlargement of stored maps."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pplfast.errors import UserError
from pplfast.jobs import progress
from pplfast.jobs.folder import claim_folder, decide, find_outputs, read_settings
from pplfast.jobs.job import Choice
from pplfast.labels.camfile import Cam, encode_npy, load_cam, resize_bilinear, save_cam, stored_size
from pplfast.npy import load_npy_dict


def random_cam(height=37, width=50, classes=(2, 11)):
    maps = np.random.default_rng(0).random((len(classes), *stored_size(height, width))).astype(np.float16)
    return Cam(np.array(classes, np.int16), maps, (height, width))


@pytest.mark.parametrize(
    "source,target", [((10, 13), (37, 50)), ((1, 1), (3, 2)), ((94, 125), (375, 500)), ((5, 4), (5, 4))]
)
def test_enlargement_equals_torch(source, target):
    maps = np.random.default_rng(1).random((3, *source)).astype(np.float32)
    expected = F.interpolate(torch.from_numpy(maps)[None], target, mode="bilinear", align_corners=False)[0].numpy()
    result = resize_bilinear(maps, *target)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=2e-5)  # torch rounds the positions to float32


def test_cam_file_round_trip(tmp_path):
    cam = random_cam()
    save_cam(tmp_path / "sub" / "a.npz", cam)
    loaded = load_cam(tmp_path / "sub" / "a.npz")
    assert loaded.size == (37, 50) and loaded.classes.dtype == np.int16 and loaded.maps.dtype == np.float16
    np.testing.assert_array_equal(loaded.classes, cam.classes)
    np.testing.assert_array_equal(loaded.maps, cam.maps)
    assert loaded.full().shape == (2, 37, 50)
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["a.npz"]


def test_npy_dict_is_what_follow_up_code_reads(tmp_path):
    cam = random_cam()
    (tmp_path / "a.npy").write_bytes(encode_npy(cam, cam.full()))
    value = np.load(tmp_path / "a.npy", allow_pickle=True).item()  # as IRN and its successors read it
    assert sorted(value) == ["cam", "high_res", "keys"]
    np.testing.assert_array_equal(value["keys"], [2, 11])
    assert value["cam"].shape == (2, 10, 13) and value["high_res"].shape == (2, 37, 50)
    np.testing.assert_array_equal(load_npy_dict(tmp_path / "a.npy")["high_res"], cam.full())


def test_unreadable_cam_files_are_named(tmp_path):
    with pytest.raises(UserError, match="missing.npz: no such file"):
        load_cam(tmp_path / "missing.npz")
    (tmp_path / "junk.npz").write_bytes(b"not a zip file")
    save_cam(tmp_path / "cut.npz", random_cam())
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:300])
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "pickle.npz", classes=np.array([{}], dtype=object), cam=np.zeros(1), size=np.zeros(2))
    save_cam(tmp_path / "size.npz", Cam(np.array([0]), np.zeros((1, 4, 4)), (100, 100)))
    for name in ("junk", "cut", "other", "pickle", "size"):
        with pytest.raises(UserError, match=f"{name}.npz: .*run `pplfast cam` again"):
            load_cam(tmp_path / f"{name}.npz")


def test_folder_refuses_other_settings(tmp_path):
    out = tmp_path / "out"
    for _ in range(2):
        claim_folder(out, decide(out, {"value": 0.3, "scales": (1.0, 2.0)}, {}))
    with pytest.raises(UserError, match=r"out: was filled with value = 0.3, not 0.25; choose another"):
        claim_folder(out, decide(out, {"value": 0.25, "scales": (1.0, 2.0)}, {}))
    assert read_settings(out)["value"] == 0.3
    claim_folder(out, decide(out, {"value": 0.3, "scales": (1.0, 2.0)}, {}), [out / "settings.json"])


def test_a_choice_stays_as_it_was_recorded_where_it_can_be(tmp_path):
    def choices(value, *possible):
        return {"precision": Choice(value, possible.__contains__)}

    claim_folder(tmp_path, decide(tmp_path, {}, choices("bf16", "bf16", "fp32")))
    assert decide(tmp_path, {}, choices("fp32", "bf16", "fp32")) == {"precision": "bf16"}
    assert decide(tmp_path, {}, choices("fp32", "fp32")) == {"precision": "fp32"}


def test_a_folder_of_somebody_else_is_not_filled(tmp_path):
    (tmp_path / "a.npz").touch()
    with pytest.raises(UserError, match=r"a\.npz: is in the way, and .* has no settings.json of a job"):
        claim_folder(tmp_path, {}, [tmp_path / "a.npz"])
    claim_folder(tmp_path, {}, [tmp_path / "b.npz"])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: is a file; give a folder"):
        claim_folder(tmp_path / "file", {})


def test_find_outputs_tells_failed_from_missing(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder; make it with `pplfast cam`"):
        find_outputs(tmp_path / "nowhere", ["a"], ".npz", "pplfast cam")
    (tmp_path / "a.npz").touch()
    note = {"id": "b", "state": "bad", "kind": "truncated", "reason": "b.jpg: truncated"}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(note) + "\n")
    assert find_outputs(tmp_path, ["a", "b"], ".npz", "pplfast cam") == {"b": "b.jpg: truncated"}
    with pytest.raises(UserError, match=r"1 of the list's 3 images have no .npz here \(first: c\)"):
        find_outputs(tmp_path, ["a", "b", "c"], ".npz", "pplfast cam")
    with pytest.raises(UserError, match="all 1 images of the list failed .*truncated"):
        find_outputs(tmp_path, ["b"], ".npz", "pplfast cam")


def test_progress_without_a_terminal_is_plain_lines(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with progress.ProgressBar("CAMs", 4) as bar:
        bar.advance(1)
        bar.advance(3)
    with progress.ProgressBar("nothing", 0):
        pass
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and bar.seconds > 0
    assert lines[0].startswith("CAMs: 1/4, ") and lines[0].endswith(" s left") and "images/s" in lines[0]
    assert lines[1].startswith("CAMs: 4/4, ") and not lines[1].endswith("left")
