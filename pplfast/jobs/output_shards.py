"""Outputs in shards, read again by the jobs and trainings that come after."""

import os
from collections.abc import Sequence
from threading import Lock
from typing import overload

import numpy as np

from pplfast.arrays import BoolArray, Int64Array
from pplfast.data.dataset import Dataset
from pplfast.data.stored import Member
from pplfast.errors import UserError
from pplfast.files import StrPath
from pplfast.jobs.folder import read_settings
from pplfast.jobs.record import BAD
from pplfast.jobs.shard_marks import LAYOUT, MEMBERS, Mark, at_once, mark_name, read_records, records_name, tar_name
from pplfast.jobs.shard_plan import ShardRows
from pplfast.storage import StorageError, is_remote, join
from pplfast.storage.places import local_path

Places = tuple[Int64Array, Int64Array]  # of each row of a shard: offset of a member in the tar, and its size; or -1


def holds_shards(folder: StrPath, command: str) -> bool:
    """Whether a folder, or a URL, is one of outputs in shards. UserError for a URL that is not: there are no others."""
    found = (read_settings(folder) or {}).get("layout") == LAYOUT["layout"]
    if not found and is_remote(os.fspath(folder)):
        raise UserError(f"{folder}: holds no outputs of a job; make them with `{command}`")
    return found


class OutputShards:
    """What a job has made of the images of a data set in shards, by their positions in it. Only the marks are read at
    once; where a member lies in its tar is looked up, shard by shard, when it is asked for.

    bad: of each image, whether it has none, bool (N,). settings: of the job. command: that makes these outputs.
    UserError for a shard without outputs, or with those of other images.
    """

    def __init__(self, folder: StrPath, dataset: Dataset, command: str) -> None:
        out = os.fspath(folder)
        self.folder = out.rstrip("/") if is_remote(out) else local_path(out)
        self._command, self._ids = command, dataset.ids
        self.settings = read_settings(self.folder) or {}
        self._rows = ShardRows(dataset)
        used = self._rows.used.tolist()
        self._marks: dict[int, Mark] = dict(zip(used, at_once(self._mark, used), strict=True))
        self._lock = Lock()
        self._places: dict[
            int, dict[str, Places]
        ] = {}  # of a shard: by the suffix of the file that a member stands for
        self.bad: BoolArray = np.zeros(len(dataset), bool)
        for shard, mark in self._marks.items():
            rows = self._rows.rows(shard)
            if mark.rows is not None and not np.isin(rows, mark.rows).all():
                raise UserError(
                    f"{join(self.folder, tar_name(mark.shard))}: was made for other images of the shard; run "
                    f"`{command}` for this list"
                )
            self.bad[self._rows.positions(shard)] = np.isin(rows, mark.bad_rows)
        if len(self.bad) and self.bad.all():
            raise UserError(f"{self.folder}: all {len(self.bad)} images of the list failed; run `{command}` again")

    def reason(self, position: int) -> str:
        """Why an image is bad."""
        mark = self._marks[self._rows.shard(position)]
        return dict(mark.first_bad).get(self._ids[position], f"see {join(self.folder, records_name(mark.shard))}")

    def state(self, position: int) -> str:
        """Changes with what was made of an image, or of another one of its shard."""
        return self._marks[self._rows.shard(position)].tar.sha256

    def states(self) -> Sequence[str]:
        """Of all shards."""
        return [mark.tar.sha256 for mark in self._marks.values()]

    def part(self, position: int, suffix: str) -> Member:
        """The output of an image that is not bad. suffix: of its file, such as ".png". UserError without one."""
        shard = self._rows.shard(position)
        with self._lock:  # the records of a shard are read once, not by each of its readers
            if shard not in self._places:
                self._places[shard] = self._read_places(shard)
        row = self._rows.row(position)
        tar, found = join(self.folder, tar_name(self._marks[shard].shard)), self._places[shard].get(suffix)
        if found is None or found[0][row] < 0:
            raise UserError(f"{tar}: holds no {MEMBERS[suffix]} of {self._ids[position]}; run `{self._command}` again")
        name = f"{self._rows.key(position)}{MEMBERS[suffix]}"
        stamp = int(self._marks[shard].tar.sha256[:12], 16)
        return Member(tar, stamp, name, int(found[0][row]), int(found[1][row]))

    def _read_places(self, shard: int) -> dict[str, Places]:
        mark, size = self._marks[shard], self._rows.size(shard)
        rows = range(size) if mark.rows is None else mark.rows
        places = {suffix: (np.full(size, -1, np.int64), np.full(size, -1, np.int64)) for suffix in MEMBERS}
        for row, record in zip(rows, read_records(self.folder, mark), strict=True):
            if record["state"] == BAD:
                continue
            for file in record.get("files", ()):
                for suffix, member in MEMBERS.items():
                    if file.get("member", "").endswith(member):
                        places[suffix][0][row], places[suffix][1][row] = file["offset"], file["bytes"]
        return {suffix: found for suffix, found in places.items() if (found[0] >= 0).any()}

    def _mark(self, shard: int) -> Mark:
        name = self._rows.names[shard]
        path = join(self.folder, mark_name(name))
        try:
            mark = self._rows.mark(self.folder, shard)
        except StorageError as error:
            if error.gone:
                raise UserError(
                    f"{self.folder}: has no outputs for the shard {name}; make them with `{self._command}`"
                ) from None
            raise UserError(f"{path}: {error}") from None
        except ValueError as error:
            raise UserError(f"{path}: {error}; delete it, and run `{self._command}` again") from None
        if mark.source != self._rows.source(shard):
            raise UserError(
                f"{path}: was made of another state of the shard {name}; run `{self._command}` again, which makes what "
                "has changed"
            )
        return mark


class LabelMasks(Sequence[Member]):
    """The label PNGs of images of a data set that are not bad. positions: int64. digest: of the tars they lie in."""

    def __init__(self, outputs: OutputShards, positions: Int64Array) -> None:
        self._outputs, self._positions = outputs, positions
        self.digest = "\n".join(outputs.states()).encode()

    def __len__(self) -> int:
        return len(self._positions)

    def __contains__(self, value: object) -> bool:
        """None is missing, which is asked before a training: no records are read to say so."""
        return value is not None and super().__contains__(value)

    @overload
    def __getitem__(self, index: int) -> Member: ...
    @overload
    def __getitem__(self, index: slice) -> "LabelMasks": ...
    def __getitem__(self, index: int | slice) -> "Member | LabelMasks":
        if isinstance(index, slice):
            return LabelMasks(self._outputs, self._positions[index])
        return self._outputs.part(int(self._positions[index]), ".png")
