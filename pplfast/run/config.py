"""What one run of the chain is given."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pplfast.data.dataset import DataConfig, Dataset, open_dataset
from pplfast.data.image_info import AUTO
from pplfast.data.shard_places import is_sharded
from pplfast.data.stored import Stored
from pplfast.data.value_range import parse_range, range_text
from pplfast.data.voc import find_list_in
from pplfast.errors import UserError
from pplfast.files import read_json
from pplfast.recipe import Recipe
from pplfast.recipe.crf_presets import NONE
from pplfast.steps import TEST, TRAIN, VAL, Parts
from pplfast.storage import is_remote

if TYPE_CHECKING:
    from pplfast.train import TrainOptions


@dataclass(frozen=True)
class RunConfig:
    """A run of the whole chain into the folder `out`.

    train: the list to train on. val: the list that gets CAMs and labels, scored where it has masks.
    test: the list that a segmentation network is tested on, if the recipe has one; None: val.
    """

    train: DataConfig
    val: DataConfig
    recipe: Recipe
    variants: tuple[str, ...]
    out: Path
    jobs: int | None = None  # processes of the CRF and of the scoring; None: one per core
    training: "TrainOptions | None" = None  # None: the defaults
    command: str = ""  # for the record
    test: DataConfig | None = None
    suggested: tuple[str, ...] = ()  # settings of the recipe that were found for the data, for the record
    memory: float | None = None  # GiB, of the steps that work through images, for what grows with them


def with_default_lists(config: DataConfig, train: str | None, val: str | None) -> tuple[DataConfig, DataConfig]:
    """Training and validation part of one data set.

    Lists that are not given: "train" and "val" in a VOC layout; all images, for both, in a plain folder.
    """
    voc = (Path(config.root) / "ImageSets").is_dir()
    train = train if train is not None else "train" if voc else ""
    val = val if val is not None else "val" if voc else train
    return dataclasses.replace(config, list=train), dataclasses.replace(config, list=val)


def absolute(config: DataConfig) -> DataConfig:
    """The same data set, in paths that hold from any working folder; what a run saves."""
    if is_sharded(config):
        held_root = config.root if is_remote(config.root) else os.path.abspath(config.root)
        index = config.index if not config.index or is_remote(config.index) else os.path.abspath(config.index)
        classes = os.path.abspath(config.classes) if os.path.isfile(config.classes) else config.classes
        return dataclasses.replace(config, root=held_root, index=index, classes=classes)
    root = Path(config.root).resolve()

    def held(value: str, is_path: bool) -> str:
        return str(Path(value).resolve()) if is_path else value

    return dataclasses.replace(  # each is a path where the data set takes it for one, whatever else has its name
        config,
        root=str(root),
        list=held(config.list, os.path.isfile(config.list) and not find_list_in(root, config.list)),
        labels=held(config.labels, os.path.isfile(config.labels) and Path(config.labels).suffix != ""),
        classes=held(config.classes, os.path.isfile(config.classes)),
        masks=held(config.masks, os.path.isdir(config.masks) and not os.path.isdir(root / config.masks)),
    )


def shared_range(config: RunConfig) -> str:
    """The range of deep images for all lists of a run: as it was given, or what an earlier call has recorded, or
    measured on the list that is trained on."""
    if config.train.range != AUTO:
        return config.train.range
    return _recorded_range(config) or range_text(open_dataset(config.train).values)


def with_range(config: RunConfig, values: str) -> RunConfig:
    """The same run, with that range for all its lists."""
    train, val = (dataclasses.replace(data, range=values) for data in (config.train, config.val))
    test = config.test and dataclasses.replace(config.test, range=values)
    return dataclasses.replace(config, train=train, val=val, test=test)


def _recorded_range(config: RunConfig) -> str:
    """ "" where the folder holds no run of this data set yet. What is damaged there is named elsewhere."""
    try:
        data = read_json(config.out / "run.json")["data"]["train"]
        same = data["root"] == absolute(config.train).root and data["list"] == absolute(config.train).list
        return range_text(parse_range(data["range"])) if same and data["range"] != AUTO else ""
    except (UserError, OSError, KeyError, TypeError, AttributeError):
        return ""


@dataclass(frozen=True)
class Lists:
    """The data of a run by TRAIN, VAL and TEST, which is the validation list where there is no other. content, masks:
    what the files of its images and masks hold."""

    sets: dict[str, Dataset]
    content: dict[str, str]
    masks: dict[str, str]

    def parts(self, recipe: Recipe) -> Parts:
        return parts_of(recipe, self.sets)


def parts_of(recipe: Recipe, sets: dict[str, Dataset]) -> Parts:
    return Parts(
        crf=recipe.label.crf != NONE,
        affinity=recipe.affinity.trained,
        segmentation=recipe.segmentation.trained,
        masks=any(sets[VAL].masks),
        test_masks=any(sets[TEST].masks),
        one_list=fingerprint(sets[TRAIN]) == fingerprint(sets[VAL]),
    )


def fingerprint(dataset: Dataset) -> str:
    """Changes with the ids, classes and labels, not with the place, so that a data set can be moved."""
    ids = dataset.ids if dataset.shards is None else dataset.encoded_ids
    digest = hashlib.sha256(repr((ids, dataset.classes)).encode())
    if dataset.values is not None:
        digest.update(range_text(dataset.values).encode())
    if dataset.labels is not None:
        digest.update(dataset.labels.tobytes())
    return digest.hexdigest()[:16]


def file_states(dataset: Dataset) -> str:
    """Changes whenever an image or a mask has been written to, moved or given other rights: one look at each, or at
    each shard."""
    digest = hashlib.sha256()
    if dataset.shards is not None:
        digest.update(repr([(shard.path, shard.size, shard.stamp) for shard in dataset.shards.shards]).encode())
        return digest.hexdigest()[:16]
    for path in (*dataset.images, *dataset.masks):
        assert not isinstance(path, Stored), "they would lie in shards"
        try:
            found = os.stat(path) if path else None
        except OSError:
            found = None
        digest.update(repr(found and (found.st_size, found.st_mtime_ns, found.st_ctime_ns)).encode())
    return digest.hexdigest()[:16]


def file_contents(paths: Sequence[Path | Stored | None]) -> str:
    """Changes with what the files hold, and with their order. Reads them whole; of shards what the index says of them,
    which was made by reading them."""
    parts = [(part.state, part.name) for part in paths if isinstance(part, Stored)]
    if parts:
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
    with ThreadPoolExecutor() as pool:
        return hashlib.sha256(b"".join(pool.map(_content, paths))).hexdigest()[:16]


def _content(path: Path | Stored | None) -> bytes:
    """32 bytes; of a file that cannot be read, which the check of the data names, zeros."""
    assert not isinstance(path, Stored), "they are all parts of shards, or none is"
    try:
        with open(path or "", "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return bytes(32)
