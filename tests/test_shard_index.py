"""The index of shards: what it takes from tars and Parquet files, what it refuses, and what it gives."""

import io
import json
import os
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pplfast.data import parquet_shards, shard_build, shard_rows, tar_shards
from pplfast.data.classes import ClassList, named_classes
from pplfast.data.shard_index import INDEX, Indexed, ShardIndex, build_index, open_index
from pplfast.data.shard_labels import label_columns, member_labels
from pplfast.data.shard_names import shard_names
from pplfast.data.shard_places import SUFFIXES
from pplfast.data.shard_rows import FIELDS, METADATA, check_key
from pplfast.data.stored import Cell, Member
from pplfast.errors import UserError
from pplfast.storage import Found, StorageError, find

CLASSES = named_classes(["cat", "dog"], "a test")


def write_tar(path: Path, *members: tuple[str, bytes], end: bool = True, **how) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **how) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        size = tar.offset
    if not end:
        os.truncate(path, size)
    return path


def write_parquet(path: Path, columns: dict, features: dict | None = None, group: int = 2) -> Path:
    """As `datasets` does: a struct for each image, what the columns mean in the metadata."""
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()} if features else None
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=group)
    return path


def cells(*images: tuple[bytes | None, str | None]) -> pa.Array:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": data, "path": path} for data, path in images], kind)


def shards_of(folder: Path) -> list[Found]:
    return sorted((shard for path in folder.rglob("*") for shard in found(path)), key=lambda shard: shard.path)


def found(path: Path) -> list[Found]:
    return find(str(path), SUFFIXES) if path.suffix in SUFFIXES else []


def index_of(folder: Path) -> ShardIndex:
    shards = shards_of(folder)
    build_index(shards, str(folder / INDEX))
    return open_index(folder / INDEX, shards)


