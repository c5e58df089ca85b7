"""Checkpoints: DeepSpeed's files, made complete and visible in one step, and found again only if they are whole.

    checkpoints/stage1-0000100/   manifest.json: where in the run, and the size and SHA-256 of every file
                                  state/...:     what engine.save_checkpoint wrote

A checkpoint is written under a temporary name and renamed when everything is on the disk. The latest `KEEP` and
those that end a stage are kept.
"""

import errno
import hashlib
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pplfast.errors import UserError
from pplfast.files import TEMPORARY_SUFFIX, explain_os_error, read_json, write_json
from pplfast.train.engine import TAG
from pplfast.train.ranks import Ranks, on_main

KEEP = 2
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Progress:
    """How far a run has come. All that the rest of it depends on follows from this, the recipe and the weights: the
    order of the data, the learning rate and the random numbers are functions of the step."""

    stage: int = 0  # index of the stage in progress, or just ended
    iteration: int = 0  # optimizer steps done in this stage
    steps: int = 0  # optimizer steps done in all stages
    stage_ended: bool = False
    seconds: float = 0.0  # spent in training, over all sessions


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    progress: Progress
    world: int
    zero: int


class CheckpointFolder:
    def __init__(self, folder: Path, ranks: Ranks, zero: int) -> None:
        self.folder, self.ranks, self.zero = folder, ranks, zero
        self.last: Path | None = None  # the last good one

    def save(self, engine: Any, progress: Progress) -> None:
        """Called by all ranks. Raises UserError if the disk is full; what was there before stays."""
        end = "end" if progress.stage_ended else f"{progress.iteration:07d}"
        final = self.folder / f"stage{progress.stage + 1}-{end}"
        temporary = final.with_name(f".{final.name}{TEMPORARY_SUFFIX}")
        try:
            on_main(self.ranks, lambda: _remove_partial(self.folder))
            # A rank that fails in here leaves the others in DeepSpeed's barriers; its exit makes the launcher end them.
            _guarded(final, lambda: engine.save_checkpoint(str(temporary), tag=TAG, save_latest=False))
            on_main(self.ranks, lambda: _guarded(final, lambda: self._publish(temporary, final, progress)))
        except BaseException:
            if self.ranks.main:
                shutil.rmtree(temporary, ignore_errors=True)
            raise
        self.last = final

    def latest(self) -> tuple[Checkpoint | None, list[str]]:
        """The furthest whole checkpoint, and a line about each one that had to be passed over. Called by all ranks."""
        found, notes = on_main(self.ranks, self._find_latest)
        self.last = found.path if found else None
        return found, notes

    def check_fits(self, checkpoint: Checkpoint) -> None:
        """ZeRO 1 and 2 split the momentum among the ranks: raises UserError if their number has changed."""
        if self.zero and not checkpoint.progress.stage_ended and checkpoint.world != self.ranks.world:
            raise UserError(f"{checkpoint.path}: was saved by {checkpoint.world} ranks at optim.zero = {self.zero}; "
                            f"continue with {checkpoint.world} ranks, not {self.ranks.world}")

    def _publish(self, temporary: Path, final: Path, progress: Progress) -> None:
        files = {}
        for path in sorted(path for path in temporary.rglob("*") if path.is_file()):
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            files[path.relative_to(temporary).as_posix()] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        write_json(temporary / MANIFEST, {
            "progress": asdict(progress), "world": self.ranks.world, "zero": self.zero, "files": files})
        shutil.rmtree(final, ignore_errors=True)  # a torn one that a resumed run passed over
        os.rename(temporary, final)
        _fsync_folder(self.folder)
        for old in self._superseded():
            shutil.rmtree(old)

    def _superseded(self) -> list[Path]:
        unended = [path for path in self._newest_first() if not path.name.endswith("-end")]
        newest = self._newest_first()[:KEEP]
        return [path for path in unended if path not in newest]

    def _newest_first(self) -> list[Path]:
        def order(path: Path) -> tuple[int, float]:
            stage, _, iteration = path.name.removeprefix("stage").partition("-")
            return int(stage), float("inf") if iteration == "end" else int(iteration)

        return sorted((path for path in self.folder.glob("stage*-*") if path.is_dir()), key=order, reverse=True)

    def _find_latest(self) -> tuple[Checkpoint | None, list[str]]:
        notes: list[str] = []
        _remove_partial(self.folder)
        for path in self._newest_first():
            try:
                return _open(path), notes
            except (UserError, KeyError, TypeError) as error:
                notes.append(f"{path}: passed over, not whole ({error})")
        return None, notes


def _open(path: Path) -> Checkpoint:
    manifest = read_json(path / MANIFEST)
    for name, expected in manifest["files"].items():
        file = path / name
        if not file.is_file() or file.stat().st_size != expected["bytes"] or _sha256(file) != expected["sha256"]:
            raise UserError(f"{name} is damaged")
    return Checkpoint(path, Progress(**manifest["progress"]), manifest["world"], manifest["zero"])


def _guarded(path: Path, action: Any) -> Any:
    """Run `action`; a full disk becomes a UserError. torch.save reports it as a RuntimeError of its zip writer, whose
    only cause of failure is a write that did not go through."""
    try:
        return action()
    except OSError as error:
        raise explain_os_error(error, path) from error
    except RuntimeError as error:
        if not any(word in str(error) for word in ("inline_container", "PytorchStreamWriter", "iostream error")):
            raise
        raise explain_os_error(OSError(errno.ENOSPC, "no space"), path) from error


def _remove_partial(folder: Path) -> None:
    for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        shutil.rmtree(path, ignore_errors=True)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
