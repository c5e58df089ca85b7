"""Data sets in shards as they are opened: by folder, pattern or list; what is gone; their labels and classes."""

import io
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from pplfast.benchmarks.shard_files import write_shards
from pplfast.data.check import check_dataset
from pplfast.data.dataset import DataConfig, open_dataset
from pplfast.data.images import BadImage, inspect_image
from pplfast.data.shard_places import check_index, index_place, is_sharded
from pplfast.errors import UserError


def jpeg(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def sample(key: str, label: str = "cat", **members: bytes) -> tuple[str, dict[str, bytes]]:
    return key, {".jpg": jpeg(len(key)), ".txt": label.encode(), **members}


@pytest.fixture
def folder(tmp_path):
    """Three shards of two images each."""
    samples = [sample(f"a{n}", "cat" if n % 2 else "dog;cat") for n in range(6)]
    write_shards(str(tmp_path / "set"), samples, 2, "train")
    return tmp_path / "set"


def opened(root, **options):
    return open_dataset(DataConfig(str(root), **options))


def refused(root, **options) -> str:
    with pytest.raises(UserError) as raised:
        opened(root, **options)
    return str(raised.value)


def test_a_folder_a_pattern_and_a_list_name_shards(folder, tmp_path):
    whole = opened(folder)
    assert (whole.name, whole.classes.names) == ("set", ("cat", "dog"))
    assert whole.known_labels.tolist() == [[1, 1], [1, 0]] * 3
    part = opened(f"{folder}/train-{{000001..000002}}.tar")
    assert list(part.ids) == list(whole.ids[2:]) and opened(f"{folder}/*1.tar").ids[0] == "train-000001/a2"
    (tmp_path / "two.txt").write_text(f"# a remark\nset/train-000000.tar\n{folder}/train-000002.tar\n")
    both = opened(tmp_path / "two.txt")
    assert both.name == "two" and list(both.ids) == [*whole.ids[:2], *whole.ids[4:]]
    assert sorted(path.name.partition("-index")[0] for path in folder.glob("*.arrow")) == ["pplfast"] * 3
    assert len(list(tmp_path.glob("pplfast-index-two-txt-*.arrow"))) == 1


def test_folders_of_images_are_none_of_shards(folder, tmp_path):
    (tmp_path / "repository").mkdir()
    shutil.copytree(folder, tmp_path / "repository" / "data")
    (tmp_path / "repository" / "README.md").touch()
    assert len(opened(tmp_path / "repository")) == 6
    assert is_sharded(DataConfig(str(folder))) and is_sharded(DataConfig("s3://bucket/set"))
    (folder / "backup.jpg").write_bytes(jpeg())
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "old.tar").write_bytes(b"")
    assert not any(is_sharded(DataConfig(str(root))) for root in (folder, tmp_path / "photos", tmp_path / "none"))


