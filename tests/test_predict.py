"""New images to labels: what the words of a command line mean, the drawings, their page, and images in Python."""

import csv
import io
import os
from html.parser import HTMLParser
from pathlib import Path
from unittest import mock
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from jobs_small import CLASSES, OPTIONS, SmallSegmenter, images
from label_jobs import jpeg
from PIL import Image

import pplfast
from pplfast.benchmarks.shard_files import write_shards
from pplfast.data.classes import parse_classes
from pplfast.errors import UserError
from pplfast.jobs.record import check_record
from pplfast.labeller import CamLabeller, SegmentationLabeller
from pplfast.labels.overlay import LONGEST, display_palette, draw, labels_over
from pplfast.labels.segment import Segmenter, segment_images
from pplfast.prediction import folder as prediction_folder
from pplfast.prediction import page as prediction_page
from pplfast.prediction import single
from pplfast.prediction.folder import predict_images
from pplfast.prediction.network import find_segmentation
from pplfast.prediction.sources import open_images, sharded
from pplfast.recipe import OptimConfig, SegmentationConfig

pytestmark = pytest.mark.usefixtures("one_thread")
SEGMENT = SegmentationConfig(scales=(1.0,), crf="none", optim=OptimConfig(precision="fp32"))


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """tmp_path itself, which the words are relative to."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos/a.jpg", "photos/b.PNG", "photos/deep/c.tif", "other/a.jpg", "other/d.e.webp", "one two.bmp"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.new("RGB", (12, 9)).save(path)
    (tmp_path / "photos" / "notes.md").touch()
    return tmp_path


def opened(*words: str, out: str = "out"):
    return open_images(words, CLASSES, "full", out)


@pytest.mark.parametrize(
    "words, expected",
    [
        (["photos"], {"a": "photos/a.jpg", "b": "photos/b.PNG", "deep/c": "photos/deep/c.tif"}),
        (["one two.bmp", "other/d.e.webp"], {"one two": "one two.bmp", "d.e": "other/d.e.webp"}),
        (["photos/**/*.tif"], {"c": "photos/deep/c.tif"}),
        (["./photos/a.jpg", "photos/a.jpg", "one two.bmp"], {"a": "photos/a.jpg", "one two": "one two.bmp"}),
        (
            ["photos", "other"],
            {
                **{"photos/a": "photos/a.jpg", "b": "photos/b.PNG", "deep/c": "photos/deep/c.tif"},
                **{"other/a": "other/a.jpg", "d.e": "other/d.e.webp"},
            },
        ),
        (["other/a.jpg", "photos/a.jpg"], {"other/a": "other/a.jpg", "photos/a": "photos/a.jpg"}),
        (["list.txt"], {"c": "photos/deep/c.tif", "one two": "one two.bmp"}),
    ],
)
def test_files_folders_patterns_and_lists(photos, words, expected):
    (photos / "list.txt").write_text("# two\nphotos/deep/c.tif\n\none two.bmp\n")
    dataset = opened(*words)
    assert {id: os.path.relpath(image) for id, image in zip(dataset.ids, dataset.images)} == expected
    assert dataset.labels is None and dataset.classes == CLASSES and dataset.values is None


def test_of_a_folder_in_voc_layout_the_images_are_taken(photos):
    (photos / "voc" / "SegmentationClass").mkdir(parents=True)
    (photos / "photos").rename(photos / "voc" / "JPEGImages")
    Image.new("P", (12, 9)).save(photos / "voc" / "SegmentationClass" / "a.png")
    assert opened("voc").ids == ("a", "b", "deep/c")


@pytest.mark.parametrize(
    "words, out, message",
    [
        (["photo"], "out", "photo: no such file or folder; name an image, a folder of images, or a list"),
        (["photos/*.jpeg"], "out", r"photos/\*\.jpeg: matches no file; check the pattern"),
        (["empty"], "out", "empty: holds no image that is read; PNG, JPEG"),
        (["heic"], "out", r"heic: holds no image that is read \(x.heic: is not used; convert it to PNG or JPEG\)"),
        (["gone.txt"], "out", "gone.txt: no such list"),
        (["twice"], "out", r"twice/a.jpg and twice/a.png: both would be labelled as 'twice/a.png'; rename one"),
        (["photos"], "photos/labels", "--out photos/labels: lies among the data set's files in photos; give one"),
        (["photos/a.jpg"], "photos", "--out photos: a.jpg lies there, and the labels .*, like photos/labels"),
        (["s3://bucket/a.jpg"], "out", "s3://bucket/a.jpg: an image at a URL; name it in a .txt"),
        (["photos", "x-{00..09}.tar"], "out", r"x-\{00..09\}.tar: a data set in shards is named alone"),
    ],
)
def test_what_cannot_be_taken_is_named(photos, words, out, message):
    for folder, names in (("empty", ()), ("heic", ("x.heic",)), ("twice", ("a.jpg", "a.png"))):
        (photos / folder).mkdir()
        for name in names:
            (photos / folder / name).touch()
    with pytest.raises(UserError, match=message) as error:
        opened(*words, out=out)
    assert "\n" not in str(error.value)


def test_what_a_folder_holds_beside_its_images_is_said(photos, capsys):
    (photos / "photos" / "x.heic").touch()
    assert len(opened("photos")) == 3
    said = capsys.readouterr().err
    assert said.startswith("note: photos: 1 files or folders in it are not used (x.heic); ") and said.count("\n") == 1


def test_shards_are_a_data_set_alone(photos):
    write_shards(str(photos / "crops"), ((f"k{i}", {".jpg": jpeg(seed=i)}) for i in range(3)), 2)
    for place in ("crops", "crops/*.tar"):
        dataset = opened(place)
        assert len(dataset) == 3 and dataset.shards is not None and dataset.classes == CLASSES
    assert sharded(["photos"], CLASSES, "full") is None
    (photos / "urls.txt").write_text("s3://bucket/a.jpg\ns3://bucket/b.jpg\n")
    assert sharded(["urls.txt"], CLASSES, "full").root == "urls.txt"  # in a store: in shards, as of any data set


def test_a_run_with_a_classifier_alone_says_what_to_do(tmp_path):
    (tmp_path / "ppl" / "train").mkdir(parents=True)
    (tmp_path / "ppl" / "train" / "classifier.json").write_text("{}")
    for path in (tmp_path, tmp_path / "ppl" / "train"):
        with pytest.raises(
            UserError, match=r"no segmentation network, .*: `pplfast label --model .*/ppl/train --labels"
        ):
            find_segmentation(path)
    (tmp_path / "ppl" / "segmentation").mkdir()
    (tmp_path / "ppl" / "segmentation" / "segmentation.json").write_text("{}")
    assert find_segmentation(tmp_path) == tmp_path / "ppl" / "segmentation"


# --- drawings ---


def test_labels_are_drawn_as_described():
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    labels = np.zeros((9, 12), np.uint8)
    labels[2:7, 1:8] = 8
    drawn = labels_over(photo, labels)
    inside = np.zeros((9, 12), bool)
    inside[3:6, 2:7] = True
    border = (labels == 8) & ~inside
    grey = photo.astype(float).mean(2)[..., None]
    expected = np.where(inside[..., None], 0.35 * grey + 0.75 * display_palette()[8], 0.45 * grey).clip(0, 255)
    expected[border] = 255
    assert np.abs(drawn - expected).max() < 1.01
    wide = (labels_over(photo, labels, 2) == 255).all(2) & (labels == 8)
    assert wide.sum() == 5 * 7 - 1 * 3 and not (labels_over(photo, np.zeros_like(labels)) == 255).any()


@pytest.mark.parametrize("size, expected", [((30, 40), (40, 30)), ((50, 2 * LONGEST), (LONGEST, 25))])
def test_a_drawing_has_the_images_size_up_to_the_longest(size, expected):
    labels = np.zeros(size, np.uint8)
    labels[:, : size[1] // 2] = 15
    drawn = draw(np.full((*size, 3), 90, np.uint8), labels)
    assert drawn.size == expected
    middle = np.asarray(drawn)[expected[1] // 2]
    assert (middle[expected[0] * 3 // 4] == 40).all()  # 0.45 * 90
    person = (0.35 * 90 + 0.75 * display_palette()[15].astype(float)).clip(0, 255).astype(int)
    assert (middle[expected[0] // 4] == person).all()


# --- the folder ---


class Links(HTMLParser):
    """Addresses and words of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: dict[str, list[str]] = {"href": [], "src": [], "alt": []}
        self.words: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            self.found.get(name, []).append(value)

    def handle_data(self, data):
        self.words.append(data.strip())


