"""Training on data sets in shards: the same numbers as from single files, every image once, on any number of ranks."""

import dataclasses
import json
import os

import numpy as np
import pytest
import torch
from loader_helpers import MEAN, STD
from safetensors.torch import load_file
from train_data import CLASSES, make_recipe, open_images, write_images

from pplfast.benchmarks.shard_files import folder_to_shards
from pplfast.data.dataset import DataConfig, Dataset, open_dataset
from pplfast.data.loader import TrainLoader
from pplfast.errors import UserError
from pplfast.recipe import AugmentConfig
from pplfast.train import TrainOptions, train

AUGMENT = AugmentConfig(crop=32, resize_long=(32, 48), jitter=0.2)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Dataset:
    return open_images(write_images(tmp_path_factory.mktemp("images"), 23))


@pytest.fixture(scope="module")
def stored(files, tmp_path_factory) -> Dataset:
    folder = str(tmp_path_factory.mktemp("shards"))
    assert len(folder_to_shards(files, folder, 4)) == 6
    return open_dataset(DataConfig(folder))


def in_order_of_files(stored: Dataset) -> Dataset:
    """The loader knows nothing of the shards, so that its order is that of single files."""
    return dataclasses.replace(stored, shards=None)


def images_of(parts) -> list[int]:
    """Positions in the data set, in order, without repeats."""
    return [int(i) for part in parts for i, weight in zip(part.indices, part.weights, strict=True) if weight]


def batches(dataset: Dataset, epoch: int = 0, start: int = 0, **options):
    return list(TrainLoader(dataset, AUGMENT, MEAN, STD, **{"batch_size": 8, **options}).epoch(epoch, start))


def test_a_data_set_in_shards_is_the_one_of_files(files, stored):
    assert stored.classes == files.classes and (stored.known_labels == files.known_labels).all()
    assert [name.partition("/")[2] for name in stored.ids] == list(files.ids)
    assert all(part.read() == path.read_bytes() for part, path in zip(stored.images, files.images, strict=True))
    part = stored.subset([3, 20])
    assert list(part.ids) == [stored.ids[3], stored.ids[20]] and part.images[1] == stored.images[20]
    assert part.encoded_ids != stored.encoded_ids and len(stored.some(5)) == 5


def test_batches_from_shards_are_those_from_files(files, stored):
    for epoch in (0, 1):
        for one, other in zip(batches(files, epoch), batches(in_order_of_files(stored), epoch), strict=True):
            assert torch.equal(one.images, other.images) and torch.equal(one.targets, other.targets)
            assert torch.equal(one.indices, other.indices)


@pytest.mark.parametrize("world", (1, 2, 3))
def test_every_image_once_and_in_one_order_on_any_number_of_ranks(stored, world):
    """Also from the middle of an epoch on."""
    alone = [images_of([batch]) for batch in batches(stored)]
    order = images_of(batches(stored))
    assert sorted(order) == list(range(23)) != order
    for start in (0, 2):
        options = {"batch_size": -(-8 // world), "group": 8, "world_size": world, "start": start}
        each = [batches(stored, rank=rank, **options) for rank in range(world)]
        assert [images_of(parts) for parts in zip(*each, strict=True)] == alone[start:]


def test_a_shard_that_is_gone_ends_a_training_with_its_name(files, tmp_path):
    folder_to_shards(files, str(tmp_path), 4)
    dataset = open_dataset(DataConfig(str(tmp_path)))
    (tmp_path / "images-000002.tar").unlink()
    with pytest.raises(UserError, match=r"images-000002\.tar/photo.*no such file; restore it"):
        batches(dataset)


def test_bytes_that_are_no_image_are_named_by_shard_and_key(files, tmp_path):
    shard = tmp_path / folder_to_shards(files, str(tmp_path), 30)[0]
    dataset = open_dataset(DataConfig(str(tmp_path)))
    part = dataset.images[7]
    data = bytearray(shard.read_bytes())
    data[part.offset : part.offset + part.size] = bytes(part.size)
    times = shard.stat()
    shard.write_bytes(data)
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(UserError, match=r"images-000000\.tar/photo7\.jpg: not a JPEG"):
        batches(dataset)


def test_a_shard_that_was_written_to_needs_a_new_index(files, tmp_path):
    shard = tmp_path / folder_to_shards(files, str(tmp_path), 30)[0]
    open_dataset(DataConfig(str(tmp_path)))
    with open(shard, "ab") as file:
        file.write(bytes(512))
    with pytest.raises(UserError, match=r"images-000000\.tar.*pplfast data index"):
        open_dataset(DataConfig(str(tmp_path)))


def test_a_list_is_the_shards_that_begin_with_its_name(files, tmp_path):
    folder_to_shards(files.subset(range(8)), str(tmp_path), 4, "train")
    folder_to_shards(files.subset(range(8, 23)), str(tmp_path), 4, "val")
    train_set, val = (open_dataset(DataConfig(str(tmp_path), name)) for name in ("train", "val"))
    assert len(train_set) == 8 and len(val) == 15 and val.ids[0] == "val-000000/photo8"
    assert (val.known_labels == files.known_labels[8:]).all()
    assert sorted(images_of(batches(val))) == list(range(15))
    with pytest.raises(UserError, match=r"no shard begins with 'tests', as --list says; there are train, val"):
        open_dataset(DataConfig(str(tmp_path), "tests"))


@pytest.mark.slow
def test_losses_from_shards_are_those_from_files_bit_for_bit(files, stored, tmp_path):
    assert stored.classes.names == tuple(CLASSES.split(","))
    options = TrainOptions(threads=1, log_every=1)
    for name, dataset in {"files": files, "shards": in_order_of_files(stored)}.items():
        train(make_recipe(model={"dropout": 0.5}), dataset, tmp_path / name, options=options)
    logs = [(tmp_path / name / "log.jsonl").read_text(encoding="utf-8").splitlines() for name in ("files", "shards")]
    losses, others = ([json.loads(line)["loss"] for line in log] for log in logs)
    assert len(losses) >= 4 and losses == others and np.isfinite(losses).all()
    weights, other = (load_file(tmp_path / name / "classifier.safetensors") for name in ("files", "shards"))
    assert all(torch.equal(weights[name], other[name]) for name in weights)
