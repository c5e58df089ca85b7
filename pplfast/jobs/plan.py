"""What is left to do, found at the start of a job and divided among however many ranks it has this time."""

import hashlib
import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from pplfast.arrays import Int64Array
from pplfast.data.images import BadImage
from pplfast.data.stored import Stored
from pplfast.errors import UserError, explain_os_error
from pplfast.files import TEMPORARY, check_inside, remove_file
from pplfast.jobs.job import Job
from pplfast.jobs.manifest import FOLDER, checksum, merge, rank_files, read_manifest
from pplfast.jobs.record import BAD, DONE, Record
from pplfast.jobs.shards import FOLDER as SHARDS
from pplfast.jobs.shards import finish_torn_shards
from pplfast.jobs.status import remove_statuses
from pplfast.lock import is_locked
from pplfast.storage import StorageError

CHUNK = 2**20  # bytes
PATIENCE = 15.0  # seconds for the ranks of a job that has just been stopped or killed to be gone
# Of a bad image: what need not lie in its file. The last two end with another --memory, and with --rotated.
TRIED_AGAIN = ("memory", "maps", "failed", "unreadable", "too-large", "rotated")


def share(positions: Int64Array, rank: int, world: int) -> Int64Array:
    """This rank's part. Neighbours in a list often have one shape, so a rank takes runs of the list, not every
    world-th image; short ones, so that all ranks end together."""
    runs = np.array_split(positions, max(1, min(len(positions), world * 64)))
    mine = runs[rank::world]
    return np.concatenate(mine) if mine else positions[:0]


def tidy(out: Path, ids: Collection[str]) -> None:
    """For one process, while no rank is at work: finish what a kill left half done.

    Raises UserError where another job is writing to the folder, and where a link in it leads out of it; then nothing
    is deleted.
    """
    check_inside(out, [out / FOLDER / "x", out / SHARDS / "x", *(f"{out}/{image_id}" for image_id in ids)])
    deadline = time.monotonic() + PATIENCE
    while alive := [path for path in rank_files(out) if is_locked(path)]:
        if time.monotonic() > deadline:
            raise UserError(f"{alive[0]}: another job is writing to this folder; wait for it, or stop it")
        time.sleep(0.2)
    finish_torn_shards(out, read_manifest(out))
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
        except OSError as error:
            raise explain_os_error(error, folder, reading=True) from error
    remove_statuses(out)


def to_do(job: Job, out: Path, positions: Int64Array, records: Mapping[str, Record], verify: bool) -> Int64Array:
    """Of these positions of the data set those without a record that holds.

    A record holds while its image's file has the size and the time of change that it had, and what else the image's
    result depends on is the same; of a result, while its files exist in the recorded size. With `verify` the checksums
    decide: files of another time but the same content are the same. A bad image is also tried again where the reason
    was not the file's.
    """
    left = []
    for position in positions.tolist():
        record = records.get(job.dataset.ids[position])
        if record is None or not (
            (record["state"] == BAD or _has_files(record, job.suffixes, out, verify))
            and record.get("kind") not in TRIED_AGAIN
            and _same_source(record, job.dataset.images[position], verify)
            and record.get("inputs", {}) == inputs(job, position)
        ):
            left.append(position)
    return np.array(left, np.int64)


def inputs(job: Job, position: int) -> object:
    """What the record of an image holds of `Job.depends`."""
    try:
        return job.depends(position)
    except BadImage as error:
        return {"bad": str(error)}


def keep(job: Job, out: Path, left: Int64Array) -> tuple[Int64Array, int, int]:
    """For one process: drop the records of the images that are `left`, and merge the others. A shard with one such
    image goes as a whole, since a sample cannot be replaced in it.

    Returns the positions to do, and how many images of the list are done, and bad.
    """
    records = read_manifest(out)
    wanted = {job.dataset.ids[position] for position in left.tolist()}
    shards = {file["file"] for name in wanted & records.keys() for file in _in_shards(records[name])}
    dropped = wanted | {
        name for name, record in records.items() if any(file["file"] in shards for file in _in_shards(record))
    }
    for shard in shards:
        remove_file(out / shard)
    for name in wanted & records.keys():  # what an earlier job made beside: nobody makes it anew
        own = {f"{name}{suffix}" for suffix in job.suffixes}
        for file in {file["file"] for file in records[name].get("files", ()) if "offset" not in file} - own:
            remove_file(out / file)
    kept = {name: record for name, record in records.items() if name not in dropped}
    merge(out, kept.values())  # those of images that are not on this list too: another may have filled the folder
    states = [kept[name]["state"] if name in kept else None for name in job.dataset.ids]
    pending = np.array([position for position, state in enumerate(states) if state is None], np.int64)
    return pending, states.count(DONE), states.count(BAD)


def source_state(image: Path | Stored) -> list[int] | None:
    """[bytes, time of change] of an image file; None where there is none. Of a part of a shard what stands for that."""
    if isinstance(image, Stored):
        return image.state
    try:
        found = image.stat()
    except (OSError, ValueError):  # a name that no file can have
        return None
    return [found.st_size, found.st_mtime_ns]


def _same_source(record: Record, image: Path | Stored, verify: bool) -> bool:
    now = source_state(image)
    if not verify or "image_sha256" not in record or now is None:
        return record.get("source") == now
    try:
        if isinstance(image, Stored):
            return bool(checksum(image.read()) == record["image_sha256"])
        with open(image, "rb") as file:
            return bool(_checksum(file, now[0]) == record["image_sha256"])
    except (OSError, StorageError):
        return False


def _in_shards(record: Record) -> list[Record]:
    return [file for file in record.get("files", ()) if "offset" in file]


def _has_files(record: Record, suffixes: Collection[str], out: Path, verify: bool) -> bool:
    """Whether every file of the record is there, {"file", "bytes", "sha256"}, or in a tar, with its "offset"; and one
    of each suffix is recorded. A link is none: the output is made again in its place."""
    if not {f"{record['id']}{suffix}" for suffix in suffixes} <= {entry["file"] for entry in record.get("files", ())}:
        return False
    for entry in record.get("files", ()):
        path = out / entry["file"]
        try:
            size = os.lstat(path).st_size if not os.path.islink(path) else -1
        except OSError:
            return False
        if size < entry["offset"] + entry["bytes"] if "offset" in entry else size != entry["bytes"]:
            return False
        if verify:
            try:
                with open(path, "rb") as file:
                    file.seek(entry.get("offset", 0))
                    if _checksum(file, entry["bytes"]) != entry["sha256"]:
                        return False
            except OSError as error:
                raise explain_os_error(error, path, reading=True) from error
    return bool(record.get("files"))


def _checksum(file: IO[bytes], size: int) -> str:
    """As `manifest.checksum` of the next `size` bytes, which may be more than memory holds: a sparse file costs nothing
    to make."""
    digest = hashlib.sha256()
    while size > 0 and (data := file.read(min(size, CHUNK))):
        digest.update(data)
        size -= len(data)
    return digest.hexdigest()