IDS = ("a", "b", "deep/c <d>", "50% é?#")


def test_a_folder_of_labels_classes_drawings_and_their_page(tmp_path):
    dataset = images(tmp_path / "images", IDS)
    out, model = tmp_path / "out", SmallSegmenter()
    outcome = predict_images(model, CLASSES, dataset, SEGMENT, out, OPTIONS, drawn=True)
    assert (outcome.written, outcome.exit_code) == (4, 0)
    segment_images(model, CLASSES, dataset, SEGMENT, tmp_path / "same", OPTIONS)
    for id, path in zip(dataset.ids, dataset.images):
        assert (out / f"{id}.png").read_bytes() == (tmp_path / "same" / f"{id}.png").read_bytes()
        labels = np.array(Image.open(out / f"{id}.png"))
        expected = labels_over(np.array(Image.open(path)), labels)
        drawn = np.array(Image.open(out / f"{id}.overlay.jpg"))
        assert drawn.shape == expected.shape and np.abs(drawn.astype(int) - expected).mean() < 12  # JPEG's
    assert parse_classes(out / "classes.txt") == CLASSES
    page = Links(out / "overlays.html")
    assert {unquote(way) for way in page.found["href"]} == {f"{id}.overlay.jpg" for id in IDS}
    assert page.found["src"] == page.found["href"] and page.found["alt"] == list(IDS)
    assert {"bus", "cat", "person", *IDS} <= set(page.words)
    assert not list(out.rglob("*.partial"))


