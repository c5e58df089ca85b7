"""Outputs of a data set in shards: for each of its shards a tar of the same keys in the same order, committed whole.

A kill loses the shards that are open, and nothing else: what is written of them has no mark. A shard's tar depends on
its images alone, so one that is made twice is the same. Its records also say when it was made: of two jobs that write
to one URL at once, where nothing is locked, the mark of one may stand beside the records of the other, which the next
job, with `verify`, makes anew.
"""

import io
import json
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np

from pplfast.arrays import Int64Array
from pplfast.errors import UserError
from pplfast.files import TEMPORARY, check_inside
from pplfast.jobs import status as state
from pplfast.jobs.folder import claim_shards, decide
from pplfast.jobs.job import Choice, Job
from pplfast.jobs.manifest import FOLDER, checksum
from pplfast.jobs.meter import Meter
from pplfast.jobs.options import SHOWN
from pplfast.jobs.outputs import Outputs
from pplfast.jobs.plan import PATIENCE, TRIED_AGAIN
from pplfast.jobs.record import BAD, DONE, Record
from pplfast.jobs.shard_marks import (
    LAYOUT,
    MEMBERS,
    THREADS,
    File,
    Mark,
    at_once,
    get_checked,
    listing,
    mark_name,
    no_records,
    put,
    read_records,
    records_name,
    say_suffix,
    tar_name,
)
from pplfast.jobs.shard_plan import Left, Listed, ShardRows, inputs_digest, left_of
from pplfast.jobs.shards import END, Member, append_member
from pplfast.jobs.status import Status
from pplfast.jobs.workers import Result
from pplfast.lock import hold_folder
from pplfast.storage import StorageError, is_remote, join, last_part, remove
from pplfast.storage.places import local_path

WAITING = 2  # shards that are being written, or wait for it; for a third the images wait


class OpenShard:
    """A shard of which some images are done. records, contents (bytes of each member, by its suffix): of its images, in
    the shard's order."""

    def __init__(self, shard: int, positions: Int64Array) -> None:
        self.shard = shard
        self._places = {position: place for place, position in enumerate(positions.tolist())}
        self.records: list[Record] = [{}] * len(positions)
        self.contents: list[dict[str, bytes]] = [{}] * len(positions)
        self._left = len(positions)
        self.done = self.bad = 0  # of the images that this job did

    def put(self, position: int, record: Record, contents: dict[str, bytes]) -> None:
        self.done += record["state"] == DONE
        self.bad += record["state"] == BAD
        self.keep(self._places[position], record, contents)

    def keep(self, place: int, record: Record, contents: dict[str, bytes]) -> None:
        """What an earlier job did."""
        self.records[place], self.contents[place] = record, contents
        self._left -= 1

    @property
    def whole(self) -> bool:
        return not self._left


