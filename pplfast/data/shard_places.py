"""Where the shards of a data set, their index and their classes are. No numpy: the command line asks for it early."""

import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pplfast.data.list_files import Line, are_images, blocks_of, read_list_file
from pplfast.errors import UserError
from pplfast.reading import quoted
from pplfast.storage import (
    Found,
    StorageError,
    find,
    is_remote,
    join,
    last_part,
    list_folder,
    local_copy,
    parent,
)
from pplfast.storage.places import is_pattern, local_path

if TYPE_CHECKING:
    from pplfast.data.dataset import DataConfig

SUFFIXES = (".tar", ".parquet")
INDEX = "pplfast-index.arrow"
CLASSES = "classes.txt"
_LISTS = (".txt",)  # of shards, or of images: one path or URL a line
HUGGING_FACE = "data"  # the folder of Parquet files in its repositories
_OWN_FOLDERS = {"manifest"}  # of label shards


def is_sharded(config: "DataConfig") -> bool:
    """Whether the data set is one of shards: a URL, a file or a pattern of shards, a list file of them, or a folder
    that holds shards and neither images nor folders of images."""
    root = os.fspath(config.root)  # Python takes a Path as well
    if is_remote(root) or (not os.path.isdir(local_path(root)) and is_pattern(root)):
        return True
    path = local_path(root)
    if os.path.isdir(path):
        return _holds_shards(path)
    return path.lower().endswith((*SUFFIXES, *_LISTS))


def _holds_shards(folder: str) -> bool:
    from pplfast.data.names import SUFFIXES as IMAGES

    found = False
    try:
        names = os.scandir(folder)
    except OSError:  # which whoever opens it names
        return False
    with names as entries:
        for entry in entries:
            name = entry.name.lower()
            if name == INDEX:
                return True
            if name == HUGGING_FACE and _holds_shards(entry.path):
                found = True
                continue
            if name.endswith(IMAGES) or (
                os.path.isdir(entry.path) and not name.startswith(".") and name not in _OWN_FOLDERS
            ):
                return False
            found = found or name.endswith(SUFFIXES)
    return found


@dataclass(frozen=True)
class ShardFiles:
    """found: in their order. gone: paths that braces or a list name, and that are not there. named: whether they are
    named one by one, so that an index may have others as well; else what it has beside them is gone."""

    found: list[Found]
    gone: list[str]
    named: bool


@contextmanager
def naming_store(place: str) -> Iterator[None]:
    """What a store refuses names the place."""
    try:
        yield
    except StorageError as error:
        raise UserError(f"{place}: {error}") from None


def find_shards(root: str) -> ShardFiles:
    """UserError where there are none, and for what cannot be listed."""
    with naming_store(root):
        return _find_shards(root)


def _find_shards(root: str) -> ShardFiles:
    gone: list[str] = []
    named = home(root) != root and not any(sign in root for sign in "*?[")
    if root.lower().endswith(_LISTS):
        if lines := listed_images(root):
            return ShardFiles(blocks_of(root, lines), [], False)
        lines = read_list_file(root)
        for line in lines:  # of a stranger, a short one could stand for millions of names
            if is_pattern(line.path) and not os.path.exists(local_path(line.path)):
                raise UserError(
                    f"{root}, line {line.number}: {quoted(line.path)} is a pattern; write each shard's name"
                )
        shards = [found for line in lines for found in find(line.path, SUFFIXES, gone)]
    else:
        shards = find(root, SUFFIXES, gone) or ([] if named else find(join(root, HUGGING_FACE), SUFFIXES))
    if not shards and gone:
        raise UserError(f"{gone[0]}: no such file; give --data shards that are there")
    if not shards:
        raise UserError(f"{root}: holds no shards; give --data a folder or a pattern of .tar or .parquet files")
    return ShardFiles(shards, gone, named)


def listed_images(root: str) -> list[Line]:
    """Of a list file of images; none where --data is anything else."""
    with naming_store(root):
        lines = read_list_file(root) if root.lower().endswith(_LISTS) else []
    return lines if lines and are_images(root, lines, SUFFIXES) else []


def check_index(config: "DataConfig") -> None:
    """For whoever starts ranks: UserError where they would all lack it."""
    if index_file(config) is None:
        raise UserError(
            f"{index_place(config)}: the shards have no index yet; make it once with `pplfast data index --data "
            f"{config.root}`, before ranks are started"
        )


def index_place(config: "DataConfig") -> str:
    """Path or URL: that of --index, else beside the shards, and of a pattern or a list one of its own."""
    if config.index:
        return config.index
    folder = home(config.root)
    if folder == config.root:
        return join(folder, INDEX)
    name = last_part(config.root)
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:60]
    return join(folder, INDEX.replace(".", f"-{plain}-{zlib.crc32(name.encode()):08x}."))


def home(root: str) -> str:
    """The folder that the shards of a data set are in, or that of the list or the pattern."""
    if not os.path.isdir(local_path(root)) and (root.lower().endswith((*SUFFIXES, *_LISTS)) or is_pattern(root)):
        folder = parent(root)
        while is_pattern(folder):
            folder = parent(folder)
        return folder
    return root


def index_file(config: "DataConfig") -> Found | None:
    place = index_place(config)
    if not is_remote(place):
        path = local_path(place)
        if not os.path.isfile(path):
            return None
        state = os.stat(path)
        return Found(path, state.st_size, state.st_mtime_ns)
    with naming_store(place):
        return next((file for file in list_folder(parent(place)) if last_part(file.path) == last_part(place)), None)


def cache_folder() -> Path:
    """On this machine, of copies of what lies in stores."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pplfast"


def classes_file(root: str) -> Path | None:
    """ROOT/classes.txt, or a copy of it, if it is there."""
    folder = home(root)
    if not is_remote(folder):
        path = Path(local_path(folder)) / CLASSES
        return path if path.is_file() else None
    with naming_store(join(folder, CLASSES)):
        found = next((file for file in list_folder(folder) if last_part(file.path) == CLASSES), None)
        return local_copy(found, cache_folder()) if found else None