def refused(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500, message
    return message


def refusal(call, *arguments) -> str:
    """ "" where there is none."""
    try:
        call(*arguments)
    except UserError as error:
        return str(error)
    return ""


def stored_labels(index: ShardIndex) -> list[list[str] | None]:
    return [text for batch in index._batches for text in batch.table.column("labels").to_pylist()]


# ---- tars


@pytest.fixture
def photos(tmp_path):
    """Two shards in the order of their names, of three and two images."""
    write_tar(
        tmp_path / "a-0.tar",
        ("x/one.cls", b"1"),
        ("x/one.jpg", b"first"),
        ("x/one.seg.png", b"mask of one"),
        ("two.PNG", b"second"),
        ("two.json", b'{"caption": "a", "label": ["dog", 0]}'),
        ("two.txt", b"not this"),
        ("only.txt", b"a sample without an image"),
        ("three.webp", b"third"),
        ("three.txt", b"cat; dog\r\nbackground\n"),
    )
    write_tar(tmp_path / "a-1.tar", ("one.tif", b"fourth"), ("one.cls", b""), ("five.jpg", b"fifth"))
    return tmp_path


def test_tar_members_become_images_masks_and_labels(photos):
    index = index_of(photos)
    assert list(index.ids) == ["a-0/x/one", "a-0/two", "a-0/three", "a-1/one", "a-1/five"]
    assert list(index.keys) == ["x/one", "two", "three", "one", "five"]
    assert [image.read() for image in index.images] == [b"first", b"second", b"third", b"fourth", b"fifth"]
    assert [image.name for image in index.images][:2] == ["x/one.jpg", "two.PNG"]
    assert str(index.images[0]) == f"{photos}/a-0.tar/x/one.jpg"
    assert [mask and (mask.name, mask.read()) for mask in index.masks] == [("x/one.seg.png", b"mask of one")] + 4 * [
        None
    ]
    assert index.has_masks and index.stated_classes is None
    assert stored_labels(index) == [["1"], ["dog", "0"], ["cat", "dog", "background"], [], None]
    assert index.bounds.tolist() == [0, 3, 5] and index.shard_of.tolist() == [0, 0, 0, 1, 1]
    assert index.bounds.dtype == np.int64 and index.shard_of.dtype == np.int32


def test_sequences_are_as_lists_are(photos):
    index = index_of(photos)
    for sequence in (index.ids, index.keys, index.images, index.masks):
        whole = list(sequence)
        assert len(sequence) == len(index) == 5
        assert [sequence[place] for place in range(5)] == whole and sequence[-1] == whole[-1]
        assert sequence[1:4] == tuple(whole[1:4]) and whole[2] in sequence
        with pytest.raises(IndexError):
            sequence[5]
        assert hash(sequence) == hash(sequence)


def test_counts_and_progress(photos):
    calls = []
    made = build_index(shards_of(photos), str(photos / INDEX), lambda *numbers: calls.append(numbers))
    assert made == Indexed(images=5, without_image=1)
    assert calls == [(1, 2, 3), (2, 2, 5)]


def test_places_are_those_that_tarfile_gives(photos):
    index = index_of(photos)
    with tarfile.open(photos / "a-0.tar") as tar:
        member = tar.getmember("two.PNG")
    image = index.images[1]
    assert isinstance(image, Member)
    assert (image.offset, image.size) == (member.offset_data, member.size)
    assert image.stamp == os.stat(photos / "a-0.tar").st_mtime_ns


def test_shards_that_webdataset_writes(tmp_path):
    wds = pytest.importorskip("webdataset")
    with wds.ShardWriter(str(tmp_path / "w-%02d.tar"), maxcount=4, verbose=0) as writer:
        for number in range(10):
            writer.write({"__key__": f"{number:04d}", "jpg": bytes([number] * 9), "cls": number % 2, "seg.png": b"m"})
    index = index_of(tmp_path)
    read = wds.WebDataset([str(path) for path in sorted(tmp_path.glob("*.tar"))], shardshuffle=False)
    assert [(sample["__key__"], sample["jpg"], sample["seg.png"]) for sample in read] == [
        (key, image.read(), mask.read()) for key, image, mask in zip(index.keys, index.images, index.masks)
    ]
    assert index.labels(CLASSES).tolist() == [[1, 0], [0, 1]] * 5


@pytest.mark.parametrize("how", ({"format": tarfile.GNU_FORMAT}, {"format": tarfile.PAX_FORMAT}))
def test_long_and_foreign_names(tmp_path, how):
    name = "folder/" + "é" * 100 + "/picture"
    write_tar(tmp_path / "a.tar", (f"{name}.jpg", b"data"), **how)
    index = index_of(tmp_path)
    assert index.keys[0] == name and index.images[0].read() == b"data"


def test_a_leading_dot_is_webdatasets_key_and_not_in_the_id(tmp_path):
    write_tar(tmp_path / "a.tar", ("./b/c.jpg", b"1"))
    index = index_of(tmp_path)
    assert (index.keys[0], index.ids[0]) == ("./b/c", "a/b/c")


def test_what_macos_adds_and_folders_are_no_samples(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        folder = tarfile.TarInfo("d.jpg")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name in ("._a.jpg", "d/a.jpg"):
            tar.addfile(tarfile.TarInfo(name))
    assert list(index_of(tmp_path).ids) == ["a/d/a"]


@pytest.mark.parametrize(
    "members, words",
    (
        ([("/etc/a.jpg", b"")], "relative path"),
        ([("../a.jpg", b"")], "leaves the data folder"),
        ([("a/../../b.jpg", b"")], "leaves the data folder"),
        ([("a//b.jpg", b"")], "no plain relative path"),
        ([("a/./b.jpg", b"")], "no plain relative path"),
        ([("a.jpg", b""), ("b.jpg", b""), ("a.png", b"")], "key 'a' occurs again"),
        ([("a.jpg", b""), ("b.jpg", b""), ("./a.jpg", b"")], "key './a' occurs again"),
        ([("a.jpg", b""), ("a.png", b"")], "has the images .jpg and .png"),
        ([("a.jpg", b""), ("a.JPG", b"")], "is there twice"),
        ([("a.txt", b"cat")], "no shard holds an image"),
        ([("a.jpg", b""), ("a.json", b"{")], "a.json: not valid JSON"),
        ([("a.jpg", b""), ("a.json", b'{"label": {"b": 1}}')], "a.json: labels are"),
        ([("a.jpg", b""), ("a.cls", b"\xff\xfe")], "a.cls: not a text in UTF-8"),
        ([("a.jpg", b""), ("a.cls", b"1" * (2**20 + 1))], "a.cls: larger than"),
    ),
)
def test_refused_members(tmp_path, members, words):
    path = write_tar(tmp_path / "a.tar", *members)
    message = refused(build_index, shards_of(tmp_path), str(tmp_path / INDEX))
    assert str(path) in message and words in message
    assert not list(tmp_path.glob("*.arrow")) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("kind", (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE))
def test_links_and_devices_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member = tarfile.TarInfo("a.jpg")
        member.type, member.linkname = kind, "b.jpg"
        tar.addfile(member)
    assert "'a.jpg' is a link" in refused(build_index, shards_of(tmp_path), str(tmp_path / INDEX))


def test_a_name_that_is_not_utf_8(tmp_path):
    write_tar(tmp_path / "a.tar", ("\udcff.jpg", b""))
    assert "not in UTF-8" in refused(build_index, shards_of(tmp_path), str(tmp_path / INDEX))


@pytest.mark.parametrize("mode, words", (("w:gz", "gzip"), ("w:bz2", "bzip2"), ("w:xz", "xz")))
def test_a_compressed_tar_is_named_as_such(tmp_path, mode, words):
    with tarfile.open(tmp_path / "a.tar", mode) as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
    message = refused(build_index, shards_of(tmp_path), str(tmp_path / INDEX))
    assert f"compressed ({words})" in message and "decompress it" in message


PAIR = (("a.jpg", b"1" * 700), ("b.jpg", b"2" * 700))  # each a header and two blocks


@pytest.mark.parametrize(
    "harm, words",
    (
        (lambda data: data[: 512 * 2], "ends within 'a.jpg'"),
        (lambda data: data[: 512 * 3 + 100], ""),  # within the header of b
        (lambda data: data[: 512 * 6], "has no end mark"),
        (lambda data: data[: 512 * 3] + b"\xff" * 512 + data[512 * 4 :], "damaged at byte 1536"),
        (lambda data: data[: 512 * 3] + bytes(512) + data[512 * 4 :], "damaged at byte 1536"),
        (lambda data: data + data, "several tars in one"),
        (lambda data: b"", "cannot be read as a tar"),
        (lambda data: b"no tar" * 1000, "cannot be read as a tar"),
    ),
)
def test_a_damaged_tar_is_never_taken_for_a_shorter_one(tmp_path, harm, words):
    path = write_tar(tmp_path / "a.tar", *PAIR)
    path.write_bytes(harm(path.read_bytes()))
    message = refused(build_index, shards_of(tmp_path), str(tmp_path / INDEX))
    assert str(path) in message and words in message and not (tmp_path / INDEX).exists()


def test_a_header_that_claims_much_memory(tmp_path):
    path = write_tar(tmp_path / "a.tar", ("a" * 3_000_000 + ".jpg", b""), format=tarfile.GNU_FORMAT)
    assert path.stat().st_size > 3_000_000
    assert "a header of more than" in refused(build_index, shards_of(tmp_path), str(tmp_path / INDEX))


def test_one_byte_changed_anywhere_is_an_index_or_a_user_error(tmp_path):
    path = write_tar(tmp_path / "a.tar", *PAIR, ("b.json", b'{"label": "cat"}'))
    data, random = path.read_bytes(), np.random.default_rng(0)
    for place in random.integers(0, len(data), 100).tolist():
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :])
        message = refusal(build_index, shards_of(tmp_path), str(tmp_path / INDEX))
        assert not message or str(path) in message


