"""Checkpoint files: which are kept, and that damage of any kind is noticed."""

import errno
import random
import shutil
import subprocess
import threading

import pytest
import torch
from safetensors import SafetensorError

from pplfast.cluster.ranks import Ranks
from pplfast.errors import UserError
from pplfast.train import checkpoint
from pplfast.train.checkpoint import MANIFEST, STATE, SUMS, CheckpointFolder, Progress
from pplfast.train.state import TrainState

ONE_RANK = Ranks(0, 1, 1, torch.device("cpu"))


def save(checkpoints: CheckpointFolder, *places: tuple[int, int, bool]) -> None:
    for stage, step, ended in places:
        state = TrainState({"model.a": torch.full((300,), float(step))}, {"scale": 1024.0})
        checkpoints.save(state, Progress(stage, step, 10 * stage + step, ended))
    checkpoints.finish()


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
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
        assert found.progress.stage_steps == 9 and checkpoints.last == folder / "stage1-0000009"
        assert note.startswith(f"{folder / 'stage1-0000010'}: passed over, not whole (")


def test_a_damaged_one_does_not_push_out_good_ones(tmp_path):
    checkpoints = CheckpointFolder(tmp_path, ONE_RANK, keep=1)
    save(checkpoints, (0, 8, False))
    shutil.copytree(tmp_path / "stage1-0000008", tmp_path / "stage1-0000010")
    (tmp_path / "stage1-0000010" / STATE).write_bytes(b"")
    (tmp_path / ".stage1-0000011.partial").mkdir()
    found, notes = checkpoints.latest()
    assert found.progress.stage_steps == 8 and len(notes) == 1
    assert not (tmp_path / ".stage1-0000011.partial").exists()
    save(checkpoints, (0, 9, False))
    assert names(tmp_path) == ["stage1-0000009"]


@pytest.mark.parametrize(
    "error",
    (
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ),
)
def test_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch, error):
    def full(*_):
        raise error

    checkpoints = CheckpointFolder(tmp_path, ONE_RANK, keep=1)
    save(checkpoints, (0, 2, False))
    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UserError, match="disk is full"):
        save(checkpoints, (0, 4, False))
    assert names(tmp_path) == ["stage1-0000002"] and checkpoints.last == tmp_path / "stage1-0000002"
    checkpoints.finish()  # said once


class SlowDisk:
    """Instead of save_file: each call waits to be let through."""

    def __init__(self, monkeypatch) -> None:
        self.writing, self.through = threading.Semaphore(0), threading.Semaphore(0)
        self.plain, self.at_once, self.most = checkpoint.save_file, 0, 0
        monkeypatch.setattr(checkpoint, "save_file", self.save_file)

    def save_file(self, *arguments) -> None:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        self.writing.release()
        assert self.through.acquire(timeout=30)
        self.plain(*arguments)
        self.at_once -= 1


def test_the_last_one_is_whole_and_one_is_written_at_a_time(tmp_path, monkeypatch):
    disk, checkpoints = SlowDisk(monkeypatch), CheckpointFolder(tmp_path, ONE_RANK, keep=9)
    state = TrainState({"model.a": torch.zeros(9)})
    checkpoints.save(state, Progress(stage_steps=1))
    assert disk.writing.acquire(timeout=30)
    assert checkpoints.last is None and names(tmp_path) == [".stage1-0000001.partial"]
    disk.through.release(2)
    checkpoints.save(state, Progress(stage_steps=2))
    assert checkpoints.last == tmp_path / "stage1-0000001"
    checkpoints.finish()
    assert checkpoints.last == tmp_path / "stage1-0000002" and disk.most == 1


def test_rank_0_wants_one_after_so_many_seconds(tmp_path, monkeypatch):
    now, disk = [100.0], SlowDisk(monkeypatch)
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    checkpoints, other = (CheckpointFolder(tmp_path, Ranks(rank, 1, 1, torch.device("cpu")), 9) for rank in (0, 1))
    now[0] += 5
    assert checkpoints.wanted(5) and not checkpoints.wanted(6) and not other.wanted(5)
    checkpoints.save(TrainState({"model.a": torch.zeros(9)}), Progress(stage_steps=1))
    now[0] += 5
    assert not checkpoints.wanted(5)  # it is still being written
    disk.through.release()
    checkpoints.finish()
    assert checkpoints.wanted(5) and not checkpoints.wanted(6)
