"""The images of a data set in shards, by its index: made one by one when they are asked for."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pplfast.arrays import Int32Array, Int64Array, UInt8Array
from pplfast.data.classes import ClassList
from pplfast.data.list_files import LIST
from pplfast.data.list_rows import path_of
from pplfast.data.shard_labels import UNKNOWN, is_place, label_columns, sorted_labels
from pplfast.data.shard_names import Shard
from pplfast.data.shard_rows import PARQUET, TAR, id_of
from pplfast.data.spread import evenly
from pplfast.data.stored import Cell, Member, Stored, Whole
from pplfast.data.tar_shards import MASK_SUFFIX
from pplfast.errors import UserError
from pplfast.reading import quoted
from pplfast.storage import is_remote

T = TypeVar("T")

WINDOW = 4096  # images, of a shuffle buffer
OF_A_ROW_GROUP = 16  # images at least, where some of a Parquet file are looked at


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of one shard. first: the number of its first row."""

    shard: int
    first: int
    table: pa.RecordBatch

    def texts(self, column: str, rows: slice) -> list[str]:
        values: list[str] = self.table.column(column)[rows].to_pylist()
        return values

    @cached_property
    def offset(self) -> Int64Array:
        return self._numbers("offset")

    @cached_property
    def size(self) -> Int64Array:
        return self._numbers("size")

    @cached_property
    def mask_offset(self) -> Int64Array:
        return self._numbers("mask_offset")

    @cached_property
    def mask_size(self) -> Int64Array:
        return self._numbers("mask_size")

    def _numbers(self, column: str) -> Int64Array:
        values: Int64Array = self.table.column(column).to_numpy(zero_copy_only=True)
        return values


class _Lazy(Sequence[T], Generic[T]):
    """One value for each row, made when it is asked for."""

    def __init__(self, index: "ShardIndex", make: Callable[[Batch, slice], Iterable[T]]) -> None:
        self._index, self._make = index, make

    def __len__(self) -> int:
        return len(self._index)

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[T, ...]: ...
    def __getitem__(self, place: int | slice) -> T | tuple[T, ...]:
        if isinstance(place, slice):
            return tuple(self[row] for row in range(*place.indices(len(self))))
        row = range(len(self))[place]  # also from the end; IndexError
        batch = self._index._batch_of(row)
        [value] = self._make(batch, slice(row - batch.first, row - batch.first + 1))
        return value

    def __iter__(self) -> Iterator[T]:
        for batch in self._index._batches:
            yield from self._make(batch, slice(0, batch.table.num_rows))


