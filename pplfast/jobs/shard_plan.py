"""What is left to do of a data set in shards, found by all ranks at the start: shard by shard, from the marks alone."""

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from pplfast.arrays import BoolArray, Int64Array, IntArray
from pplfast.data.dataset import Dataset
from pplfast.errors import UserError
from pplfast.jobs.job import Job
from pplfast.jobs.plan import inputs
from pplfast.jobs.shard_marks import (
    File,
    Mark,
    at_once,
    checksum_of,
    get,
    mark_name,
    parse_mark,
    records_name,
    tar_name,
)
from pplfast.storage import StorageError, join


class ShardRows:
    """Which images of a data set, or of a part of it, are in which of its shards.

    names: of the shards. used: of those that hold any of its images, int64. counts: of its images in each, int64.
    """

    def __init__(self, dataset: Dataset) -> None:
        index = dataset.shards
        if index is None:
            raise UserError(f"{dataset.name}: is not in shards, so its outputs cannot be; leave that out")
        self.index, self.names = index, tuple(shard.name for shard in index.shards)
        self._bounds = np.asarray(index.bounds, np.int64)
        self._rows = dataset.rows
        if dataset.rows is None:
            self._order, cuts = None, self._bounds
        else:
            self._order = np.argsort(dataset.rows, kind="stable")
            cuts = np.searchsorted(dataset.rows[self._order], self._bounds)
        self._cuts, self.counts = cuts, np.diff(cuts)
        self.used: Int64Array = np.flatnonzero(self.counts)

    def positions(self, shard: int) -> Int64Array:
        """In the data set, of a shard's images in its order."""
        start, end = self._cuts[shard], self._cuts[shard + 1]
        return np.arange(start, end) if self._order is None else self._order[start:end]

    def rows(self, shard: int) -> Int64Array:
        """Of the same images, within the shard."""
        positions = self.positions(shard)
        rows = positions if self._rows is None else self._rows[positions]
        within: Int64Array = rows - self._bounds[shard]
        return within

    def shard(self, position: int) -> int:
        """Of an image."""
        return int(self.index.shard_of[position if self._rows is None else self._rows[position]])

    def row(self, position: int) -> int:
        """Of an image, within its shard."""
        row = position if self._rows is None else int(self._rows[position])
        return row - int(self._bounds[self.shard(position)])

    def key(self, position: int) -> str:
        """Of an image's sample, in its shard and in the outputs. It has no dot that a reader would cut it at."""
        return self.index.keys[position if self._rows is None else int(self._rows[position])]

    def size(self, shard: int) -> int:
        """Rows of the whole shard."""
        return int(self._bounds[shard + 1] - self._bounds[shard])

    def source(self, shard: int) -> list[int]:
        """Its state as the index has it, which it was found to have when the data set was opened."""
        found = self.index.shards[shard]
        return [int(found.size), int(found.stamp)]

    def mark(self, out: str, shard: int) -> Mark:
        """Raises ValueError for what is none, StorageError where it cannot be read."""
        name = self.names[shard]
        return parse_mark(get(out, mark_name(name)), name, self.size(shard))


def inputs_digest(job: Job, rows: ShardRows, shard: int) -> str:
    """Of which images a shard's outputs are, and what else decides them."""
    values = [inputs(job, position) for position in rows.positions(shard).tolist()]
    text = json.dumps([rows.rows(shard).tolist(), values], separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Listed:
    """In the folder, of each shard of the data set: whether it has a mark, and the bytes of its tar and of its records,
    -1 for none."""

    marks: BoolArray
    tars: Int64Array
    records: Int64Array

    @classmethod
    def of(cls, names: dict[str, int], rows: ShardRows) -> "Listed":
        marks = [mark_name(name) in names for name in rows.names]
        tars, records = ([names.get(of(name), -1) for name in rows.names] for of in (tar_name, records_name))
        return cls(np.array(marks, bool), np.array(tars, np.int64), np.array(records, np.int64))


@dataclass(frozen=True)
class Left:
    """pending: shards that are to be made, int64. again: of these, whether only the images that a later run tries again
    are. images, done, bad: counts of images: to do, and finished."""

    pending: IntArray
    again: BoolArray
    images: int
    done: int
    bad: int

    @classmethod
    def of(cls, parts: "list[Left]") -> "Left":
        """All together, in the order of the shards."""
        pending = np.concatenate([part.pending for part in parts])
        order = np.argsort(pending)
        again = np.concatenate([part.again for part in parts])
        counts = (sum(getattr(part, name) for part in parts) for name in ("images", "done", "bad"))
        return cls(pending[order], again[order], *counts)


def left_of(job: Job, rows: ShardRows, out: str, found: Listed, shards: IntArray, verify: bool) -> Left:
    """Of these shards those whose mark does not hold: it is of another state of the shard, of other images or inputs,
    or its tar or its records are not there as they were. With `verify` their checksums decide. Where a mark holds but
    for images that are tried again, these alone are to be done.

    UserError where the folder cannot be read.
    """

    def look(shard: int) -> Mark | None:
        return _mark_that_holds(job, rows, out, found, shard, verify)

    pending, again, counts = [], [], np.zeros(3, np.int64)  # to do, done, bad
    for shard, mark in zip(shards.tolist(), at_once(look, shards.tolist()), strict=True):
        if mark is None:
            pending.append(shard)
            again.append(False)
            counts[0] += rows.counts[shard]
        else:
            repeated = len(mark.again_rows)
            counts += repeated, mark.done, mark.bad - repeated
            if repeated:
                pending.append(shard)
                again.append(True)
    return Left(np.array(pending, np.int64), np.array(again, bool), *counts.tolist())


def _as_written(out: str, name: str, file: File) -> bool:
    return checksum_of(join(out, name), file.bytes) == file.sha256


def _mark_that_holds(job: Job, rows: ShardRows, out: str, found: Listed, shard: int, verify: bool) -> Mark | None:
    if not found.marks[shard]:
        return None
    name = rows.names[shard]
    try:
        mark = rows.mark(out, shard)
        holds = (
            mark.source == rows.source(shard)
            and mark.tar.bytes == found.tars[shard]
            and mark.records.bytes == found.records[shard]
            and mark.inputs == inputs_digest(job, rows, shard)
            and (not verify or _as_written(out, tar_name(name), mark.tar))
            and (not verify or _as_written(out, records_name(name), mark.records))
        )
    except ValueError:  # somebody else's: the shard is made anew
        return None
    except StorageError as error:
        raise UserError(f"{join(out, mark_name(name))}: {error}") from None
    return mark if holds else None
