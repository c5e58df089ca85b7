"""Checkpoints: complete and visible in one step, checked byte by byte before they are used again.

    checkpoints/stage1-0000100/   state.safetensors   weights and momentum, independent of the number of ranks
                                  manifest.json       where in the run, who wrote it, fp16's loss scale
                                  SHA256SUMS          of both; `sha256sum -c SHA256SUMS` checks it as well

A checkpoint is written under a temporary name and renamed when everything is on the disk. The last `keep` are kept,
and those that end a stage (without momentum: half the size). A thread of rank 0 writes it while training goes on.
"""

import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pplfast.cluster.ranks import Ranks, on_main, together
from pplfast.errors import UserError, explain_library_error, explain_os_error
from pplfast.files import TEMPORARY_SUFFIX, check_inside, read_bounded, read_json, remove_file, write_json
from pplfast.train.state import TrainState

STATE, MANIFEST, SUMS = "state.safetensors", "manifest.json", "SHA256SUMS"
NAME = re.compile(r"stage([0-9]{1,6})-([0-9]{7,12}|end)")
LOSS_SCALE = re.compile(r"[a-z_]{1,40}")


@dataclass(frozen=True)
class Progress:
    """How far a run has come. All that the rest of it depends on follows from this, the recipe and the weights: the
    order of the data, the learning rate and the random numbers are functions of the step."""

    stage: int = 0  # index of the stage in progress, or just ended
    stage_steps: int = 0  # optimizer steps done in this stage
    steps: int = 0  # optimizer steps done in all stages
    stage_ended: bool = False
    seconds: float = 0.0  # spent in training, over all sessions
    loss: float = 0.0  # mean of the last interval of the log; 0 before there was one
    open_loss: float = 0.0  # sum over the steps since then
    open_steps: int = 0
    images_per_s: float = 0.0  # of the session that wrote it; 0 before the first interval


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    progress: Progress
    loss_scale: dict[str, float]