class ShardIndex:
    """An open index.

    bounds: int64 (S + 1,), the number of the first row of each shard, and of all rows. digest: of names and sizes of
    the shards and of all rows: the same where the data set was copied, another where an image or label changed.
    stated_classes: the class names that integer labels are places in, where the Parquet files say them.
    """

    def __init__(
        self, file: Path, shards: Sequence[Shard], said: dict[str, Any], batches: Sequence[Batch], digest: str
    ) -> None:
        self.file, self.shards, self.digest = file, tuple(shards), digest
        self.stated_classes: tuple[str, ...] | None = tuple(said["classes"]) or None
        self._batches = batches
        self._firsts = [batch.first for batch in batches]
        rows = np.zeros(len(shards), np.int64)
        for batch in batches:
            rows[batch.shard] += batch.table.num_rows
        self.bounds: Int64Array = np.concatenate([[0], rows.cumsum()])
        self.keys: Sequence[str] = _Lazy(self, lambda batch, rows: batch.texts("key", rows))
        self.ids: Sequence[str] = _Lazy(self, self._ids)
        self._cells_of_parquet = cells = said["kind"] == PARQUET
        self._files_below = said["image"] if said["kind"] == LIST else ""
        makers: dict[str, Callable[[Batch, slice], Iterable[Stored]]] = {
            PARQUET: partial(self._cells, said["image"]),
            TAR: self._image_members,
            LIST: self._listed_files,
        }
        self.images: Sequence[Stored] = _Lazy(self, makers[said["kind"]])
        self.masks: Sequence[Stored | None] = _Lazy(
            self, partial(self._mask_cells, said["mask"]) if cells else self._mask_members
        )

    def __len__(self) -> int:
        return int(self.bounds[-1])

    @cached_property
    def shard_of(self) -> Int32Array:
        """The shard of each row, (N,)."""
        return np.repeat(np.arange(len(self.shards), dtype=np.int32), np.diff(self.bounds))

    @cached_property
    def has_masks(self) -> bool:
        """Whether any image has one."""
        return any(batch.table.num_rows and batch.mask_offset.max() >= 0 for batch in self._batches)

    def suffixes(self) -> set[str]:
        """Of all images, as they are written."""
        return {suffix for batch in self._batches for suffix in pc.unique(batch.table.column("suffix")).to_pylist()}

    @property
    def is_remote(self) -> bool:
        """Whether its shards lie in a store."""
        return is_remote(self._files_below or self.shards[0].path)

    def units(self, rows: Int64Array | None) -> tuple[Int64Array, int]:
        """Of these rows, or of all, what each is read from at little cost: the number of its shard, or in Parquet of
        its row group, of which no part is read. And the images that a shuffle buffer over them may hold."""
        numbers, window = self.shard_of.astype(np.int64), WINDOW
        if self._cells_of_parquet:
            groups = np.concatenate([batch.offset for batch in self._batches]).astype(np.int64)
            begins = np.diff(numbers, prepend=-1).astype(bool) | np.diff(groups, prepend=-1).astype(bool)
            numbers = np.cumsum(begins) - 1
            window = int(np.bincount(numbers).max())
        return (numbers if rows is None else numbers[rows]), window

    def some(self, count: int, rows: Int64Array | None) -> list[int]:
        """Of these rows, or of all, at most about `count` places, evenly: of Parquet some of some row groups."""
        length = len(self) if rows is None else len(rows)
        if not self._cells_of_parquet or count >= length:
            return evenly(length, count)
        units, _ = self.units(rows)
        chosen = np.unique(units)
        chosen = chosen[evenly(len(chosen), -(-count // OF_A_ROW_GROUP))]
        places = [np.flatnonzero(units == unit) for unit in chosen.tolist()]
        return sorted(int(own[at]) for own in places for at in evenly(len(own), -(-count // len(places))))

    def label_names(self) -> list[str]:
        """The labels of all images as they are stored, each once: integers by their value, then names."""
        found: set[str] = set()
        for batch in self._batches:
            found.update(pc.unique(batch.table.column("labels").flatten()).to_pylist())
        return sorted_labels(found)

    def labels(self, classes: ClassList, unlabelled: bool = False) -> UInt8Array:
        """Image labels, (N, C), 0 or 1. unlabelled: images without any are images with none of the classes.

        UserError, which names the first image, where one has no labels, or one that is neither a class's name nor a
        class's place from 0, in `stated_classes` if there are any.
        """
        matrix = np.zeros((len(self), len(classes)), np.uint8)
        for batch in self._batches:
            lists = batch.table.column("labels")
            if lists.null_count and not unlabelled:
                row = batch.first + int(np.flatnonzero(lists.is_null().to_numpy(zero_copy_only=False))[0])
                remedy = (
                    "write them into its line of the list, after a tab"
                    if self._files_below
                    else "put them into the shard as .cls, .txt or .json, or as the column 'label' of Parquet"
                )
                raise UserError(f"{self.images[row]}: has no labels; {remedy}, or give --labels a .csv, or none")
            coded = lists.flatten().dictionary_encode()
            texts = coded.dictionary.to_pylist()
            codes = coded.indices.to_numpy()
            columns = label_columns(texts, classes, self.stated_classes)[codes]
            rows = pc.list_parent_indices(lists).to_numpy() + batch.first
            if (unknown := np.flatnonzero(columns == UNKNOWN)).size:
                raise self._unknown(rows[unknown[0]], texts[codes[unknown[0]]], classes)
            known = columns >= 0
            matrix[rows[known], columns[known]] = 1
        return matrix

    def _unknown(self, row: int, text: str, classes: ClassList) -> UserError:
        stated = self.stated_classes
        if stated and is_place(text) and int(text) < len(stated):
            text = stated[int(text)]
        return UserError(
            f"{self.images[row]}: unknown class {quoted(text)}; known: {', '.join(classes.names)}; correct it, or give "
            "--classes the names of this data set"
        )

    def _batch_of(self, row: int) -> Batch:
        return self._batches[bisect_right(self._firsts, row) - 1]

    def _ids(self, batch: Batch, rows: slice) -> Iterator[str]:
        name = self.shards[batch.shard].name
        return (id_of(name, key) for key in batch.texts("key", rows))

    def _image_members(self, batch: Batch, rows: slice) -> Iterator[Stored]:
        shard = self.shards[batch.shard]
        parts = zip(
            batch.texts("key", rows), batch.texts("suffix", rows), _ints(batch.offset, rows), _ints(batch.size, rows)
        )
        return (Member(shard.path, shard.stamp, key + suffix, offset, size) for key, suffix, offset, size in parts)

    def _listed_files(self, batch: Batch, rows: slice) -> Iterator[Stored]:
        stamp = self.shards[batch.shard].stamp
        for key, suffix in zip(batch.texts("key", rows), batch.texts("suffix", rows)):
            yield Whole(self._files_below, stamp, path_of(key, suffix))

    def _mask_members(self, batch: Batch, rows: slice) -> Iterator[Stored | None]:
        shard = self.shards[batch.shard]
        for key, offset, size in zip(
            batch.texts("key", rows), _ints(batch.mask_offset, rows), _ints(batch.mask_size, rows)
        ):
            yield None if offset < 0 else Member(shard.path, shard.stamp, key + MASK_SUFFIX, offset, size)

    def _cells(self, column: str, batch: Batch, rows: slice) -> Iterator[Stored]:
        shard = self.shards[batch.shard]
        parts = zip(
            batch.texts("key", rows), batch.texts("suffix", rows), _ints(batch.offset, rows), _ints(batch.size, rows)
        )
        for key, suffix, group, row in parts:
            yield Cell(shard.path, shard.stamp, key + suffix, column, group, row, shard.size)

    def _mask_cells(self, column: str, batch: Batch, rows: slice) -> Iterator[Stored | None]:
        there = _ints(batch.mask_offset, rows)
        for cell, offset in zip(self._cells(column, batch, rows), there):
            yield None if offset < 0 else cell


def _ints(values: Int64Array, rows: slice) -> list[int]:
    numbers: list[int] = values[rows].tolist()
    return numbers
