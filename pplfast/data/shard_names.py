"""Shards by their names, of which the ids of their images are made: each its own, wherever the data set lies."""

import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

from pplfast.data.list_files import block_name, is_block
from pplfast.data.shard_rows import check_key
from pplfast.errors import UserError
from pplfast.storage import is_remote, last_part, parent
from pplfast.storage.places import local_path


@dataclass(frozen=True)
class Shard:
    """path: of the tar or Parquet file. name: what the ids of its images begin with. size, stamp: as
    `storage.Found`."""

    path: str
    name: str
    size: int
    stamp: int


def below_one_folder(paths: Sequence[str]) -> tuple[str, list[str]]:
    """Their common folder, and each below it; "" and the whole paths where they have none."""
    whole = [path if is_remote(path) else os.path.abspath(local_path(path)) for path in paths]
    parts = [parent(path).split("/") for path in whole]
    common = parts[0]
    for other in parts[1:]:
        same = [one == two for one, two in zip(common, other)]
        common = common[: same.index(False) if False in same else len(same)]
    if not any(common):
        return "", whole
    folder = "/".join(common)
    if folder.endswith(":/"):  # "s3:/" of "s3://", for different buckets
        return "", whole
    return folder, [path.removeprefix(f"{folder}/") for path in whole]


def shard_names(relative: Sequence[str]) -> list[str]:
    """The file's name without its suffix; with the folders below the common one where another file has the same."""
    if relative and is_block(relative[0]):
        return [block_name(path) for path in relative]
    stems = [posixpath.splitext(path)[0] for path in relative]
    short = [last_part(stem) for stem in stems]
    counts: dict[str, int] = {}
    for name in short:
        counts[name] = counts.get(name, 0) + 1
    whole = [(stem.partition("://")[2] or stem).lstrip("/") for stem in stems]
    names = [name if counts[name] == 1 else long for name, long in zip(short, whole)]
    check_shard_names(names)
    return names


def check_shard_names(names: Sequence[str]) -> None:
    """Raises UserError where the images of two shards could have the same id, or one could be no file's name."""
    known = set(names)
    for name in names:
        check_key(name, "", "the shards")
        inside = name
        while inside := posixpath.dirname(inside):
            if inside in known:
                raise UserError(f"{name}: is in a folder with the name of the shard {inside}; rename one of them")
    if len(known) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{twice}: a shard is there twice, or two differ in their suffix alone; name each once")
