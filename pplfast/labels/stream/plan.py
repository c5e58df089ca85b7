"""What is left to do, found at the start of a job and divided among however many ranks it has this time."""

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from pplfast.arrays import Int64Array
from pplfast.data.dataset import Dataset
from pplfast.errors import UserError, explain_os_error
from pplfast.files import TEMPORARY, check_inside, remove_file
from pplfast.labels.stream.manifest import FOLDER, merge, rank_files, read_manifest
from pplfast.labels.stream.record import DONE, Record
from pplfast.labels.stream.shards import FOLDER as SHARDS
from pplfast.labels.stream.shards import finish_torn_shards
from pplfast.labels.stream.status import remove_statuses
from pplfast.lock import is_locked

CHUNK = 2**20  # bytes
PATIENCE = 15.0  # seconds for the ranks of a job that has just been stopped or killed to be gone


@dataclass
class Plan:
    """pending: positions in the data set, in its order. done, bad: images of the list that need no work."""

    token: str  # of this job, to tell its heartbeats from an earlier one's
    pending: Int64Array
    done: int = 0
    bad: int = 0

    def share(self, rank: int, world: int) -> Int64Array:
        """This rank's part. Neighbours in a list often have one shape, so a rank takes runs of the list, not every
        world-th image; short ones, so that all ranks end together."""
        runs = np.array_split(self.pending, max(1, min(len(self.pending), world * 64)))
        mine = runs[rank::world]
        return np.concatenate(mine) if mine else self.pending[:0]


def make_plan(dataset: Dataset, out: Path, verify: bool) -> Plan:
    """For one process, while no rank is at work: tidy the folder up, and find the images without a valid record.

    A label is done when its record is there and its files exist in the recorded size; with `verify`, also in the
    recorded checksum. A bad image is tried again once its file has changed, or
    where the reason was not the file's. Raises UserError where another job is
    writing to the folder, for records that no job writes, and where a link in it leads out of it; then nothing is
    deleted.
    """
    check_inside(out, [out / FOLDER / "x", out / SHARDS / "x", *(f"{out}/{image_id}" for image_id in dataset.ids)])
    _wait_for_ranks(out)
    records = read_manifest(out)
    finish_torn_shards(out, records)
    remove_statuses(out)
    sizes = _tidy(out)
    plan = Plan(os.urandom(8).hex(), np.empty(0, np.int64))
    pending = []
    _drop_broken(records, set(dataset.ids), out, sizes, verify)
    for position, (image_id, image) in enumerate(zip(dataset.ids, dataset.images, strict=True)):
        record = records.get(image_id)
        if record is not None and record["state"] == DONE:
            plan.done += 1
        elif record is not None and record.get("source", ()) == source_state(image):
            plan.bad += 1
        else:
            records.pop(image_id, None)
            pending.append(position)
    merge(out, records.values())  # those of images that are not on this list too: another may have filled the folder
    plan.pending = np.array(pending, np.int64)
    return plan


def source_state(image: Path) -> list[int] | None:
    """[bytes, time of change] of an image file; None where there is none."""
    try:
        found = image.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _wait_for_ranks(out: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while alive := [path for path in rank_files(out) if is_locked(path)]:
        if time.monotonic() > deadline:
            raise UserError(f"{alive[0]}: another `pplfast label` is writing to this folder; wait for it, or stop it")
        time.sleep(0.2)


def _tidy(out: Path) -> dict[str, int]:
    """Remove the temporary files of dead processes; relative path -> bytes of all other files, links aside: a label
    that is one is made again in its place."""
    sizes: dict[str, int] = {}
    folders = [str(out)]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif TEMPORARY.fullmatch(entry.name):
                        remove_file(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        sizes[os.path.relpath(entry.path, out)] = entry.stat(follow_symlinks=False).st_size
        except OSError as error:
            raise explain_os_error(error, folder, reading=True) from error
    return sizes


def _drop_broken(records: dict[str, Record], wanted: set[str], out: Path, sizes: dict[str, int], verify: bool) -> None:
    """Take out the wanted records whose files do not hold. A shard with one such sample goes as a whole, since a
    sample cannot be replaced in it."""
    broken = {
        image_id
        for image_id, record in records.items()
        if image_id in wanted and record["state"] == DONE and not _holds(record, out, sizes, verify)
    }
    shards = {entry["file"] for image_id in broken for entry in records[image_id].get("files", ()) if "offset" in entry}
    for image_id, record in records.items():
        if any(entry["file"] in shards for entry in record.get("files", ())):
            broken.add(image_id)
    for shard in shards:
        remove_file(out / shard)
    for image_id in broken:
        del records[image_id]


def _holds(record: Record, out: Path, sizes: dict[str, int], verify: bool) -> bool:
    """Whether every file of the record is there: {"file", "bytes", "sha256"}, or in a tar, with its "offset"."""
    for entry in record.get("files", ()):
        size = sizes.get(entry["file"])
        if size is None or (size < entry["offset"] + entry["bytes"] if "offset" in entry else size != entry["bytes"]):
            return False
        if verify:
            try:
                with open(out / entry["file"], "rb") as file:
                    file.seek(entry.get("offset", 0))
                    if _checksum(file, entry["bytes"]) != entry["sha256"]:
                        return False
            except OSError as error:
                raise explain_os_error(error, out / entry["file"], reading=True) from error
    return bool(record.get("files"))


def _checksum(file: IO[bytes], size: int) -> str:
    """As `manifest.checksum` of the next `size` bytes, which may be more than memory holds: a sparse file costs nothing
    to make."""
    digest = hashlib.sha256()
    while size > 0 and (data := file.read(min(size, CHUNK))):
        digest.update(data)
        size -= len(data)
    return digest.hexdigest()
