"""Parquet files for Hugging Face's datasets, read by pyarrow, and by datasets itself."""

import html
import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from export_objects import CLASSES, export, label_maps, write_labelled
from PIL import Image

from pplfast.data.stored import Member
from pplfast.errors import UserError
from pplfast.export import hugging_face
from pplfast.export.format import LabelledImage, Target
from pplfast.export.hugging_face import HuggingFace


def read_rows(out):
    return [row for file in sorted((out / "data").iterdir()) for row in pq.read_table(file).to_pylist()]


def pixels(data):
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.mode) == ("PNG", "L")
        return np.array(image)


def test_rows_hold_the_images_files_and_the_label_maps(tmp_path):
    items = write_labelled(tmp_path)
    export(HuggingFace, tmp_path / "out", items)
    rows = read_rows(tmp_path / "out")
    assert [row["id"] for row in rows] == list(label_maps())
    for row, item, expected in zip(rows, items, label_maps().values(), strict=True):
        assert row["image"] == {"bytes": item.image.read_bytes(), "path": f"{item.id}{item.image.suffix}"}
        np.testing.assert_array_equal(pixels(row["label"]["bytes"]), expected)


def test_image_in_a_shard_is_read_from_it(tmp_path):
    [item, *_] = write_labelled(tmp_path)
    data = item.image.read_bytes()
    (tmp_path / "train.tar").write_bytes(b"x" * 512 + data)
    image = Member(str(tmp_path / "train.tar"), 0, "07.jpg", 512, len(data))
    export(HuggingFace, tmp_path / "out", [LabelledImage(0, "train/07", image, item.label)])
    [row] = read_rows(tmp_path / "out")
    assert row["image"] == {"bytes": data, "path": "train/07.jpg"}


def test_row_groups_and_files_are_bounded(tmp_path, monkeypatch):
    items = write_labelled(tmp_path) * 3
    whole = sum(item.image.stat().st_size for item in items)
    monkeypatch.setattr(hugging_face, "GROUP_IMAGES", 2)
    monkeypatch.setattr(hugging_face, "LARGEST_FILE", whole // 2)
    export(HuggingFace, tmp_path / "out", items)
    files = sorted((tmp_path / "out" / "data").iterdir())
    assert [file.name for file in files] == [f"train-{number:05}.parquet" for number in range(len(files))]
    assert len(files) > 1
    groups = [pq.ParquetFile(file).metadata.row_group(0).num_rows for file in files]
    assert max(groups) == 2
    assert [row["id"] for row in read_rows(tmp_path / "out")] == [item.id for item in items]


def test_card_has_the_classes_and_leaves_the_licence(tmp_path):
    export(HuggingFace, tmp_path / "out", write_labelled(tmp_path))
    _, head, text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    said = yaml.safe_load(head)
    assert said["task_categories"] == ["image-segmentation"] and "license" not in said
    assert said["pretty_name"] == "photos/val"
    for value, name in zip(CLASSES.ids, CLASSES.names, strict=True):
        assert f"| {value} | {name} |" in html.unescape(text)
    assert "3 images" in text


def test_link_of_images_is_refused(tmp_path):
    with pytest.raises(UserError, match="--link-images"):
        HuggingFace(Target(tmp_path, CLASSES, "photos", link=True))


def test_features_are_in_the_schema(tmp_path):
    export(HuggingFace, tmp_path / "out", write_labelled(tmp_path))
    schema = pq.read_schema(tmp_path / "out" / "data" / "train-00000.parquet")
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == features["label"] == {"_type": "Image"}


def test_name_that_is_no_text_is_refused(tmp_path):
    [item, *_] = write_labelled(tmp_path)
    item = LabelledImage(0, b"caf\xe9".decode("utf-8", "surrogateescape"), item.image, item.label)
    with pytest.raises(UserError, match="not UTF-8"):
        HuggingFace(Target(tmp_path, CLASSES, "photos")).convert(item)


@pytest.mark.slow
def test_datasets_loads_images_and_labels(tmp_path):
    datasets = pytest.importorskip("datasets")
    items = write_labelled(tmp_path)
    export(HuggingFace, tmp_path / "out", items)
    for where in ({"path": str(tmp_path / "out")}, {"path": "parquet", "data_files": str(tmp_path / "out/data/*")}):
        found = datasets.load_dataset(**where, split="train", cache_dir=str(tmp_path / "cache"))
        assert {name: type(feature).__name__ for name, feature in found.features.items()} == {
            "id": "Value",
            "image": "Image",
            "label": "Image",
        }
        assert list(found["id"]) == list(label_maps())
        for row, item, expected in zip(found, items, label_maps().values(), strict=True):
            np.testing.assert_array_equal(np.array(row["label"]), expected)
            with Image.open(item.image) as image:
                np.testing.assert_array_equal(np.array(row["image"]), np.array(image))