def test_a_shard_that_is_gone_is_named(tmp_path):
    path = write_tar(tmp_path / "a.tar", *PAIR)
    shards = shards_of(tmp_path)
    path.unlink()
    assert str(path) in refused(build_index, shards, str(tmp_path / INDEX))


# ---- labels


@pytest.mark.parametrize(
    "members, expected",
    (
        ({}, None),
        ({".cls": b"3"}, ["3"]),
        ({".cls": b" 3\n"}, ["3"]),
        ({".cls": b"cat;dog,\ncat"}, ["cat", "dog"]),
        ({".txt": b"\xef\xbb\xbfbig cat\n"}, ["big cat"]),
        ({".txt": b""}, []),
        ({".json": b"7"}, ["7"]),
        ({".json": b'"cat, dog"'}, ["cat, dog"]),
        ({".json": b'["cat", 2]'}, ["cat", "2"]),
        ({".json": b'{"categories": []}', ".cls": b"1"}, []),
        ({".json": b'{"cls": 1, "labels": ["a"]}'}, ["a"]),
        ({".json": b'{"width": 3}', ".cls": b"1", ".txt": b"x"}, ["1"]),
        ({".json": b'{"label": null}', ".txt": b"x"}, ["x"]),
        ({".cls": b"1", ".txt": None}, ["1"]),
    ),
)
def test_member_labels(members, expected):
    assert member_labels(members, "sample") == expected