class CheckpointFolder:
    """keep: how many of the latest to hold on to, 1 or more. Only rank 0 touches the folder."""

    def __init__(self, folder: Path, ranks: Ranks, keep: int) -> None:
        self.folder, self.ranks, self.keep = folder, ranks, keep
        self.last: Path | None = None  # the last whole one that rank 0 knows of
        self._writer: threading.Thread | None = None
        self._error: BaseException | None = None  # what ended the writer
        self._saved = time.monotonic()

    def save(self, state: TrainState, progress: Progress) -> None:
        """Called by all ranks. Returns while a thread writes: the state must be left as it is until `finish`, which
        raises what goes wrong. Calls `finish` for the one before."""
        self.finish()
        self._saved = time.monotonic()
        if self.ranks.main:
            self._writer = threading.Thread(target=self._write, args=(state, progress), name="checkpoint")
            self._writer.start()

    def finish(self) -> None:
        """Called by all ranks: wait until what was saved is on the disk. Raises UserError on all of them if the disk is
        full; what was there before stays."""
        on_main(self.ranks, self._outcome)

    def wait(self) -> None:
        """`finish` for one rank alone, which says nothing of errors."""
        if self._writer is not None:
            self._writer.join()

    def wanted(self, seconds: float) -> bool:
        """Whether rank 0 would have one: so long after the last, and not while that is still being written."""
        writing = self._writer is not None and self._writer.is_alive()
        return self.ranks.main and not writing and time.monotonic() - self._saved >= seconds

    def latest(self) -> tuple[Checkpoint | None, list[str]]:
        """The furthest whole checkpoint, and a line about each one that had to be passed over. Called by all ranks."""
        found, notes = on_main(self.ranks, self._find_latest)
        self.last = found.path if found else None
        return found, notes

    def read(self, checkpoint: Checkpoint) -> TrainState:
        """Called by all ranks; the tensors come on rank 0. Raises UserError for a kind of number that torch lacks."""
        path = checkpoint.path / STATE

        def load() -> dict[str, Tensor]:
            try:
                return load_file(path) if self.ranks.main else {}
            except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
                reason = str(error).splitlines()[0]
                raise UserError(f"{path}: not readable ({reason}); delete {path.parent} and run again") from None

        return TrainState(together(self.ranks, load), checkpoint.loss_scale, source=str(path))

    def _outcome(self) -> None:
        self.wait()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _write(self, state: TrainState, progress: Progress) -> None:
        """The writer."""
        end = "end" if progress.stage_ended else f"{progress.stage_steps:07d}"
        final = self.folder / f"stage{progress.stage + 1}-{end}"
        try:
            state.wait()
            _guarded(final, lambda: self._write_folder(final, state, progress))
            self.last = final
        except BaseException as error:
            self._error = error

    def _write_folder(self, final: Path, state: TrainState, progress: Progress) -> None:
        check_inside(self.folder.parent, [final])
        _remove_partial(self.folder)
        temporary = final.with_name(f".{final.name}{TEMPORARY_SUFFIX}")
        try:
            temporary.mkdir(parents=True)
            save_file(state.tensors, temporary / STATE)
            write_json(
                temporary / MANIFEST,
                {"progress": asdict(progress), "world": self.ranks.world, "loss_scale": state.loss_scale},
            )
            sums = "".join(_sum_line(temporary / name) for name in (STATE, MANIFEST))
            (temporary / SUMS).write_text(sums, encoding="ascii")
            for path in (*temporary.iterdir(), temporary):
                _fsync(path)
            shutil.rmtree(final, ignore_errors=True)  # a damaged one that a resumed run passed over
            os.rename(temporary, final)
            _fsync(self.folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        for old in self._superseded(final):
            shutil.rmtree(old)

    def _superseded(self, newest: Path) -> list[Path]:
        """Old ones, and those that lie ahead of the newest: damaged, passed over, and not to count among the kept."""
        ahead = [path for path in self._newest_first() if _order(path) > _order(newest)]
        rest = [path for path in self._newest_first() if path not in ahead]
        return ahead + [path for path in rest[self.keep :] if not path.name.endswith("-end")]

    def _newest_first(self) -> list[Path]:
        """By their names; links are none of ours."""
        found = (path for path in self.folder.glob("stage*-*") if NAME.fullmatch(path.name))
        return sorted((path for path in found if path.is_dir() and not path.is_symlink()), key=_order, reverse=True)

    def _find_latest(self) -> tuple[Checkpoint | None, list[str]]:
        notes: list[str] = []
        check_inside(self.folder.parent, [self.folder / "x"])
        _remove_partial(self.folder)
        for path in self._newest_first():
            try:
                return _open(path), notes
            except (UserError, OSError) as error:
                notes.append(f"{path}: passed over, not whole ({error})")
        return None, notes


def _open(path: Path) -> Checkpoint:
    """Raises UserError unless every byte is as it was written."""
    expected = read_bounded(path / SUMS, 4096)
    for name in (STATE, MANIFEST):
        if not (path / name).is_file():
            raise UserError(f"{name} is missing")
    found = [_sum_line(path / name).encode() for name in (STATE, MANIFEST)]
    if expected != b"".join(found):
        damaged = [name for name, line in zip((STATE, MANIFEST), found, strict=True) if line not in expected]
        raise UserError(f"{' and '.join(damaged) or SUMS} changed since it was written")
    try:
        with safe_open(path / STATE, "pt") as state:
            state.keys()
    except SafetensorError as error:
        raise UserError(f"{STATE} is not a safetensors file ({str(error).splitlines()[0]})") from None
    return _described(path, read_json(path / MANIFEST))


def _described(path: Path, manifest: dict[str, Any]) -> Checkpoint:
    """Raises UserError for what no checkpoint says."""
    progress, scale = manifest.get("progress"), manifest.get("loss_scale")
    if not isinstance(progress, dict) or not isinstance(scale, dict):
        raise UserError(f"{MANIFEST} lacks the progress or the loss scale")
    usual = asdict(Progress())
    for name, value in progress.items():
        low = -(2**53) if name in ("loss", "open_loss") else 0  # of an own loss
        like = (int, float) if isinstance(usual.get(name), float) else (type(usual.get(name)),)
        if name not in usual or type(value) not in like or not low <= value < 2**53:
            raise UserError(f"{MANIFEST}: {name} is not as a checkpoint has it")
    numbers = all(type(value) in (int, float) and abs(value) < 2**128 for value in scale.values())
    # The others are not in the checkpoints of pplfast 0.1.0.
    complete = {"stage", "stage_steps", "steps", "stage_ended", "seconds"} <= progress.keys()
    if not complete or not numbers or not all(map(LOSS_SCALE.fullmatch, scale)):
        raise UserError(f"{MANIFEST} is not that of a checkpoint")
    return Checkpoint(path, Progress(**progress), scale)


def _order(path: Path) -> tuple[int, float]:
    """For names that NAME matches."""
    stage, _, steps = path.name.removeprefix("stage").partition("-")
    return int(stage), float("inf") if steps == "end" else int(steps)


def _guarded(path: Path, action: Callable[[], None]) -> None:
    """Run `action`; what the operating system refuses becomes a UserError; safetensors has it as its own."""
    try:
        action()
    except OSError as error:
        raise explain_os_error(error, path) from error
    except SafetensorError as error:
        explained = explain_library_error(error, path)
        if explained is None:
            raise
        raise explained from error


def _remove_partial(folder: Path) -> None:
    for path in folder.glob(f".stage*{TEMPORARY_SUFFIX}"):
        if not NAME.fullmatch(path.name[1:].removesuffix(TEMPORARY_SUFFIX)):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            remove_file(path)


def _sum_line(path: Path) -> str:
    with open(path, "rb") as file:
        return f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n"


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
