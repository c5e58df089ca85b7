"""Label Studio's tasks: the brush by the format's bits and by Label Studio's SDK, polygons by pycocotools."""

import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import numpy as np
import pytest
from export_objects import CLASSES, export, label_maps, sure, write_labelled

from pplfast.data.stored import Member
from pplfast.export import label_studio
from pplfast.export.brush import encode_brush
from pplfast.export.format import LabelledImage
from pplfast.export.label_studio import LabelStudioBrush, LabelStudioPolygons, image_url

VALUES = dict(zip(CLASSES.names, CLASSES.ids, strict=True))


def read_tasks(out):
    return [task for file in sorted(out.glob("tasks-*.json")) for task in json.loads(file.read_bytes())]


def results_of(task):
    return [result for prediction in task["predictions"] for result in prediction["result"]]


def decoded(data):
    """The values of a brush's bytes, bit by bit, as the SDK's module describes them."""
    bits = "".join(f"{byte:08b}" for byte in data)
    place = 0

    def take(count):
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    count, size, lengths = take(32), take(5) + 1, [take(4) + 1 for _ in range(4)]
    values = []
    while len(values) < count:
        run = take(1)
        many = take(lengths[take(2)]) + 1
        values += [take(size)] * many if run else [take(size) for _ in range(many)]
    assert len(values) == count and len(bits) - place < 8
    return np.array(values, np.uint8)


def test_bits_of_a_single_pixel():
    head = f"{4:032b}" + f"{7:05b}" + f"{2:04b}{3:04b}{7:04b}{15:04b}"
    bits = head + "1" + "00" + f"{3:03b}" + "11111111"
    bits += "0" * (-len(bits) % 8)
    assert encode_brush(np.ones((1, 1), np.bool_)) == int(bits, 2).to_bytes(len(bits) // 8, "big")


@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.98, 1])
def test_brush_says_each_pixel_four_times(share):
    mask = np.random.default_rng(0).random((37, 53)) < share
    expected = np.repeat(np.where(mask, 255, 0), 4)
    np.testing.assert_array_equal(decoded(encode_brush(mask)), expected)


def test_brush_divides_runs_that_no_count_can_say():
    mask = np.zeros((130, 300), np.bool_)
    mask[70:124] = True  # 64800 values, after 84000
    mask[124, :184] = True  # 65536 in all
    np.testing.assert_array_equal(decoded(encode_brush(mask)), np.repeat(np.where(mask, 255, 0), 4))


def test_brush_results_are_the_label_maps(tmp_path):
    made = export(LabelStudioBrush, tmp_path / "out", write_labelled(tmp_path))
    assert made.regions(made.convert(write_labelled(tmp_path)[0])) is None  # a result is a class, not a region
    tasks = read_tasks(tmp_path / "out")
    assert [task["data"]["id"] for task in tasks] == list(label_maps())
    for task, expected in zip(tasks, label_maps().values(), strict=True):
        found = np.zeros_like(expected)
        for result in results_of(task):
            assert (result["original_height"], result["original_width"]) == expected.shape
            assert result["type"] == "brushlabels" and result["value"]["format"] == "rle"
            alpha = decoded(bytes(result["value"]["rle"])).reshape(*expected.shape, 4)[..., 3]
            [name] = result["value"]["brushlabels"]
            found[alpha == 255] = VALUES[name]
        np.testing.assert_array_equal(found, sure(expected))
        assert len(results_of(task)) == len(set(np.unique(expected).tolist()) - {0, 255})


def test_polygons_are_the_label_maps(tmp_path):
    pytest.importorskip("cv2")
    coco = pytest.importorskip("pycocotools.mask")
    made = export(LabelStudioPolygons, tmp_path / "out", write_labelled(tmp_path))
    count = 0
    for task, expected in zip(read_tasks(tmp_path / "out"), label_maps().values(), strict=True):
        found = np.zeros_like(expected)
        for result in results_of(task):
            points = np.array(result["value"]["points"]) / 100 * (result["original_width"], result["original_height"])
            [name] = result["value"]["polygonlabels"]
            assert result["type"] == "polygonlabels" and result["value"]["closed"] is True
            found[coco.decode(coco.frPyObjects([points.ravel().tolist()], *expected.shape))[..., 0] > 0] = VALUES[name]
            count += 1
        np.testing.assert_array_equal(found, sure(expected))
    assert sum(made.regions(made.convert(item)) for item in write_labelled(tmp_path)) == count


def test_interface_has_the_classes(tmp_path):
    export(LabelStudioBrush, tmp_path / "out", write_labelled(tmp_path))
    view = ElementTree.parse(tmp_path / "out" / "labels.xml").getroot()
    assert [label.get("value") for label in view.iter("Label")] == list(CLASSES.names)
    assert view.find("BrushLabels").get("toName") == view.find("Image").get("name") == "image"
    assert view.find("Image").get("value") == "$image"
    assert len({label.get("background") for label in view.iter("Label")}) == len(CLASSES)


def test_image_without_regions_has_no_prediction(tmp_path):
    export(LabelStudioBrush, tmp_path / "out", write_labelled(tmp_path))
    assert [bool(task["predictions"]) for task in read_tasks(tmp_path / "out")] == [True, False, True]


def test_url_names_the_image_below_the_root(tmp_path):
    [item, *_] = write_labelled(tmp_path)
    url = urlsplit(image_url(item))
    assert url.path == "/data/local-files/" and not url.fragment
    assert Path("/", *parse_qs(url.query)["d"]) == tmp_path / "images" / "a b" / "one #1.JPG"


def test_url_of_an_image_in_a_shard_is_its_id():
    image = Member("train.tar", 0, "00/07.png", 512, 100)
    url = urlsplit(image_url(LabelledImage(0, "train/00/07", image, image)))
    assert parse_qs(url.query)["d"] == ["train/00/07.png"]


def test_tasks_go_into_files_that_can_be_uploaded(tmp_path, monkeypatch):
    items = write_labelled(tmp_path)
    export(LabelStudioBrush, tmp_path / "whole", items)
    monkeypatch.setattr(label_studio, "LARGEST_FILE", 1000)
    export(LabelStudioBrush, tmp_path / "parts", items)
    files = sorted(path.name for path in (tmp_path / "parts").glob("tasks-*.json"))
    assert len(files) > 1 and files[0] == "tasks-0001.json"
    assert read_tasks(tmp_path / "parts") == read_tasks(tmp_path / "whole")


@pytest.mark.slow
def test_sdk_decodes_the_brush(tmp_path):
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    for share in (0, 0.1, 0.7, 1):
        mask = np.kron(np.random.default_rng(1).random((20, 30)) < share, np.ones((3, 8))) > 0
        found = brush.decode_rle(list(encode_brush(mask))).reshape(*mask.shape, 4)
        np.testing.assert_array_equal(found, np.repeat(np.where(mask, 255, 0), 4).reshape(found.shape))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [LabelStudioBrush, LabelStudioPolygons])
def test_sdk_takes_the_predictions_for_the_interface(kind, tmp_path):
    interface = pytest.importorskip("label_studio_sdk.label_interface")
    if kind is LabelStudioPolygons:
        pytest.importorskip("cv2")
    export(kind, tmp_path / "out", write_labelled(tmp_path))
    config = interface.LabelInterface((tmp_path / "out" / "labels.xml").read_text(encoding="utf-8"))
    config.validate()
    for task in read_tasks(tmp_path / "out"):
        assert config.validate_task({"data": task["data"]})
        for prediction in task["predictions"]:
            assert config.validate_prediction(prediction, return_errors=True) == []