def test_drawings_are_made_when_they_are_asked_for_and_what_is_there_is_kept(tmp_path):
    dataset, model, out = images(tmp_path / "images", IDS), SmallSegmenter(), tmp_path / "out"

    def written(**more) -> int:
        return predict_images(model, CLASSES, dataset, SEGMENT, out, OPTIONS, **more).written

    assert written() == 4 and not list(out.rglob("*.jpg")) and not (out / "overlays.html").exists()
    assert written() == 0 and written(drawn=True) == 4 and written(drawn=True) == 0 and written() == 0
    (out / "b.overlay.jpg").unlink()
    assert written(drawn=True) == 1 and written() == 0
    more = images(tmp_path / "others", ["z"])
    predict_images(model, CLASSES, more, SEGMENT, out, OPTIONS, drawn=True)
    assert Links(out / "overlays.html").found["alt"] == ["z", *IDS]  # the page is of the folder
    with open(out / "confidence.csv", encoding="utf-8", newline="") as table:
        assert {row[0] for row in csv.reader(table)} == {"image", "z", *IDS}  # and so is the table


def test_of_many_drawings_the_page_shows_some_and_links_to_all(tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_page, "MOST_PICTURES", 3)
    dataset = images(tmp_path / "images", IDS)
    predict_images(SmallSegmenter(), CLASSES, dataset, SEGMENT, tmp_path / "out", OPTIONS, drawn=True)
    page = Links(tmp_path / "out" / "overlays.html")
    assert len(page.found["src"]) == 3 and len(page.found["href"]) == 4 and "The other 1" in page.words


def test_a_bad_image_has_no_drawing_and_is_not_on_the_page(tmp_path):
    dataset, out = images(tmp_path / "images", IDS), tmp_path / "out"
    predict_images(SmallSegmenter(), CLASSES, dataset, SEGMENT, out, OPTIONS, drawn=True)
    dataset.images[1].write_bytes(b"<html>")
    outcome = predict_images(SmallSegmenter(), CLASSES, dataset, SEGMENT, out, OPTIONS, drawn=True)
    assert outcome.exit_code == 3 and outcome.bad[0][0] == "b" and "not a JPEG but an HTML" in outcome.bad[0][1]
    assert not (out / "b.png").exists() and not (out / "b.overlay.jpg").exists()
    assert Links(out / "overlays.html").found["alt"] == ["a", *IDS[2:]]


def test_one_that_is_ended_leaves_no_page(tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_folder, "run_job", mock.Mock(return_value=pplfast.Outcome(signal=2)))
    dataset = images(tmp_path / "images", IDS)
    predict_images(SmallSegmenter(), CLASSES, dataset, SEGMENT, tmp_path / "out", OPTIONS, drawn=True)
    assert not (tmp_path / "out").exists()


def test_a_manifest_may_name_drawings_of_its_images_alone():
    entry = {"file": "x/a.overlay.jpg", "bytes": 3, "sha256": "0" * 64}
    assert check_record({"id": "x/a", "state": "done", "files": [entry]})
    for id, file in (("x/b", entry["file"]), ("x/a", "x/a.jpg"), ("x/a", "x/a.overlay.png")):
        with pytest.raises(ValueError, match="is not the name of an output"):
            check_record({"id": id, "state": "done", "files": [{**entry, "file": file}]})


# --- in Python ---


@pytest.fixture
def labeller() -> SegmentationLabeller:
    return SegmentationLabeller(SmallSegmenter(), CLASSES, SEGMENT)