@pytest.mark.parametrize("data", (b"{1}", b"1.5", b"true", b'{"label": [["a"]]}', b"[" * 10_000, b"\xff"))
def test_malformed_labels_name_the_member(data):
    assert "where/key.json: " in refused(member_labels, {".json": data}, "where/key")


def test_label_columns_are_names_then_places():
    assert label_columns(["dog", "0", "1", "2", "None", "bird"], CLASSES, None).tolist() == [1, 0, 1, -2, -1, -2]
    assert label_columns(["0", "2", "3"], CLASSES, ["dog", "cat", "background"]).tolist() == [1, -1, -2]
    digits = named_classes(["3", "5"], "a test")
    assert label_columns(["3", "0", "5"], digits, None).tolist() == [0, 0, 1]


def test_label_matrix(photos):
    (photos / "a-1.tar").unlink()
    index = index_of(photos)
    labels = index.labels(CLASSES)
    assert labels.dtype == np.uint8 and labels.tolist() == [[0, 1], [1, 1], [1, 1]]
    assert index.label_names() == ["0", "1", "background", "cat", "dog"]


def test_images_without_labels_are_named_or_have_no_class(photos):
    index = index_of(photos)
    assert "a-1.tar/five.jpg: has no labels" in refused(index.labels, CLASSES)
    assert index.labels(CLASSES, unlabelled=True)[3:].tolist() == [[0, 0], [0, 0]]


def test_the_first_image_with_another_label_is_named(tmp_path):
    write_tar(tmp_path / "a.tar", *((f"{n}.{suffix}", b"%d" % n) for n in range(4) for suffix in ("jpg", "cls")))
    message = refused(index_of(tmp_path).labels, CLASSES)
    assert "a.tar/2.jpg: unknown class '2'; known: cat, dog" in message


# ---- Parquet


FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["dog", "cat"], "_type": "ClassLabel"}}


def test_parquet_as_hugging_face_has_it(tmp_path):
    images = cells((b"first", "a.jpg"), (b"second", "b.png"), (None, None), (b"fourth", "d.jpg"), (b"fifth", "e"))
    write_parquet(tmp_path / "train-0.parquet", {"image": images, "label": [0, 1, 0, -1, 1]}, FEATURES)
    shards = shards_of(tmp_path)
    assert build_index(shards, str(tmp_path / INDEX)) == Indexed(images=4, without_image=1)
    index = open_index(tmp_path / INDEX, shards)
    assert [image.read() for image in index.images] == [b"first", b"second", b"fourth", b"fifth"]
    assert [image.name for image in index.images] == ["000000.jpg", "000001.png", "000003.jpg", "000004"]
    assert isinstance(index.images[2], Cell) and (index.images[2].row_group, index.images[2].row) == (1, 1)
    assert index.stated_classes == ("dog", "cat") and not index.has_masks and index.masks[0] is None
    assert stored_labels(index) == [["0"], ["1"], None, ["1"]]
    assert index.labels(CLASSES, unlabelled=True).tolist() == [[0, 1], [1, 0], [0, 0], [1, 0]]


@pytest.mark.parametrize(
    "column, values, expected",
    (
        ("__key__", ["k/1", "k/2"], ["k/1", "k/2"]),
        ("id", [12, 7], ["12", "7"]),
        ("image_id", ["x", "x"], ["a", "b"]),  # twice the same, so the paths
        ("file_name", ["p/a.v2.jpg", "p/b.jpg"], ["p/a_v2", "p/b"]),
        ("id", ["../../x", "y"], ["a", "b"]),  # leaves the folder, so the paths
        ("id", [None, 1], ["a", "b"]),
        ("other", [1, 2], ["a", "b"]),
    ),
)
def test_keys_of_parquet(tmp_path, column, values, expected):
    write_parquet(tmp_path / "a.parquet", {"image": cells((b"1", "/home/x/a.jpg"), (b"2", "b.jpg")), column: values})
    assert list(index_of(tmp_path).keys) == expected