def test_an_index_elsewhere(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", {**os.environ, "WORLD_SIZE": "2"})
    index = str(tmp_path / "elsewhere" / "set.arrow")
    config = DataConfig(str(folder), index=index)
    assert f"{index}: the shards have no index yet; make it once with `pplfast data index" in refused(
        folder, index=index
    )
    monkeypatch.setattr(os, "environ", {**os.environ, "WORLD_SIZE": "1"})
    with pytest.raises(UserError, match="no index yet"):
        check_index(config)
    assert len(open_dataset(config)) == 6 and not list(folder.glob("*.arrow")) and index_place(config) == index
    check_index(config)


def test_a_shard_that_is_gone_leaves_its_images(folder, capsys):
    ids = list(opened(folder).ids)
    (folder / "train-000001.tar").unlink()
    capsys.readouterr()
    left = opened(folder)
    assert list(left.ids) == ids
    assert capsys.readouterr().err == f"warning: {folder}/train-000001.tar: gone since the index was made\n"
    with pytest.raises(BadImage, match="no such file; restore it") as raised:
        inspect_image(left.images[2])
    assert raised.value.kind == "unreadable"
    report = check_dataset(left)
    assert [problem.id for problem in report.problems] == ids[2:4] and report.errors == 2
    assert len(opened(f"{folder}/train-{{000001..000002}}.tar", index=str(folder / "pplfast-index.arrow"))) == 4
    assert len(opened(f"{folder}/*.tar", index=str(folder / "pplfast-index.arrow"))) == 4


def test_a_pattern_knows_what_is_gone_by_its_own_index(folder, capsys):
    assert len(opened(f"{folder}/train-*.tar")) == 6
    (folder / "train-000001.tar").unlink()
    capsys.readouterr()
    assert len(opened(f"{folder}/train-*.tar")) == 6
    assert "train-000001.tar: gone since the index was made" in capsys.readouterr().err


def test_a_pattern_of_which_nothing_is_there(folder):
    assert f"{folder}/val-0.tar: no such file; give --data shards" in refused(f"{folder}/val-{{0..3}}.tar")
    assert f"{folder}/none.tar: no such file" in refused(folder / "none.tar")
    assert "holds no shards" in refused(f"{folder}/val-*.tar")
    assert "train-000003.tar: is not there; restore it, or leave its name out" in refused(
        f"{folder}/train-{{000000..000003}}.tar"
    )
    assert "{5..2} is empty" in refused(f"{folder}/train-{{5..2}}.tar")


def test_classes_of_places_and_of_names(tmp_path):
    write_shards(str(tmp_path / "set"), [sample("a", "2"), sample("b", "0;none"), sample("c", "")], 9)
    dataset = opened(tmp_path / "set")
    assert dataset.classes.names == ("0", "1", "2") and dataset.known_labels.tolist() == [[0, 0, 1], [1, 0, 0], [0] * 3]
    named = opened(tmp_path / "set", classes="cat=9,dog=4,cow=7")
    assert named.classes.ids == (9, 4, 7) and (named.known_labels == dataset.known_labels).all()
    (tmp_path / "set" / "classes.txt").write_text("x\ny\nz\n")
    assert opened(tmp_path / "set").classes.names == ("x", "y", "z")
    assert "unknown class '2'; known: cat, dog" in refused(tmp_path / "set", classes="cat,dog")


def test_a_key_in_two_shards_is_no_key_of_a_table(tmp_path):
    write_shards(str(tmp_path / "set"), [sample("k"), sample("k")], 1)
    (tmp_path / "labels.csv").write_text("image,labels\nk,cat\n")
    assert "'k' is in 2 shards; write the id, as 'images-000000/k'" in refused(
        tmp_path / "set", labels=str(tmp_path / "labels.csv")
    )


def test_labels_of_a_table(folder, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("image,labels\n" + "".join(f"a{n},{'dog' if n else ''}\n" for n in range(5)))
    assert "has no row for 'train-000002/a5'; add image,label;label" in refused(folder, labels=str(table))
    table.write_text(table.read_text() + "train-000002/a5,cat;dog\n")
    assert opened(folder, labels=str(table)).known_labels.tolist() == [[0, 0], *[[0, 1]] * 4, [1, 1]]
    assert opened(folder, labels="none").labels is None
    assert "in a .csv of key,label;label, or none" in refused(folder, labels="xml")


def test_a_list_of_images(tmp_path):
    for name in ("a.b.jpg", "c.jpg"):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(jpeg())
    (tmp_path / "crops.txt").write_text(f"photos/a.b.jpg\tcat;dog\n{tmp_path}/photos/c.jpg\tdog\nphotos/gone.jpg\t\n")
    dataset = opened(tmp_path / "crops.txt")
    assert list(dataset.ids) == ["crops-000000/a%2Eb", "crops-000000/c", "crops-000000/gone"]
    assert dataset.known_labels.tolist() == [[1, 1], [0, 1], [0, 0]] and dataset.classes.names == ("cat", "dog")
    assert str(dataset.images[0]) == f"{tmp_path}/photos/a.b.jpg" and inspect_image(dataset.images[0]).width == 16
    assert [problem.kind for problem in check_dataset(dataset).problems if problem.severity == "error"] == [
        "unreadable"
    ]
    (tmp_path / "crops.txt").write_text("photos/c.jpg\n")
    assert "has changed since it was made; make the index again" in refused(tmp_path / "crops.txt")


@pytest.mark.parametrize(
    "lines, reason",
    [
        ("a.tar\nb.jpg\n", "line 2: .*b.jpg' is no .tar or .parquet file"),
        ("a.jpg\nb.tar\n", "line 2: .*b.tar' is no image, as the first line"),
        ("x/a.jpg\tcat\nx/a.png\tcat\n", "lines 1 and 2: two images are called 'a'"),
        ("a.jpg\tcat\nb.jpg\n", "b.jpg: has no labels; write them into its line of the list, after a tab"),
        ("# nothing\n", "names nothing; write a path or URL"),
    ],
)
def test_lists_that_cannot_be(tmp_path, lines, reason):
    (tmp_path / "list.txt").write_text(lines)
    with pytest.raises(UserError, match=reason):
        opened(tmp_path / "list.txt")


def test_a_sample_is_spread_over_the_shards(folder):
    dataset = opened(folder)
    assert dataset.some(3) == [0, 2, 5] and dataset.some(99) == list(range(6))
    assert check_dataset(dataset.subset(dataset.some(3))).images == 3