class ShardOutputs(Outputs):
    worker_folder = None
    manifest = FOLDER

    def __init__(self, job: Job, out: str, rank: int, meter: Meter) -> None:
        self._job, self._rank, self._meter = job, rank, meter
        self.folder = out.rstrip("/") if is_remote(out) else str(Path(local_path(out)))
        self.wanted = job.wanted | LAYOUT
        if job.shards:
            raise UserError(f"--outputs shards: {job.dataset.name} is in shards, and so are all outputs; leave it out")
        self._rows, self._say = ShardRows(job.dataset), say_suffix(job.suffixes)
        self._lock = threading.Lock()
        self._open: dict[int, OpenShard] = {}
        self._found: Listed
        self._repeated: dict[int, Mark] = {}  # of the shards of which only some images are done again
        self._committed = [0, 0]  # images done, and bad
        self._failure: BaseException | None = None
        self._room, self._whole = threading.Semaphore(WAITING), Queue[OpenShard | None]()
        self._writer = threading.Thread(target=self._write_shards, name="shards", daemon=True)

    # --- the plan ---

    def begin(self, choices: dict[str, Choice], world: int, held: ExitStack) -> tuple[dict[str, Any], Any]:
        out, names = self.folder, [self._rows.names[shard] for shard in self._rows.used.tolist()]
        if not is_remote(out):
            held.enter_context(hold_folder(out, PATIENCE))
            check_inside(out, (join(out, name) for shard in names for name in (tar_name(shard), mark_name(shard))))
        there = listing(out, names)
        settings = decide(out, self.wanted, choices)
        try:
            claim_shards(out, settings, there, map(tar_name, names))
            state.remove_statuses(out)
            for name in there:
                if TEMPORARY.fullmatch(last_part(name)):  # of a process that was killed
                    remove(join(out, name))
        except StorageError as error:
            raise UserError(f"{out}: {error}") from None
        return settings, Listed.of(there, self._rows)

    def left(self, found: Listed, rank: int, world: int, verify: bool) -> Left:
        self._found = found
        return left_of(self._job, self._rows, self.folder, found, self._rows.used[rank::world], verify)

    def plan(self, left: list[Left]) -> tuple[Left, int, int, int]:
        found = Left.of(left)
        return found, found.images, found.done, found.bad

    def open(self, pending: Left, rank: int, world: int) -> Int64Array:
        shards, again = pending.pending[rank::world], pending.again[rank::world]
        marks = at_once(self._mark, shards[again].tolist())
        self._repeated = dict(zip(shards[again].tolist(), marks, strict=True))
        parts = [self._to_do(shard) for shard in shards.tolist()]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _to_do(self, shard: int) -> Int64Array:
        positions, mark = self._rows.positions(shard), self._repeated.get(shard)
        return positions if mark is None else positions[np.isin(self._rows.rows(shard), mark.again_rows)]

    def _mark(self, shard: int) -> Mark:
        path = join(self.folder, mark_name(self._rows.names[shard]))
        try:
            return self._rows.mark(self.folder, shard)
        except StorageError as error:
            raise UserError(f"{path}: {error}") from None
        except ValueError as error:
            raise UserError(f"{path}: {error}; delete it, and the shard is made again") from None

    # --- the images ---

    def take(self, index: int, record: Record, said: dict[str, Any], made: Result) -> None:
        if self._failure is not None:
            raise self._failure
        shard = self._rows.shard(index)
        contents = {MEMBERS[suffix]: made.sample[suffix] for suffix in self._job.suffixes if suffix in made.sample}
        contents[self._say] = json.dumps({"state": record["state"], **said}).encode()
        with self._lock:
            if self._writer.ident is None:
                self._writer.start()
            if shard not in self._open:
                self._open[shard] = self._begin(shard)
            opened = self._open[shard]
            opened.put(index, record, contents)
            if opened.whole:
                del self._open[shard]
        if opened.whole:
            while not self._room.acquire(timeout=0.2):
                if self._failure is not None:
                    raise self._failure
            self._whole.put(opened)

    def _begin(self, shard: int) -> OpenShard:
        opened = OpenShard(shard, self._rows.positions(shard))
        mark = self._repeated.get(shard)
        if mark is None:
            return opened
        again, tar = set(mark.again_rows), get_checked(self.folder, tar_name(mark.shard), mark.tar)
        records = read_records(self.folder, mark)
        positions, rows = self._rows.positions(shard).tolist(), self._rows.rows(shard).tolist()
        try:
            for place, (position, row, record) in enumerate(zip(positions, rows, records, strict=True)):
                if row not in again:
                    opened.keep(place, record, self._members(position, record, tar))
        except ValueError:
            raise no_records(self.folder, mark.shard, "others than those of its images") from None
        return opened

    def _members(self, position: int, record: Record, tar: bytes) -> dict[str, bytes]:
        """The contents of an image's sample, by suffix; the record is left without them. Raises ValueError for those of
        another image, or of no job."""
        made = [MEMBERS[suffix] for suffix in self._job.suffixes] if record["state"] == DONE else []
        suffixes = {f"{self._rows.key(position)}{suffix}": suffix for suffix in (*made, self._say)}
        files = {file.get("member"): file for file in record.pop("files", ())}
        if record["id"] != self._job.dataset.ids[position] or files.keys() != suffixes.keys():
            raise ValueError(record["id"])
        ends = {name: (file["offset"], file["offset"] + file["bytes"]) for name, file in files.items()}
        return {suffixes[name]: tar[begin:end] for name, (begin, end) in ends.items()}

    def close(self) -> None:
        self._end()
        if self._failure is not None:
            raise self._failure

    def abandon(self) -> None:
        self._end()

    def _end(self) -> None:
        """Once the shards that are whole are written; the images of the others do not count: they have no output."""
        self._whole.put(None)
        if self._writer.ident is not None:
            self._writer.join()
        done, bad = self._committed
        self._meter.count(done=done - self._meter.done, bad=bad - self._meter.bad)

    # --- writing, in a thread of its own, so that the images go on ---

    def _write_shards(self) -> None:
        while (opened := self._whole.get()) is not None:
            try:
                if self._failure is None:
                    self._write(opened)
                    self._committed[0] += opened.done
                    self._committed[1] += opened.bad
            except BaseException as error:
                self._failure = error
            finally:
                self._room.release()
            del opened  # or it would be held until the next one is whole

    def _write(self, opened: OpenShard) -> None:
        """The mark goes first and comes last: where it is, the others are as it says."""
        out, name = self.folder, self._rows.names[opened.shard]
        tar, records = self._encode(opened)
        mark = self._mark_of(opened, tar, records).encode()
        if self._found.marks[opened.shard]:
            try:
                remove(join(out, mark_name(name)))
            except StorageError as error:
                raise UserError(f"{join(out, mark_name(name))}: {error}") from None
        for file, data in ((tar_name(name), tar), (records_name(name), records), (mark_name(name), mark)):
            put(out, file, data)

    def _encode(self, opened: OpenShard) -> tuple[bytes, bytes]:
        """The tar and the records, which say where in it each file is."""
        tar, lines = io.BytesIO(), []
        name = tar_name(self._rows.names[opened.shard])
        positions = self._rows.positions(opened.shard).tolist()
        for position, record, contents in zip(positions, opened.records, opened.contents, strict=True):
            key = self._rows.key(position)
            files = []
            for suffix, data in contents.items():
                offset = append_member(tar, Member(f"{key}{suffix}", data))
                files.append(
                    {
                        "file": name,
                        "offset": offset,
                        "member": f"{key}{suffix}",
                        "bytes": len(data),
                        "sha256": checksum(data),
                    }
                )
            lines.append(json.dumps({**record, "files": files}, separators=(",", ":")) + "\n")
        tar.write(END)
        return tar.getvalue(), "".join(lines).encode()

    def _mark_of(self, opened: OpenShard, tar: bytes, records: bytes) -> Mark:
        rows, shard = self._rows.rows(opened.shard), opened.shard
        bad = [(int(row), record) for row, record in zip(rows, opened.records, strict=True) if record["state"] == BAD]
        return Mark(
            shard=self._rows.names[shard],
            source=self._rows.source(shard),
            inputs=inputs_digest(self._job, self._rows, shard),
            images=len(rows),
            done=len(rows) - len(bad),
            bad=len(bad),
            tar=File(len(tar), checksum(tar)),
            records=File(len(records), checksum(records)),
            rank=self._rank,
            time=round(time.time(), 3),
            rows=None if len(rows) == self._rows.size(shard) else rows.tolist(),
            bad_rows=[row for row, _ in bad],
            again_rows=[row for row, record in bad if record.get("kind") in TRIED_AGAIN],
            first_bad=[(record["id"], record["reason"]) for _, record in bad[:SHOWN]],
        )

    # --- the end ---

    def wait(self, statuses: Callable[[], Sequence[Status]], world: int, stopped: Callable[[], bool]) -> list[int]:
        remote = is_remote(self.folder)
        beats = state.Beats(statuses, state.SILENCE_REMOTE if remote else state.SILENCE)
        poll = state.POLL_REMOTE if remote else state.POLL
        return state.wait_for_ranks(beats.statuses, world, beats.alive, stopped, poll)

    def conclude(self, bad: int) -> tuple[int, list[tuple[str, str]]]:
        state.remove_statuses(self.folder)
        first: list[tuple[str, str]] = []
        shards = self._rows.used.tolist()
        for start in range(0, len(shards), THREADS):
            if len(first) >= min(bad, SHOWN):
                break
            for mark in at_once(self._mark, shards[start : start + THREADS]):
                first += mark.first_bad
        return bad, first[:SHOWN]