@pytest.mark.parametrize(
    "columns, features, expected, classes",
    (
        ({"labels": [["cat"], []]}, None, [["cat"], []], None),
        ({"category": ["cat", None]}, None, [["cat"], None], None),
        (
            {"labels": [[0, 1], [1]]},
            {"labels": {"feature": {"names": ["x", "y"], "_type": "ClassLabel"}, "_type": "Sequence"}},
            [["0", "1"], ["1"]],
            ("x", "y"),
        ),
        (
            {"objects": [{"category": [1, 1], "bbox": [[0.5], [1.0]]}, {"category": [], "bbox": []}]},
            {"objects": {"feature": {"category": {"names": ["x", "y"], "_type": "ClassLabel"}}, "_type": "Sequence"}},
            [["1"], []],
            ("x", "y"),
        ),
        (
            {"objects": [[{"label": "cat"}, {"label": "dog"}], []]},
            {"objects": [{"label": {"dtype": "string", "_type": "Value"}}]},
            [["cat", "dog"], []],
            None,
        ),
        ({"width": [1, 2]}, None, [None, None], None),
    ),
)
def test_labels_of_parquet(tmp_path, columns, features, expected, classes):
    write_parquet(tmp_path / "a.parquet", {"image": cells((b"1", "a.jpg"), (b"2", "b.jpg")), **columns}, features)
    index = index_of(tmp_path)
    assert stored_labels(index) == expected and index.stated_classes == classes


def test_masks_of_parquet_and_a_row_without(tmp_path):
    masks = cells((b"m1", None), (None, None), (b"m3", None))
    features = {"img": {"_type": "Image"}, "label": {"_type": "Image"}}
    columns = {"label": masks, "img": cells((b"1", "a.jpg"), (b"2", "b.jpg"), (b"3", "c.jpg")), "class": [0, 1, 1]}
    write_parquet(tmp_path / "a.parquet", columns, features)
    index = index_of(tmp_path)
    assert [image.read() for image in index.images] == [b"1", b"2", b"3"]
    assert [mask and mask.read() for mask in index.masks] == [b"m1", None, b"m3"]
    assert index.has_masks and index.labels(CLASSES).tolist() == [[1, 0], [0, 1], [0, 1]]


def test_a_binary_column_is_an_image_by_its_name(tmp_path):
    write_parquet(tmp_path / "a.parquet", {"thumb": [b"x"], "jpg": [b"data"]})
    image = index_of(tmp_path).images[0]
    assert isinstance(image, Cell) and image.column == "jpg" and image.read() == b"data"


@pytest.mark.parametrize(
    "columns, words",
    (
        ({"image": cells((None, "a.jpg"), (None, "b.jpg"))}, "paths of its images alone"),
        ({"picture": ["a.jpg", "b.jpg"]}, "no column of image bytes"),
        ({"image": cells((b"1", "a"), (b"2", "b")), "label": [1.5, 2.5]}, "row 0: labels are"),
    ),
)
def test_refused_parquet(tmp_path, columns, words):
    path = write_parquet(tmp_path / "a.parquet", columns)
    message = refused(build_index, shards_of(tmp_path), str(tmp_path / INDEX))
    assert str(path) in message and words in message


def test_damaged_parquet_and_other_columns_are_named(tmp_path):
    write_parquet(tmp_path / "a.parquet", {"image": cells((b"1", "a.jpg"))})
    path = write_parquet(tmp_path / "b.parquet", {"img": cells((b"1", "a.jpg"))})
    message = refused(build_index, shards_of(tmp_path), str(tmp_path / INDEX))
    assert str(path) in message and "has the columns img, and the first shard image" in message
    path.write_bytes(path.read_bytes()[:-50])
    message = refused(build_index, shards_of(tmp_path), str(tmp_path / INDEX))
    assert f"{path}: cannot be read as Parquet" in message


