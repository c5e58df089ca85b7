"""A training folder from a stranger: what is in it can be refused or passed over, and no more."""

import hashlib
import json
import os

import pytest
import torch
from safetensors.torch import save_file
from training_parts import run_info

from pplfast.cluster.ranks import Ranks
from pplfast.errors import UserError
from pplfast.train import trackers
from pplfast.train.checkpoint import MANIFEST, STATE, SUMS, CheckpointFolder, Progress
from pplfast.train.identity import claim_folder
from pplfast.train.loggers import JsonLines
from pplfast.train.state import TrainState
from pplfast.train.trainer import _recorded_precision

ONE_RANK = Ranks(0, 1, 1, torch.device("cpu"))
PROGRESS = {"stage": 0, "stage_steps": 9, "steps": 9, "stage_ended": False, "seconds": 1.5}
GOOD = {"progress": PROGRESS, "world": 1, "loss_scale": {}}


def write(folder, manifest, state: bytes | None = None) -> None:
    """A checkpoint whose sums are right."""
    folder.mkdir(parents=True)
    if state is None:
        save_file({"model.a": torch.zeros(3)}, folder / STATE)
    else:
        (folder / STATE).write_bytes(state)
    (folder / MANIFEST).write_text(manifest if isinstance(manifest, str) else json.dumps(manifest))
    sums = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in (STATE, MANIFEST)]
    (folder / SUMS).write_text("".join(sums))


@pytest.mark.parametrize(
    "manifest",
    [
        "[" * 100_000,
        [],
        {},
        GOOD | {"progress": []},
        GOOD | {"progress": {}},
        GOOD | {"progress": PROGRESS | {"more": 1}},
        GOOD | {"progress": PROGRESS | {"stage_steps": -1}},
        GOOD | {"progress": PROGRESS | {"stage_steps": "9"}},
        GOOD | {"progress": PROGRESS | {"stage_steps": True}},
        GOOD | {"progress": PROGRESS | {"steps": 10**400}},
        GOOD | {"progress": PROGRESS | {"stage_ended": 1}},
        GOOD | {"progress": PROGRESS | {"seconds": float("nan")}},
        GOOD | {"progress": PROGRESS | {"seconds": float("inf")}},
        GOOD | {"progress": PROGRESS | {"loss": float("nan")}},
        GOOD | {"progress": PROGRESS | {"loss": "x"}},
        GOOD | {"progress": PROGRESS | {"open_steps": -1}},
        GOOD | {"progress": PROGRESS | {"images_per_s": -1.0}},
        GOOD | {"progress": {"stage": 0}},
        GOOD | {"loss_scale": []},
        GOOD | {"loss_scale": {"scale": "x"}},
        GOOD | {"loss_scale": {"scale": float("nan")}},
        GOOD | {"loss_scale": {"../x": 1.0}},
    ],
)
def test_a_manifest_that_no_checkpoint_has_is_passed_over(tmp_path, manifest):
    folder = tmp_path / "checkpoints"
    write(folder / "stage1-0000008", GOOD)
    write(folder / "stage1-0000009", manifest)
    found, [note] = CheckpointFolder(folder, ONE_RANK, 3).latest()
    assert found.path.name == "stage1-0000008" and found.progress == Progress(**PROGRESS)
    assert "stage1-0000009: passed over, not whole (" in note and "\n" not in note


@pytest.mark.parametrize("state", [b"", b"no safetensors at all", b"\xff" * 64, (2**62).to_bytes(8, "little") + b"{}"])
def test_a_state_that_is_no_safetensors_is_passed_over_though_its_sum_is_right(tmp_path, state):
    folder = tmp_path / "checkpoints"
    write(folder / "stage1-0000009", GOOD, state)
    found, [note] = CheckpointFolder(folder, ONE_RANK, 3).latest()
    assert found is None and "is not a safetensors file" in note


def test_a_state_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    """A file may be sound and hold a kind of number that torch lacks."""

    def lacks(*_):
        raise KeyError("F8_E8M0")

    folder = tmp_path / "checkpoints"
    write(folder / "stage1-0000009", GOOD)
    checkpoints = CheckpointFolder(folder, ONE_RANK, 3)
    found, _ = checkpoints.latest()
    monkeypatch.setattr("pplfast.train.checkpoint.load_file", lacks)
    with pytest.raises(
        UserError, match=r"state.safetensors: not readable .*F8_E8M0.*; delete .*stage1-0000009 and run"
    ):
        checkpoints.read(found)


