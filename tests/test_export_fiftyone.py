"""FiftyOne's data set on disk: its files, and what fiftyone itself loads where it has its database."""

import json

import numpy as np
import pytest
from export_objects import CLASSES, export, label_maps, write_labelled
from PIL import Image

from pplfast.data.stored import Member
from pplfast.export.fiftyone import FiftyOne
from pplfast.export.format import LabelledImage

TARGETS = dict(zip(CLASSES.ids, CLASSES.names, strict=True)) | {255: "unsure"}


def test_samples_name_the_images_in_place_and_their_masks(tmp_path):
    items, out = write_labelled(tmp_path), tmp_path / "out"
    export(FiftyOne, out, items)
    samples = json.loads((out / "samples.json").read_bytes())["samples"]
    assert [sample["filepath"] for sample in samples] == [str(item.image) for item in items]
    for sample, expected in zip(samples, label_maps().values(), strict=True):
        assert sample["labels"]["_cls"] == "Segmentation"
        with Image.open(out / sample["labels"]["mask_path"]) as mask:
            assert mask.mode == "L"
            np.testing.assert_array_equal(np.array(mask), expected)
    assert not (out / "data").exists()


def test_metadata_has_the_class_names_and_no_version(tmp_path):
    export(FiftyOne, tmp_path / "out", write_labelled(tmp_path))
    metadata = json.loads((tmp_path / "out" / "metadata.json").read_bytes())
    targets = metadata["info"]["default_mask_targets"]
    assert {int(value): name for value, name in targets.items()} == TARGETS
    assert "version" not in metadata and "sample_fields" not in metadata


def test_image_in_a_shard_becomes_a_file(tmp_path):
    [item, *_] = write_labelled(tmp_path)
    data = item.image.read_bytes()
    (tmp_path / "train.tar").write_bytes(b"x" * 512 + data)
    image = Member(str(tmp_path / "train.tar"), 0, "07.jpg", 512, len(data))
    export(FiftyOne, tmp_path / "out", [LabelledImage(0, "train/07", image, item.label)])
    [sample] = json.loads((tmp_path / "out" / "samples.json").read_bytes())["samples"]
    assert sample["filepath"] == "data/train/07.jpg"
    assert (tmp_path / "out" / "data" / "train" / "07.jpg").read_bytes() == data


@pytest.mark.slow
def test_fiftyone_loads_images_masks_and_class_names(tmp_path):
    fiftyone = pytest.importorskip("fiftyone")
    from fiftyone.core.config import FiftyOneConfigError

    items = write_labelled(tmp_path)
    export(FiftyOne, tmp_path / "out", items)
    try:
        dataset = fiftyone.Dataset.from_dir(str(tmp_path / "out"), dataset_type=fiftyone.types.FiftyOneDataset)
    except FiftyOneConfigError as error:
        pytest.skip(f"fiftyone has no database here: {error}")
    assert dataset.default_mask_targets == TARGETS
    for sample, item, expected in zip(dataset, items, label_maps().values(), strict=True):
        assert sample.filepath == str(item.image)
        np.testing.assert_array_equal(sample["labels"].get_mask(), expected)
