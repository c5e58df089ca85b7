"""Making the index of a data set in shards: all of them are read through once, several at a time."""

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from pplfast.data.list_files import LIST, Line, blocks_of
from pplfast.data.list_rows import list_rows
from pplfast.data.parquet_shards import Columns, parquet_columns, parquet_rows
from pplfast.data.shard_names import below_one_folder, shard_names
from pplfast.data.shard_places import INDEX, SUFFIXES
from pplfast.data.shard_rows import FIELDS, METADATA, PARQUET, VERSION, Rows
from pplfast.data.tar_shards import tar_rows
from pplfast.errors import UserError, naming
from pplfast.files import atomic_path
from pplfast.pool import QUEUED_PER_WORKER, default_jobs, signals_held, start_worker
from pplfast.storage import Found, StorageError, is_remote, join, last_part, write_file
from pplfast.storage.places import local_path

READERS = 16  # threads, for shards at URLs: they wait for the store most of the time
IN_THIS_PROCESS = 256 * 2**20  # bytes of local shards that take no longer than the start of processes


@dataclass(frozen=True)
class Indexed:
    """What an index holds. without_image: samples that have none, and are left out."""

    images: int
    without_image: int


@dataclass(frozen=True)
class _Task:
    number: int
    shard: Found
    columns: Columns | None  # None of a tar


_ShardRows = tuple[list[pa.RecordBatch], int]  # of one shard, and its samples without an image


def build_index(
    shards: Sequence[Found], out: str, progress: Callable[[int, int, int], None] = lambda done, shards, images: None
) -> Indexed:
    """Write the index of all images of the shards to the file `out`, a path or a URL; whole, or not at all.

    shards: all tars, or all Parquet files. progress: called with the shards that are done, all shards, and the images
    so far. Memory is bounded by a few shards' rows. UserError, which names the shard, where one cannot be read.
    """
    kind = _kind(shards)
    columns = parquet_columns(shards[0]) if kind == PARQUET else None
    tasks = [_Task(number, shard, columns) for number, shard in enumerate(shards)]
    return _write_file(out, _said(kind, shards, columns), _all_rows(tasks), progress)


def build_list_index(file: str, lines: Sequence[Line], out: str) -> Indexed:
    """The same of a list file of images, none of which is looked at. lines: of `read_list_file`."""
    folder, blocks = list_rows(file, lines)
    said = _said(LIST, blocks_of(file, lines), None) | {"image": folder}
    return _write_file(out, said, ((rows.batches(number), 0) for number, rows in enumerate(blocks)), lambda *_: None)


def _said(kind: str, shards: Sequence[Found], columns: Columns | None) -> dict[str, Any]:
    """What the index says of all its rows. image: the column of it; of a list the folder that images are below."""
    folder, relative = below_one_folder([shard.path for shard in shards])
    with naming(folder):
        names = shard_names(relative)
    return {
        "version": VERSION,
        "kind": kind,
        "folder": folder,
        "shards": [[*item] for item in zip(relative, names, [s.size for s in shards], [s.stamp for s in shards])],
        "image": columns.image if columns else "",
        "mask": columns.mask if columns else "",
        "classes": columns.classes if columns else (),
    }


def _write_file(
    out: str, said: dict[str, Any], shards: Iterable[_ShardRows], progress: Callable[[int, int, int], None]
) -> Indexed:
    schema = pa.schema(FIELDS, metadata={METADATA: json.dumps(said).encode()})
    with TemporaryDirectory() if is_remote(out) else nullcontext() as temporary:
        local = os.path.join(temporary, INDEX) if temporary else local_path(out)
        with atomic_path(local) as path, pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            found = _write(writer, said, shards, progress)
        if temporary:
            try:
                write_file(out, Path(local).read_bytes())
            except StorageError as error:
                raise UserError(f"{out}: {error}") from None
    return found


def _write(
    writer: Any, said: dict[str, Any], shards: Iterable[_ShardRows], progress: Callable[[int, int, int], None]
) -> Indexed:
    images = without = 0
    for done, (batches, without_image) in enumerate(shards, 1):
        for batch in batches:
            writer.write_batch(batch)
            images += batch.num_rows
        without += without_image
        progress(done, len(said["shards"]), images)
    if not images:
        raise UserError(
            f"{join(said['folder'], said['shards'][0][0])}: no shard holds an image; its members' names are to end in "
            ".jpg, .png or another suffix of images after their first dot"
        )
    return Indexed(images, without)


def _kind(shards: Sequence[Found]) -> str:
    if not shards:
        raise UserError("no shards; name tar or Parquet files")
    kinds = [next((kind for kind in SUFFIXES if shard.path.lower().endswith(kind)), "") for shard in shards]
    for shard, kind in zip(shards, kinds, strict=True):
        if not kind or kind != kinds[0]:
            other = f"{kinds[0]} as {last_part(shards[0].path)}" if kinds[0] else " or ".join(SUFFIXES)
            raise UserError(f"{shard.path}: is no {other}; a data set's shards are of one kind")
    return kinds[0]


def _all_rows(tasks: Sequence[_Task]) -> Iterator[_ShardRows]:
    """What `_shard_rows` gives for each, in their order."""
    jobs = min(default_jobs(), len(tasks))
    if any(is_remote(task.shard.path) for task in tasks):
        yield from _in_order(ThreadPoolExecutor(READERS), tasks, READERS)
    elif jobs == 1 or sum(task.shard.size for task in tasks) < IN_THIS_PROCESS:
        yield from map(_shard_rows, tasks)
    else:
        yield from _in_order(ProcessPoolExecutor(jobs, get_context("spawn"), start_worker), tasks, jobs)


def _in_order(executor: Executor, tasks: Iterable[_Task], workers: int) -> Iterator[_ShardRows]:
    """As the executor's map, which would start all tasks and hold their results."""
    running: deque[Future[_ShardRows]] = deque()
    waiting = iter(tasks)
    starting = signals_held if isinstance(executor, ProcessPoolExecutor) else nullcontext
    try:
        while True:
            for task in islice(waiting, workers * QUEUED_PER_WORKER - len(running)):
                with starting():
                    running.append(executor.submit(_shard_rows, task))
            if not running:
                return
            yield running.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            "a process that reads shards died, probably for lack of memory; close other programs, then run the same "
            "command again"
        ) from None
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _shard_rows(task: _Task) -> _ShardRows:
    rows: Rows = parquet_rows(task.shard, task.columns) if task.columns else tar_rows(task.shard)
    return rows.batches(task.number), rows.without_image
