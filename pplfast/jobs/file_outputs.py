"""Outputs as files of the images' names, or as samples of shards that grow; a manifest with a line for each image."""

import json
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from pplfast.arrays import Int64Array
from pplfast.data.images import BadImage
from pplfast.files import remove_file
from pplfast.jobs import status as state
from pplfast.jobs.folder import claim_folder, decide
from pplfast.jobs.job import Choice, Job
from pplfast.jobs.manifest import ManifestWriter, checksum, merge, rank_file, read_manifest
from pplfast.jobs.options import MERGED
from pplfast.jobs.outputs import Outputs
from pplfast.jobs.plan import PATIENCE, keep, share, tidy, to_do
from pplfast.jobs.record import BAD, Record
from pplfast.jobs.shards import ShardWriter
from pplfast.jobs.status import Status
from pplfast.jobs.workers import Result
from pplfast.lock import hold_folder, is_locked, require_locks

LONGEST_NAME = 255  # bytes, of a file on the usual file systems


class FileOutputs(Outputs):
    manifest = MERGED

    def __init__(self, job: Job, out: Path) -> None:
        self._job, self._out = job, out
        self.folder, self.worker_folder, self.wanted = str(out), out, job.wanted
        self._lock = threading.Lock()
        self._shards: ShardWriter | None = None
        self._manifest: ManifestWriter

    def begin(self, choices: dict[str, Choice], world: int, held: ExitStack) -> tuple[dict[str, Any], Any]:
        job, out = self._job, self._out
        held.enter_context(hold_folder(out, PATIENCE))
        if world > 1:
            require_locks(out)
        settings = decide(out, self.wanted, choices)
        names = (f"{name}{suffix}" for name in job.dataset.ids for suffix in job.suffixes)
        claim_folder(out, settings, (out / name for name in names))
        tidy(out, job.dataset.ids)
        return settings, None

    def left(self, found: Any, rank: int, world: int, verify: bool) -> Int64Array:
        positions = share(np.arange(len(self._job.dataset), dtype=np.int64), rank, world)
        return to_do(self._job, self._out, positions, read_manifest(self._out), verify)

    def plan(self, left: list[Int64Array]) -> tuple[Int64Array, int, int, int]:
        pending, done, bad = keep(self._job, self._out, np.sort(np.concatenate(left)))
        return pending, len(pending), done, bad

    def open(self, pending: Int64Array, rank: int, world: int) -> Int64Array:
        # All manifests are held locked before anyone goes on, so that a free one means a dead rank from here on.
        self._manifest = ManifestWriter(self._out, rank)
        if self._job.shards:
            self._shards = ShardWriter(self._out, rank, self._job.shards)
        return share(pending, rank, world)

    def check(self, index: int) -> None:
        name = self._job.dataset.ids[index]
        longest = max(map(len, self._job.suffixes), default=0) + len(os.fsencode(name.rpartition("/")[2]))
        if longest > LONGEST_NAME:
            raise BadImage("name", f"its output's name would have {longest} bytes, and file systems have room for 255")

    def take(self, index: int, record: Record, said: dict[str, Any], made: Result) -> None:
        if record["state"] == BAD:
            if record["kind"] != "name":
                for suffix in self._job.suffixes:  # of an earlier state of the image
                    remove_file(f"{self._out}/{record['id']}{suffix}")
            with self._lock:
                self._manifest.append(record)
            return
        with self._lock:
            shards = self._shards
            files = made.files if shards is None else [*made.files, *_add(shards, said, made.sample)]
            self._manifest.append({**record, "files": files})
            if shards is not None and shards.full():
                shards.close_shard()

    def close(self) -> None:
        if self._shards is not None:
            self._shards.close_shard()

    def release(self) -> None:
        self._manifest.close()

    def wait(self, statuses: Callable[[], Sequence[Status]], world: int, stopped: Callable[[], bool]) -> list[int]:
        return state.wait_for_ranks(statuses, world, lambda rank: is_locked(rank_file(self._out, rank)), stopped)

    def conclude(self, bad: int) -> tuple[int, list[tuple[str, str]]]:
        """Of the manifest, which has one line per image from now on, in the list's order, then those of other lists."""
        ids = self._job.dataset.ids
        records = read_manifest(self._out)
        order = {image_id: position for position, image_id in enumerate(ids)}
        state.remove_statuses(self._out)
        merge(self._out, sorted(records.values(), key=lambda record: order.get(record["id"], len(order))))
        self._job.summarise(self._out, [records[image_id] for image_id in ids if image_id in records])
        found = ((image_id, records.get(image_id, {})) for image_id in ids)
        failed = [(image_id, record["reason"]) for image_id, record in found if record.get("state") == BAD]
        return len(failed), failed


def _add(shards: ShardWriter, said: dict[str, Any], sample: dict[str, bytes]) -> list[dict[str, Any]]:
    """An image to a shard; the entries of its members for its record."""
    members, places = shards.add(said["id"], {**sample, ".json": json.dumps(said).encode()})
    return [
        {
            "file": file,
            "offset": offset,
            "member": member.name,
            "bytes": len(member.data),
            "sha256": checksum(member.data),
        }
        for member, (file, offset) in zip(members, places, strict=True)
    ]