@pytest.mark.parametrize("kind", SUFFIXES)
def test_image_bytes_are_not_read(tmp_path, monkeypatch, kind):
    images = [(os.urandom(2**17), f"{n}.jpg") for n in range(32)]
    if kind == ".tar":
        write_tar(tmp_path / "a.tar", *((name, data) for data, name in images))
    else:
        write_parquet(tmp_path / "a.parquet", {"image": cells(*images)})
    read = []

    class Counted(io.FileIO):
        def readinto(self, buffer):
            read.append(count := super().readinto(buffer))
            return count

    for module in (parquet_shards, tar_shards):
        monkeypatch.setattr(module, "raw_shard", lambda shard: Counted(shard.path))
    build_index(shards := shards_of(tmp_path), str(tmp_path / INDEX))
    assert sum(read) < 2**20 < 2**22 < shards[0].size


# ---- the file


def test_names_of_shards():
    assert shard_names(["a.tar", "b/c.tar"]) == ["a", "c"]
    assert shard_names(["train/0.tar", "val/0.tar", "val/1.tar"]) == ["train/0", "val/0", "1"]
    assert shard_names(["s3://x/0.tar", "s3://y/0.tar"]) == ["x/0", "y/0"]
    assert shard_names(["/x/0.tar", "/y/0.tar"]) == ["x/0", "y/0"]
    assert "folder with the name of the shard" in refused(
        shard_names, ["a/b.tar", "b.tar", "b/c/b.tar", "c.tar", "b/c.tar"]
    )
    assert "a shard is there twice" in refused(shard_names, ["a.tar", "a.tar"])


def test_shards_of_two_kinds_or_none_are_refused(tmp_path):
    kinds = [Found("a.tar", 1, 1), Found("b.parquet", 1, 1)]
    assert "b.parquet: is no .tar as a.tar" in refused(build_index, kinds, str(tmp_path / INDEX))
    assert "a.zip: is no .tar or .parquet" in refused(build_index, [Found("a.zip", 1, 1)], str(tmp_path / INDEX))
    assert "no shards" in refused(build_index, [], str(tmp_path / INDEX))


def test_shards_with_equal_names_have_their_folder_in_the_ids(tmp_path):
    for folder in ("train", "val"):
        write_tar(tmp_path / folder / "0.tar", ("a.jpg", b"1"))
    index = index_of(tmp_path)
    assert list(index.ids) == ["train/0/a", "val/0/a"] and index.shards[1].path == f"{tmp_path}/val/0.tar"


def test_an_index_is_of_the_shards_as_they_are(photos):
    first = index_of(photos)
    shards, file = shards_of(photos), photos / INDEX
    assert open_index(file, shards[::-1]).shards == first.shards == open_index(file, None).shards
    without = open_index(file, shards[:1])  # that its images are gone shows when they are read
    assert without.shards == first.shards and list(without.ids) == list(first.ids) and without.digest == first.digest
    new = write_tar(photos / "b.tar", ("a.jpg", b""))
    assert f"{new} is not in it; make the index again" in refused(open_index, file, shards_of(photos))
    new.unlink()
    os.utime(photos / "a-0.tar", ns=(1, 1))
    assert f"{photos}/a-0.tar has changed" in refused(open_index, file, shards_of(photos))
    assert index_of(photos).digest == first.digest  # its content is the same


def test_an_index_may_move_with_its_shards(photos, tmp_path_factory):
    first = index_of(photos)
    moved = tmp_path_factory.mktemp("moved") / "set"
    photos.rename(moved)
    index = open_index(moved / INDEX, shards_of(moved))
    assert index.digest == first.digest and index.images[0].read() == b"first"
    assert index.images[0].file == f"{moved}/a-0.tar"


def test_the_digest_changes_with_a_label(photos):
    first = index_of(photos).digest
    write_tar(photos / "a-1.tar", ("one.tif", b"fourth"), ("one.cls", b"1"), ("five.jpg", b"fifth"))
    assert index_of(photos).digest != first


def test_a_shard_without_images_keeps_its_place(tmp_path):
    write_tar(tmp_path / "a.tar", ("a.txt", b"1"))
    write_tar(tmp_path / "b.tar", ("b.jpg", b"1"))
    write_tar(tmp_path / "c.tar")
    index = index_of(tmp_path)
    assert index.bounds.tolist() == [0, 0, 1, 1] and index.shard_of.tolist() == [1] and list(index.ids) == ["b/b"]


