"""COCO's JSON, read by pycocotools."""

import json

import numpy as np
import pytest
from export_objects import CLASSES, export, label_maps, sure, write_labelled

from pplfast.export.coco import CocoPolygons, CocoRle, run_lengths
from pplfast.export.regions import Region

pytest.importorskip("cv2")
mask = pytest.importorskip("pycocotools.mask")
coco_file = pytest.importorskip("pycocotools.coco")


@pytest.fixture(params=[CocoRle, CocoPolygons])
def exported(request, tmp_path):
    """The format, and what pycocotools reads."""
    made = export(request.param, tmp_path / "out", write_labelled(tmp_path))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["instances.json"]
    return made, coco_file.COCO(str(tmp_path / "out" / "instances.json"))


def test_masks_of_all_annotations_are_the_label_maps(exported):
    _, coco = exported
    names = {f"{name}{'.JPG' if name.startswith('a b/one') else '.png'}": name for name in label_maps()}
    assert [image["file_name"] for image in coco.dataset["images"]] == list(names)
    for image in coco.dataset["images"]:
        expected = label_maps()[names[image["file_name"]]]
        assert (image["height"], image["width"]) == expected.shape
        found = np.zeros_like(expected)
        for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
            inside = coco.annToMask(annotation).astype(np.bool_)
            assert not found[inside].any()  # no pixel is of two
            found[inside] = annotation["category_id"]
        np.testing.assert_array_equal(found, sure(expected))


def test_box_and_area_are_those_of_the_mask(exported):
    _, coco = exported
    for annotation in coco.dataset["annotations"]:
        rows, columns = np.nonzero(coco.annToMask(annotation))
        assert annotation["area"] == len(rows) and annotation["iscrowd"] == 0
        x, y = int(columns.min()), int(rows.min())
        assert annotation["bbox"] == [x, y, columns.max() - x + 1, rows.max() - y + 1]


def test_categories_have_the_values_of_the_masks(exported):
    _, coco = exported
    assert {found["id"]: found["name"] for found in coco.dataset["categories"]} == dict(zip(CLASSES.ids, CLASSES.names))
    assert coco.dataset["info"]["description"] == "photos/val"


def test_annotations_are_numbered_from_one_and_counted(exported, tmp_path):
    made, coco = exported
    numbers = [annotation["id"] for annotation in coco.dataset["annotations"]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert sum(made.regions(made.convert(item)) for item in write_labelled(tmp_path)) == len(numbers)


def test_image_without_regions_is_kept(exported):
    _, coco = exported
    [number] = [image["id"] for image in coco.dataset["images"] if image["file_name"] == "a b/none.png"]
    assert coco.getAnnIds(number) == []


@pytest.mark.parametrize("shape", [(4, 6), (1, 9), (4, 1), (2, 3)])
def test_run_lengths_are_pycocotools_own(shape):
    numbers = np.random.default_rng(5)
    height, width = 4, 9
    for _ in range(100):
        own = numbers.random(shape) < 0.7
        x, y = int(numbers.integers(0, width - own.shape[1] + 1)), int(numbers.integers(0, height - own.shape[0] + 1))
        whole = np.zeros((height, width), np.uint8, order="F")
        whole[y : y + own.shape[0], x : x + own.shape[1]] = own
        counts = run_lengths(Region(x, y, own, int(own.sum())), height, width)
        mine = mask.frPyObjects({"counts": counts, "size": [height, width]}, height, width)
        np.testing.assert_array_equal(mask.decode(mine), whole)
        if own.any():
            assert mine["counts"] == mask.encode(whole)["counts"]


def test_name_that_is_no_text_keeps_its_bytes(tmp_path):
    [item, *_] = write_labelled(tmp_path)
    item = type(item)(0, b"caf\xe9".decode("utf-8", "surrogateescape"), item.image, item.label)
    export(CocoRle, tmp_path / "out", [item])
    [image] = json.loads((tmp_path / "out" / "instances.json").read_bytes())["images"]
    assert image["file_name"].encode("utf-8", "surrogateescape") == b"caf\xe9.JPG"