def arrays(*sizes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def test_one_image_gives_one_prediction(labeller, tmp_path):
    [pixels] = arrays((24, 40))
    Image.fromarray(pixels).save(tmp_path / "x.png")
    found = pplfast.predict(pixels, labeller)
    assert found.labels.dtype == np.uint8 and found.labels.shape == (24, 40)
    assert found.probabilities.dtype == np.float32 and found.probabilities.shape == (4, 24, 40)
    np.testing.assert_allclose(found.probabilities.sum(0), 1, atol=1e-5)
    values = np.array([0, *CLASSES.ids], np.uint8)
    np.testing.assert_array_equal(found.labels, values[found.probabilities.argmax(0)])
    np.testing.assert_array_equal(found.labels, pplfast.image_labels(labeller, pixels))
    np.testing.assert_array_equal(found.probabilities, pplfast.image_maps(labeller, pixels))
    np.testing.assert_array_equal(np.asarray(found.overlay()), labels_over(pixels, found.labels))
    assert found.classes == CLASSES
    for same in (tmp_path / "x.png", str(tmp_path / "x.png"), Image.fromarray(pixels)):
        np.testing.assert_array_equal(pplfast.predict(same, labeller).probabilities, found.probabilities)


@pytest.mark.parametrize("batch", (1, 2, 4))
def test_images_of_one_size_share_calls_and_keep_their_order(labeller, batch):
    """batch: 1 as on a CPU, more as on a GPU."""
    several = arrays((24, 40), (30, 20), (24, 40), (24, 40), (30, 20))
    alone = [pplfast.predict(each, labeller) for each in several]
    labeller.batch = batch
    calls = mock.Mock(side_effect=Segmenter(SmallSegmenter(), SEGMENT, "fp32", 10**7, batch, threads=1))
    labeller._segmenter = calls
    found = pplfast.predict(several, labeller)
    sizes = [len(call.args[0]) for call in calls.call_args_list]
    assert sizes == {1: [1] * 5, 2: [2, 1, 2], 4: [3, 2]}[batch]
    for one, other, pixels in zip(alone, found, several, strict=True):
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
        assert one.labels.shape == other.labels.shape == pixels.shape[:2] and other.pixels is not None
    assert pplfast.predict([], labeller) == []


def test_a_batch_that_does_not_fit_goes_image_by_image(labeller):
    several = arrays((24, 40), (24, 40))
    plain = labeller._segmenter
    labeller.batch = 2

    def segmenter(pixels):
        if len(pixels) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(pixels)

    labeller._segmenter = segmenter
    found = pplfast.predict(several, labeller)
    np.testing.assert_array_equal(found[1].labels, pplfast.predict(several[1], labeller).labels)
    labeller._segmenter = mock.Mock(side_effect=RuntimeError("another"))
    with pytest.raises(RuntimeError, match="another"):
        pplfast.predict(several, labeller)


def test_a_network_is_loaded_once_until_its_file_changes(labeller, tmp_path, monkeypatch):
    file = tmp_path / "run" / "ppl" / "segmentation" / "segmentation.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    load = mock.Mock(return_value=labeller)
    monkeypatch.setattr(single, "load_labeller", load)
    single.loaded.cache_clear()
    [pixels] = arrays((24, 40))
    for path in (tmp_path / "run", str(file.parent), tmp_path / "run" / "ppl"):
        pplfast.predict(pixels, path, "cpu")
    load.assert_called_once_with(file.parent, "cpu")
    os.utime(file, (1, 1))
    pplfast.predict(pixels, model=tmp_path / "run", device="cpu")
    assert load.call_count == 2
    single.loaded.cache_clear()
    pplfast.predict(pixels, model=tmp_path / "run", device=torch.device("cpu"))
    assert load.call_count == 3
    single.loaded.cache_clear()


def test_what_cannot_be_predicted(labeller, tmp_path):
    for image, message in (
        (tmp_path / "none.jpg", "none.jpg: no such file"),
        ([np.zeros((4, 4))], r"uint8 array \(H, W, 3\), not float64 \(4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"image: has no pixels, \(0, 4, 3\)"),
        (Image.open(io.BytesIO(jpeg(64, 48)[:-200])), "image: a PIL image that cannot be decoded"),
    ):
        with pytest.raises(UserError, match=message):
            pplfast.predict(image, labeller)
    with pytest.raises(UserError, match="holds no segmentation.json"):
        pplfast.predict(arrays((24, 40)), tmp_path)
    with pytest.raises(UserError, match="model: a classifier, .* pplfast.image_labels"):
        pplfast.predict(arrays((24, 40)), mock.Mock(spec=CamLabeller))