def test_a_shard_of_several_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_rows, "BATCH_ROWS", 3)
    write_tar(tmp_path / "a.tar", *((f"{n}.{suffix}", b"%d" % n) for n in range(8) for suffix in ("jpg", "cls")))
    index = index_of(tmp_path)
    assert [image.read() for image in index.images] == [b"%d" % n for n in range(8)] and index.bounds.tolist() == [0, 8]
    assert [index.keys[place] for place in (7, 2, 3)] == ["7", "2", "3"]
    assert index.labels(named_classes([f"c{n}" for n in range(8)], "")).argmax(1).tolist() == list(range(8))


def test_units_are_shards_or_row_groups(photos, tmp_path):
    index = index_of(photos)
    assert index.units(None)[0].tolist() == [0, 0, 0, 1, 1] and index.units(np.array([0, 4]))[0].tolist() == [0, 1]
    assert index.some(2, None) == [0, 4] and index.some(9, np.array([1, 3])) == [0, 1]
    folder = tmp_path / "parquet"
    folder.mkdir()
    for name in "ab":
        write_parquet(folder / f"{name}.parquet", {"image": cells(*((b"1", f"{n}.jpg") for n in range(5)))})
    index = index_of(folder)
    units, window = index.units(None)
    assert units.tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 4, 5] and window == 2


def test_shards_and_index_in_a_store(photos):
    memory = fsspec.filesystem("memory")
    local = index_of(photos)
    for path in photos.glob("*.tar"):
        memory.pipe_file(f"/set/{path.name}", path.read_bytes())
    shards = find("memory://set", SUFFIXES)
    assert [shard.path for shard in shards] == ["memory:///set/a-0.tar", "memory:///set/a-1.tar"]
    build_index(shards, f"memory://set/{INDEX}")
    (photos / "copy.arrow").write_bytes(memory.cat_file(f"/set/{INDEX}"))
    index = open_index(photos / "copy.arrow", shards)
    assert index.is_remote and not local.is_remote and index.digest == local.digest
    assert [image.read() for image in index.images] == [image.read() for image in local.images]
    memory.rm_file("/set/a-1.tar")
    message = refused(build_index, shards, f"memory://set/{INDEX}")
    assert "/set/a-1.tar: cannot be read as a tar (no such file" in message
    memory.rm("/set", recursive=True)


def changed(file: Path, **said) -> None:
    """The same rows with other metadata."""
    reader = pa.ipc.open_file(file.read_bytes())
    metadata = json.loads(reader.schema.metadata[METADATA]) | said
    with pa.ipc.new_file(str(file), pa.schema(FIELDS, {METADATA: json.dumps(metadata)})) as writer:
        for place in range(reader.num_record_batches):
            writer.write_batch(reader.get_batch(place))