def test_only_own_names_are_checkpoints_and_links_are_none(tmp_path):
    folder, other = tmp_path / "checkpoints", tmp_path / "other"
    write(other, GOOD)
    write(folder / "stage1-0000001", GOOD)
    for name in (
        "stage-x",
        "stage1-abc",
        "stage9-1",
        "stage1-end-of-all",
        "stage1-0000100.bak",
        "stage1-\u0660\u0660\u0660\u0660\u0660\u0660\u0661",
    ):
        write(folder / name, GOOD)
    (folder / "stage1-0000007").symlink_to(other)
    (folder / ".stage1-0000008.partial").symlink_to(other)
    (folder / ".mine.partial").mkdir()
    checkpoints = CheckpointFolder(folder, ONE_RANK, 1)
    assert checkpoints.latest()[0].path.name == "stage1-0000001"
    checkpoints.save(TrainState({"model.a": torch.zeros(3)}), Progress(stage_steps=2, steps=2))
    checkpoints.finish()
    assert {"stage-x", "stage1-abc", "stage1-0000007", ".mine.partial", "stage1-0000002"} <= set(os.listdir(folder))
    assert "stage1-0000001" not in os.listdir(folder) and len(os.listdir(other)) == 3


def test_checkpoints_behind_a_link_are_neither_read_nor_deleted(tmp_path):
    other = tmp_path / "other"
    for number in range(1, 4):
        write(other / f"stage1-000000{number}", GOOD)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(other)
    checkpoints = CheckpointFolder(tmp_path / "run" / "checkpoints", ONE_RANK, 1)
    with pytest.raises(UserError, match="run/checkpoints: a symbolic link leads out of"):
        checkpoints.latest()
    checkpoints.save(TrainState({"model.a": torch.zeros(3)}), Progress(stage_steps=9))
    with pytest.raises(UserError, match="run/checkpoints: a symbolic link leads out of"):
        checkpoints.finish()
    assert len(os.listdir(other)) == 3


@pytest.mark.parametrize("record", [[], 7, {"recipe": []}, {"recipe": {"optim": 5}}, {"dataset": "x", "recipe": None}])
def test_a_recipe_json_that_is_none_is_refused(tmp_path, record):
    (tmp_path / "recipe.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"recipe.json: holds a|holds a run with"):
        claim_folder(tmp_path, {"variant": "ppl", "recipe": {"seed": 1}, "dataset": {}}, resume=True)


@pytest.mark.parametrize("value", ["auto", "fp64", 5, None, ["fp32"], {}])
def test_a_recorded_precision_that_is_none_is_refused(tmp_path, value):
    (tmp_path / "recipe.json").write_text(json.dumps({"precision": value}))
    with pytest.raises(UserError, match="recipe.json: its precision is .*none of fp32, bf16, fp16"):
        _recorded_precision(tmp_path / "recipe.json")


def test_the_log_does_not_go_through_a_link_and_keeps_only_what_it_wrote(tmp_path):
    info = run_info(tmp_path / "run", step=5)
    log = tmp_path / "run" / "log.jsonl"
    log.symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="log.jsonl: a symbolic link"):
        JsonLines(info)
    assert not (tmp_path / "victim").exists()
    log.unlink()
    lines = ['{"step": 1, "loss": 2.5}', "[" * 10**5, "7", '{"step": 2, "loss": "x"}', '{"step": [2]}']
    log.write_text("\n".join([*lines, '{"step": 3, "loss": NaN}', "9" * 5000, '{"step": 4']) + "\n")
    logger = JsonLines(info)
    logger.close()
    assert log.read_text() == lines[0] + "\n"


@pytest.mark.parametrize("name", ["../x", "a/b", "", 5, ["a"], "x" * 200])
def test_a_trackers_id_is_taken_only_as_it_is_written(tmp_path, name):
    (tmp_path / "trackers.json").write_text(json.dumps({"wandb": name}))
    if name == "":
        assert trackers._run_id(tmp_path, "wandb") == ""
        return
    with pytest.raises(UserError, match=r"trackers.json: holds no name of a run for wandb; delete it"):
        trackers._run_id(tmp_path, "wandb")
