"""The whole chain on folders of other images than JPEG: of many formats beside each other, and of a microscope."""

import base64
import io
import re
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from picture_files import LOSSLESS, OTHERS, Form, lossy, picture, tiff
from PIL import Image

import pplfast
from pplfast.cli import main
from pplfast.data import dataset as dataset_module
from pplfast.data.value_range import measured_range, parse_range
from pplfast.files import read_json
from pplfast.jobs.manifest import read_manifest
from pplfast.report import write_report
from pplfast.run import RunConfig, run
from pplfast.train import TrainOptions

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
SIZE = (72, 60)  # width, height
RECIPE = pplfast.recipe_from_dict(
    {
        "name": "tiny",
        "variants": ["ppl"],
        "model": {"backbone": "own_parts:Tiny", "weights": "none"},
        "augment": {"crop": 64, "resize_long": [64, 80]},
        "optim": {"batch": 6, "precision": "fp32"},
        "stages": [{"epochs": 1, "position": "part0", "grid": 2}],
        "cam": {"scales": [1.0], "flip": False, "precision": "fp32"},
        "label": {"value": 0.3},
    },
    "test",
)


def chain(data: Path, out: Path) -> RunConfig:
    """The run of a folder on itself, done."""
    lists = pplfast.DataConfig(str(data))
    config = RunConfig(lists, lists, RECIPE, RECIPE.variants, out, jobs=1, training=TrainOptions(threads=1))
    run(config, lambda line: None)
    return config