def with_rows(file: Path, *rows: tuple) -> None:
    """The same metadata with other rows."""
    schema = pa.ipc.open_file(file.read_bytes()).schema
    columns = [pa.array(column, kind) for column, (_, kind) in zip(zip(*rows, strict=True), FIELDS, strict=True)]
    with pa.ipc.new_file(str(file), schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


@pytest.mark.parametrize(
    "said, words",
    (
        ({"version": 2}, "is of version 2, and this pplfast reads 1"),
        ({"kind": ".zip"}, "no index's"),
        ({"classes": [1]}, "no index's"),
        ({"shards": []}, "names no shards"),
        ({"shards": [["a-0.tar", "a-0", "large", 1]]}, "a shard is no path"),
        ({"shards": [["../../etc/passwd", "a-0", 10_000, 1], ["b", "b", 10_000, 1]]}, "leaves the data folder"),
        ({"shards": [["a-0.tar", "../x", 10_000, 1], ["b", "b", 10_000, 1]]}, "leaves the data folder"),
        ({"shards": [["a-0.tar", "a", 10_000, 1]]}, "rows are not those of its shards"),
        ({"shards": [["a-0.tar", "a", 100, 1], ["b", "b", 10_000, 1]]}, "behind the end of its shard"),
    ),
)
def test_an_index_from_a_stranger(photos, said, words):
    index_of(photos)
    changed(photos / INDEX, **said)
    message = refused(open_index, photos / INDEX, None)
    assert words in message and str(photos / INDEX) in message


@pytest.mark.parametrize(
    "row, words",
    (
        ((0, "../a", ".jpg", 512, 1, -1, -1, []), "no image's name"),
        ((0, "/a", ".jpg", 512, 1, -1, -1, []), "no image's name"),
        ((0, "b", ".jpg", 512, 1, -1, -1, []), "there twice"),
        ((0, "a", "/x", 512, 1, -1, -1, []), "no image's name"),
        ((0, "a", ".jpg", -512, 1, -1, -1, []), "before its shard"),
        ((0, "a", ".jpg", 2**63 - 1, 2**62, -1, -1, []), "behind the end"),
        ((0, "a", ".jpg", 512, 1, 512, -1, []), "before its shard"),
        ((0, "a", ".jpg", 512, 1, 512, 2**40, []), "behind the end"),
        ((0, "a", ".jpg", 512, None, -1, -1, []), "a value is missing"),
        ((0, "a", ".jpg", 512, 1, -1, -1, [None]), "a value is missing"),
        ((1, "a", ".jpg", 512, 1, -1, -1, []), "rows are not those of its shards"),
        ((9, "a", ".jpg", 512, 1, -1, -1, []), "rows are not those of its shards"),
    ),
)
def test_rows_from_a_stranger(photos, row, words):
    index_of(photos)
    with_rows(photos / INDEX, (0, "b", ".jpg", 512, 1, -1, -1, ["cat"]), row)
    assert words in refused(open_index, photos / INDEX, None)


def test_a_damaged_index_is_refused_or_has_another_digest(photos):
    first = index_of(photos)
    file, random = photos / INDEX, np.random.default_rng(0)
    data = file.read_bytes()
    for place in random.integers(0, len(data), 150).tolist():
        file.write_bytes(data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :])
        if message := refusal(open_index, file, None):
            assert str(file) in message
            continue
        index = open_index(file, None)
        assert index.digest != first.digest or (list(index.ids), stored_labels(index)) == (
            list(first.ids), stored_labels(first),
        )  # fmt: skip
    for length in (0, 3, 100, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:length])
        assert "make the index again" in refused(open_index, file, None)


def test_no_index(tmp_path):
    assert "no such file" in refused(open_index, tmp_path / INDEX, None)
    (tmp_path / INDEX).mkdir()
    assert "no index of shards" in refused(open_index, tmp_path / INDEX, None)


def test_a_row_behind_the_end_of_a_row_group(tmp_path):
    write_parquet(tmp_path / "a.parquet", {"image": cells((b"1", "a.jpg"))})
    index_of(tmp_path)
    with_rows(tmp_path / INDEX, (0, "b", ".jpg", 0, 7, -1, -1, []), (0, "c", ".jpg", 7, 0, -1, -1, []))
    index = open_index(tmp_path / INDEX, None)
    for image in index.images:
        with pytest.raises(StorageError):
            image.read()


def test_columns_are_of_the_class_list_not_of_values_in_masks(tmp_path):
    write_tar(tmp_path / "a.tar", ("a.jpg", b"1"), ("a.txt", b"dog"))
    classes = ClassList(("dog", "cow"), (7, 9))
    assert index_of(tmp_path).labels(classes).tolist() == [[1, 0]]


def test_keys_that_are_names():
    for key in ("a", "./a", "a/b", "é", "a b"):
        check_key(key, ".jpg", "here")


@pytest.mark.slow
def test_processes_write_what_this_process_writes(tmp_path, monkeypatch):
    for number in range(12):
        write_tar(tmp_path / f"{number:02d}.tar", *((f"{n}.{s}", b"%d" % n) for n in range(50) for s in ("jpg", "cls")))
    shards, file = shards_of(tmp_path), tmp_path / INDEX
    build_index(shards, str(file))
    alone = file.read_bytes()
    monkeypatch.setattr(shard_build, "default_jobs", lambda: 2)
    monkeypatch.setattr(shard_build, "IN_THIS_PROCESS", 0)
    build_index(shards, str(file))
    assert file.read_bytes() == alone
    (tmp_path / "05.tar").write_bytes(b"no tar")
    assert "05.tar: cannot be read as a tar" in refused(build_index, shards, str(tmp_path / "other.arrow"))
    assert not (tmp_path / "other.arrow").exists()
