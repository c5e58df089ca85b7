"""Checkpoint files: which are kept, and that damage of any kind is noticed."""

import errno
import random
import shutil
import subprocess

import pytest
import torch
from safetensors import SafetensorError

from pplfast.errors import UserError
from pplfast.train import checkpoint
from pplfast.train.checkpoint import MANIFEST, STATE, SUMS, CheckpointFolder, Progress
from pplfast.train.ranks import Ranks
from pplfast.train.state import TrainState

ONE_RANK = Ranks(0, 1, 1, torch.device("cpu"))


def save(checkpoints: CheckpointFolder, *places: tuple[int, int, bool]) -> None:
    for stage, iteration, ended in places:
        state = TrainState({"model.a": torch.full((300,), float(iteration))}, {"scale": 1024.0})
        checkpoints.save(state, Progress(stage, iteration, 10 * stage + iteration, ended))


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_last_are_kept_and_those_that_end_a_stage(tmp_path):
    checkpoints = CheckpointFolder(tmp_path, ONE_RANK, keep=2)
    save(checkpoints, (0, 2, False), (0, 4, False), (0, 6, False))
    assert names(tmp_path) == ["stage1-0000004", "stage1-0000006"]
    save(checkpoints, (0, 7, True), (1, 2, False), (1, 4, False), (1, 6, False))
    assert names(tmp_path) == ["stage1-end", "stage2-0000004", "stage2-0000006"]
    found, notes = CheckpointFolder(tmp_path, ONE_RANK, keep=2).latest()
    assert found.progress == Progress(1, 6, 16, False) and notes == []
    state = checkpoints.read(found)
    assert state.loss_scale == {"scale": 1024.0} and state.tensors["model.a"].unique().tolist() == [6.0]
    subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=found.path, check=True, capture_output=True)


def damage(folder, kind: str, random_: random.Random) -> None:
    file = folder / random_.choice((STATE, MANIFEST, SUMS))
    content = bytearray(file.read_bytes())
    if kind == "flipped":
        for position in random_.sample(range(len(content)), random_.choice((1, 3))):
            content[position] ^= 1 << random_.randrange(8)
        file.write_bytes(content)
    elif kind == "truncated":
        file.write_bytes(content[: random_.randrange(len(content))])
    else:
        file.unlink()


@pytest.mark.parametrize("kind", ("flipped", "truncated", "missing"))
def test_damage_is_noticed_every_time_and_the_one_before_used(tmp_path, kind):
    """30 tries of each kind, on any of the files."""
    whole = CheckpointFolder(tmp_path / "whole", ONE_RANK, keep=2)
    save(whole, (0, 9, False), (0, 10, False))
    for seed in range(30):
        folder = tmp_path / str(seed)
        shutil.copytree(whole.folder, folder)
        damage(folder / "stage1-0000010", kind, random.Random(seed))
        checkpoints = CheckpointFolder(folder, ONE_RANK, keep=2)
        found, [note] = checkpoints.latest()
        assert found.progress.iteration == 9 and checkpoints.last == folder / "stage1-0000009"
        assert note.startswith(f"{folder / 'stage1-0000010'}: passed over, not whole (")


def test_a_damaged_one_does_not_push_out_good_ones(tmp_path):
    checkpoints = CheckpointFolder(tmp_path, ONE_RANK, keep=1)
    save(checkpoints, (0, 8, False))
    shutil.copytree(tmp_path / "stage1-0000008", tmp_path / "stage1-0000010")
    (tmp_path / "stage1-0000010" / STATE).write_bytes(b"")
    (tmp_path / ".stage1-0000011.partial").mkdir()
    found, notes = checkpoints.latest()
    assert found.progress.iteration == 8 and len(notes) == 1
    assert not (tmp_path / ".stage1-0000011.partial").exists()
    save(checkpoints, (0, 9, False))
    assert names(tmp_path) == ["stage1-0000009"]


@pytest.mark.parametrize("error", (
    OSError(errno.ENOSPC, "No space left on device"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
))
def test_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch, error):
    def full(*_):
        raise error

    checkpoints = CheckpointFolder(tmp_path, ONE_RANK, keep=1)
    save(checkpoints, (0, 2, False))
    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UserError, match="disk is full"):
        save(checkpoints, (0, 4, False))
    assert names(tmp_path) == ["stage1-0000002"]
