"""Shards for tests and benchmarks: what tarfile reads from them is what went in."""

import io
import tarfile

import numpy as np
from data_sets import make_voc
from PIL import Image

from pplfast.benchmarks import shard_files
from pplfast.data.dataset import DataConfig, open_dataset
from pplfast.storage import read_file


def test_pictures_repeat_and_are_the_same_for_a_seed():
    pictures = list(shard_files.tiny_jpegs(shard_files.DIFFERENT + 2))
    assert pictures[0] == ("0000000", pictures[shard_files.DIFFERENT][1]) and pictures[1][1] != pictures[0][1]
    assert list(shard_files.tiny_jpegs(5)) == pictures[:5]
    assert next(shard_files.tiny_jpegs(1, seed=1))[1] != pictures[0][1]
    assert {len(tiny.classes) for _, tiny in pictures} == {1, 2}
    assert {index for _, tiny in pictures for index in tiny.classes} == {0, 1, 2}


def test_a_class_has_its_colour_where_the_mask_says_so():
    for _, tiny in shard_files.tiny_jpegs(20, side=48):
        pixels = np.asarray(Image.open(io.BytesIO(tiny.jpeg))).astype(int)
        mask = np.asarray(Image.open(io.BytesIO(tiny.mask)))
        assert pixels.shape == (48, 48, 3) and mask.shape == (48, 48)
        assert set(np.unique(mask)) == {0, *(index + 1 for index in tiny.classes)}
        for index in tiny.classes:
            colour = np.median(pixels[mask == index + 1], axis=0)
            assert np.abs(colour - shard_files.COLOURS[index]).max() < 40
            assert (mask == index + 1).sum() > 30


def test_shards_have_all_samples_in_order_and_the_same_bytes(tmp_path):
    samples = list(shard_files.tiny_samples(25, masks=True))
    shards = shard_files.write_shards(str(tmp_path / "a"), samples, 10)
    assert [path.rpartition("/")[2] for path in shards] == [f"images-{number:06d}.tar" for number in range(3)]
    found = {}
    for shard in shards:
        with tarfile.open(shard) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}
            assert all(member.mtime == 0 for member in tar)
    assert list(found.items()) == [(f"{key}{suffix}", data) for key, parts in samples for suffix, data in parts.items()]
    again = shard_files.write_shards(str(tmp_path / "b"), samples, 10)
    assert [read_file(path) for path in again] == [read_file(path) for path in shards]


def test_a_data_set_of_files_as_shards(tmp_path):
    make_voc(tmp_path / "set", {"a.b": ("cat", "dog"), "c": ("dog",), "d": ()})
    for name in ("a.b", "d"):
        (tmp_path / f"set/SegmentationClass/{name}.png").unlink()
    dataset = open_dataset(DataConfig(str(tmp_path / "set"), "train", classes="cat=8,dog=12"))
    [shard] = shard_files.folder_to_shards(dataset, str(tmp_path / "shards"), 10, prefix="all")
    with tarfile.open(shard) as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar}
    assert list(found) == ["a%2Eb.jpg", "a%2Eb.cls", "c.jpg", "c.cls", "c.seg.png", "d.jpg", "d.cls"]
    assert (found["a%2Eb.cls"], found["c.cls"], found["d.cls"]) == (b"0,1", b"1", b"")
    assert found["c.jpg"] == dataset.images[1].read_bytes() and found["c.seg.png"] == dataset.masks[1].read_bytes()
    assert (tmp_path / "shards/classes.txt").read_text() == "cat=8\ndog=12\n"