def save(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


# Formats beside each other


def lossy_form(name: str) -> Form:
    suffix, _, decoder = lossy(picture(SIZE))[name]
    return suffix, decoder, lambda pixels: lossy(pixels)[name][1], lambda pixels: pixels


FORMS = {**LOSSLESS, **OTHERS, **{name: lossy_form(name) for name in lossy(picture(SIZE))}}
MIXED = {re.sub(r"\W+", "-", name): form for name, form in FORMS.items()}
DITHERED = "black-and-white-TIFF"  # of which the report's JPEG keeps little
PICTURES = {"cat": picture(SIZE), "dog": 255 - picture(SIZE)[::-1]}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("mixed")
    for label, pixels in PICTURES.items():
        for name, (suffix, _, encode, _) in MIXED.items():
            save(root / "data" / label / f"{name}.{suffix}", encode(pixels))
    chain(root / "data", root / "run")
    return root / "run"


def test_the_manifests_name_the_decoder_of_each_format(mixed):
    expected = {f"{label}/{name}": MIXED[name][1] for label in PICTURES for name in MIXED}
    for folder in ("cams", "labels_crf"):
        records = read_manifest(mixed / "ppl" / folder)
        assert {id: record["decoder"] for id, record in records.items()} == expected
        assert all(record["state"] == "done" for record in records.values())
    assert len(list((mixed / "ppl").glob("labels_crf/*/*.png"))) == len(expected)
    trained = read_json(mixed / "ppl" / "train" / "classifier.json")
    assert trained["training"]["steps"] == -(-len(expected) // 6)  # an epoch of batches of six: each was in one
    assert trained["class_names"] == sorted(PICTURES)


def test_the_report_shows_every_picture_as_it_looks(mixed):
    page = write_report(mixed, mixed / "all.html", images=len(PICTURES) * len(MIXED)).read_text(encoding="utf-8")
    articles = re.findall(r"<article.*?</article>", page, re.DOTALL)
    assert len(articles) == len(PICTURES) * len(MIXED)
    captions = ["image", "CAM", "before the CRF", "after the CRF"]
    seen = set()
    for article in articles:
        id = re.search("<h3>(.*?)</h3>", article)[1]
        label, name = id.split("/")
        seen.add(id)
        assert len(re.findall("<figcaption>", article)) == len(captions)
        shown, expected = shown_pixels(article), MIXED[name][3](PICTURES[label]).astype(int)
        assert shown.shape == expected.shape
        assert np.abs(shown - expected).mean() < (30 if name == DITHERED else 8), id
    assert seen == {f"{label}/{name}" for label in PICTURES for name in MIXED}


def shown_pixels(article: str) -> np.ndarray:
    """Of its first picture."""
    data = base64.b64decode(re.search(r"data:image/jpeg;base64,([^\"]+)", article)[1])
    return np.asarray(Image.open(io.BytesIO(data))).astype(int)


# A microscope: grey, 12 of 16 bits, and a dark level above 0

DARK, BRIGHT = 300, 4095


def micrograph(label: str, seed: int, bright: int = BRIGHT) -> np.ndarray:
    """uint16 (H, W) from DARK to `bright`: stripes of a cell, spots of dust."""
    x, y = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    wave = np.sin(0.3 * x + seed) * (1 if label == "cell" else np.sin(0.3 * y))
    noise = np.random.default_rng(seed).normal(0, 0.05, wave.shape)
    level = np.clip(0.5 + 0.45 * wave + noise, 0, 1)
    return np.rint(DARK + level * (bright - DARK)).astype(np.uint16)


def micrographs(root: Path, count: int, bright: int = BRIGHT, first: int = 0) -> list[Path]:
    paths = [root / label / f"{seed}.tif" for label in ("cell", "dust") for seed in range(first, first + count)]
    for path in paths:
        save(path, tiff(micrograph(path.parent.name, int(path.stem), bright)))
    return paths


@pytest.fixture(scope="module")
def microscopy(tmp_path_factory) -> tuple[Path, tuple[float, float], int]:
    """The run, the range of its images by their definition, and how often it was measured."""
    root = tmp_path_factory.mktemp("microscopy")
    paths = micrographs(root / "data", 4)
    values = np.concatenate([micrograph(path.parent.name, int(path.stem)).ravel() for path in paths])
    low, high = np.percentile(values, [0.1, 99.9])
    with mock.patch.object(dataset_module, "measured_range", wraps=measured_range) as measured:
        config = chain(root / "data", root / "run")
        run(config, lambda line: None)
    return root / "run", (float(low), float(high)), measured.call_count


def test_the_range_is_measured_once_and_recorded(microscopy):
    folder, (low, high), measured = microscopy
    assert DARK <= low < high <= BRIGHT and high - low > 3500
    assert measured == 1  # by two calls of the run
    data = read_json(folder / "run.json")["data"]
    assert parse_range(data["train"]["range"]) == parse_range(data["val"]["range"]) == pytest.approx((low, high))
    assert read_json(folder / "ppl" / "train" / "classifier.json")["range"] == pytest.approx([low, high])
    for step in ("cams", "labels_crf"):
        assert read_json(folder / "ppl" / step / "settings.json")["range"] == pytest.approx([low, high])
    records = read_manifest(folder / "ppl" / "cams").values()
    assert {(record["state"], record["decoder"]) for record in records} == {("done", "tifffile")}


def test_new_images_are_seen_in_the_range_of_the_training(microscopy, tmp_path):
    folder, (low, high), _ = microscopy
    paths = micrographs(tmp_path / "new", 2, bright=2000, first=20)
    with mock.patch.object(dataset_module, "measured_range", wraps=measured_range) as measured:
        words = ["--data", str(tmp_path / "new"), "--model", str(folder), "--out", str(tmp_path / "out")]
        assert main(["label", *words, "--jobs", "1"]) == 0
    assert measured.call_count == 0 and measured_range(paths)[1] < 2100
    assert read_json(tmp_path / "out" / "settings.json")["range"] == pytest.approx([low, high])

    labeller = pplfast.load_labeller(folder, "cpu")
    assert labeller.values == pytest.approx((low, high)) and labeller.classes.names == ("cell", "dust")
    for path in paths:
        label, seed = path.parent.name, int(path.stem)
        labels = np.array(Image.open(tmp_path / "out" / label / f"{seed}.png"))
        np.testing.assert_array_equal(labeller.labels(path, [label]), labels)
        grey = np.clip(np.rint((micrograph(label, seed, 2000) - low) * 255 / (high - low)), 0, 255)
        assert grey.max() < 140  # a range of its own would make it white
        pixels = np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
        np.testing.assert_array_equal(labeller.maps(path), labeller.maps(pixels))
