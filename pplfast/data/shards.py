"""A data set in shards, opened: its index, the shards of a list, and what their labels say."""

import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pplfast.arrays import UInt8Array
from pplfast.data.classes import IGNORE, VOC, ClassList, means_no_class, named_classes, parse_classes
from pplfast.data.shard_labels import is_place
from pplfast.data.shard_places import (
    ShardFiles,
    cache_folder,
    check_index,
    classes_file,
    find_shards,
    home,
    index_file,
    index_place,
    listed_images,
)
from pplfast.errors import UserError, one_line
from pplfast.reading import quoted
from pplfast.storage import StorageError, last_part, local_copy

if TYPE_CHECKING:
    from pplfast.data.dataset import DataConfig
    from pplfast.data.shard_index import Indexed, ShardIndex


@dataclass(frozen=True)
class OpenShards:
    name: str
    index: "ShardIndex"
    rows: "np.ndarray | None"  # int64, those of the list; None for all
    classes: ClassList
    labels: UInt8Array | None
    labelled_by: str


def open_shards(config: "DataConfig") -> OpenShards:
    """The shards of a data set with their index, which is made where there is none and this process is alone.

    Images of a shard that is gone stay in it: whoever reads them is told. UserError for shards that are new or have
    changed since the index was made, and for labels that fit no class.
    """
    try:
        shards = find_shards(config.root)
        file = index_file(config)
        if file is None:
            _make_alone(config, len(shards.found))
            file = index_file(config)
        assert file is not None, "it has just been made"
        from pplfast.data.shard_index import open_index

        index = open_index(local_copy(file, cache_folder()), shards.found)
        rows = _rows(index, config, shards)
        classes = _classes(config, index)
        labels, labelled_by = _labels(config, index, classes)
    except StorageError as error:
        raise UserError(f"{config.root}: {error}") from None
    if rows is not None and labels is not None:
        labels = labels[rows]
    title = f"{_title(config.root)}/{config.list}" if config.list else _title(config.root)
    return OpenShards(title, index, rows, classes, labels, labelled_by)


def make_index(
    config: "DataConfig", progress: Callable[[int, int, int], None] = lambda done, shards, images: None
) -> "Indexed":
    """Read through all shards once and write what is where. progress: as of `build_index`."""
    from pplfast.data.shard_index import build_index, build_list_index

    try:
        if lines := listed_images(config.root):
            return build_list_index(config.root, lines, index_place(config))
        shards = find_shards(config.root)
        if shards.gone:
            raise UserError(f"{shards.gone[0]}: is not there; restore it, or leave its name out")
        return build_index(shards.found, index_place(config), progress)
    except StorageError as error:
        raise UserError(f"{config.root}: {error}") from None


def _make_alone(config: "DataConfig", shards: int) -> None:
    if os.environ.get("WORLD_SIZE", "1") != "1":
        check_index(config)
    print(f"reading {shards} shards through once, for their index {index_place(config)}", file=sys.stderr)
    make_index(config)


def _title(root: str) -> str:
    if root.lower().endswith(".txt"):
        return last_part(root)[:-4]
    name = last_part(home(root)) or root
    return last_part(os.path.abspath(name)) if name in (".", "..") else name


def _rows(index: "ShardIndex", config: "DataConfig", shards: ShardFiles) -> "np.ndarray | None":
    """Of the shards that --data names, where it does, and --list: those whose names begin with it, as train-00000.tar
    does with train. None for all."""
    there, chosen = {shard.path for shard in shards.found}, list(range(len(index.shards)))
    if shards.named or (config.index and home(config.root) != config.root):  # the index may be of more
        named = there | set(shards.gone)
        chosen = [number for number in chosen if index.shards[number].path in named]
    names = [shard.name for shard in index.shards]
    if config.list:
        chosen = [number for number in chosen if _begins(last_part(names[number]), config.list)]
    gone = [index.shards[number].path for number in chosen if index.shards[number].path not in there]
    if gone and os.environ.get("RANK", "0") == "0":
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        print(one_line(f"warning: {gone[0]}{more}: gone since the index was made"), file=sys.stderr)
    if len(chosen) == len(index.shards):
        return None
    if not chosen:
        known = ", ".join(sorted({last_part(name).rstrip("0123456789").rstrip("-_.") or name for name in names})[:5])
        raise UserError(f"{config.root}: no shard begins with {quoted(config.list)}, as --list says; there are {known}")
    return np.flatnonzero(np.isin(index.shard_of, chosen)).astype(np.int64)


def _begins(name: str, word: str) -> bool:
    return name.startswith(word) and not name[len(word) : len(word) + 1].isalpha()


def _classes(config: "DataConfig", index: "ShardIndex") -> ClassList:
    if config.classes:
        return parse_classes(config.classes)
    if own := classes_file(config.root):
        return parse_classes(own)
    if index.stated_classes:
        return named_classes(index.stated_classes, config.root)
    names = [name for name in index.label_names() if not means_no_class(name)]
    if not names:
        return VOC
    if not all(map(is_place, names)):
        return named_classes(names, config.root)
    last = int(names[-1])
    if last >= IGNORE - 1:
        raise UserError(
            f"{config.root}: a label is the class {last} from 0, and masks have room for {IGNORE - 1}; correct it, or "
            "write names"
        )
    return named_classes([str(place) for place in range(last + 1)], config.root)


def _labels(config: "DataConfig", index: "ShardIndex", classes: ClassList) -> tuple[UInt8Array | None, str]:
    if config.labels == "none":
        return None, "labels: none"
    count = f"{len(classes)} class{'es' * (len(classes) != 1)}"
    if config.labels.lower().endswith(".csv"):
        return _labels_of_csv(Path(config.labels), index, classes), f"labels: {last_part(config.labels)}, {count}"
    if config.labels != "auto":
        raise UserError(
            f"--labels {config.labels}: the labels of shards are in them (auto), in a .csv of key,label;label, or none"
        )
    return index.labels(classes), f"labels: in the shards, {count}"


def _labels_of_csv(path: Path, index: "ShardIndex", classes: ClassList) -> UInt8Array:
    """Rows by id, shard/key, or by the key alone where it is the same in no two shards."""
    from pplfast.data.csv_rows import read_csv
    from pplfast.data.names import image_id

    rows: dict[str, tuple[str, ...]] = {}
    for row in read_csv(path, path.parent, classes.names).rows:
        rows[image_id(row.image)] = row.labels
    columns = {name: column for column, name in enumerate(classes.names)}
    counts = Counter(index.keys)
    labels = np.zeros((len(index), len(classes)), np.uint8)
    for position, (id, key) in enumerate(zip(index.ids, index.keys, strict=True)):
        names = rows.get(id, rows.get(key))
        if id not in rows and counts[key] > 1 and key in rows:
            raise UserError(f"{path}: {quoted(key)} is in {counts[key]} shards; write the id, as {quoted(id)}")
        if names is None:
            raise UserError(f"{path}: has no row for {quoted(id)}; add image,label;label")
        for name in names:
            if name in columns:
                labels[position, columns[name]] = 1
            elif not means_no_class(name):
                raise UserError(f"{path}: {quoted(name)} of {quoted(id)} is none of the classes; check --classes")
    return labels
