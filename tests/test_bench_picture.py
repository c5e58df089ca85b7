"""The README's picture: which images it shows, and that it can be drawn from a run."""

import numpy as np
import pytest
from PIL import Image
from report_runs import CLASSES, make_data, make_run

from pplfast.benchmarks import picture
from pplfast.data.dataset import DataConfig, open_dataset
from pplfast.data.masks import read_mask, write_mask
from pplfast.labels.overlay import display_palette


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("picture")
    config = make_data(root / "data", 15)  # every third image has both classes
    make_run(root / "run", config, open_dataset(config), {"ppl": 0.2})
    return root / "run", open_dataset(config)


def test_images_of_two_classes_nearest_the_median_are_shown(run, tmp_path):
    _, dataset = run
    for index, name in enumerate(dataset.ids):  # the true mask, less and less of it with the number of the image
        mask = np.where(read_mask(dataset.masks[index]) == 255, 0, read_mask(dataset.masks[index])).astype(np.uint8)
        mask[: 10 + 2 * index] = 0
        write_mask(tmp_path / f"{name}.png", mask)
    assert picture.typical(dataset, tmp_path, 1) == [8]  # the middle of 2, 5, 8, 11, 14
    assert picture.typical(dataset, tmp_path, 3) == [5, 8, 11]


@pytest.mark.slow
def test_the_picture_is_drawn_and_small(run, tmp_path, capsys):
    folder, dataset = run
    out = tmp_path / "docs" / "picture.png"
    assert picture.main([str(folder), "--out", str(out), "--rows", "2"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    with Image.open(out) as image:
        assert image.size == (1200, 44 + 24 + 2 * 224 + 16) and out.stat().st_size < 300_000
        pixels = np.asarray(image.convert("RGB")).astype(int)
    words = pixels[44:268, 264:282].reshape(-1, 3)  # the swatches before the words
    for value in dataset.classes.ids:
        assert (np.abs(words - display_palette()[value]).sum(-1) < 30).sum() > 100


def test_what_it_cannot_be_drawn_from_is_said(run, tmp_path, capsys):
    folder, dataset = run
    assert picture.main([str(folder), "--rows", "6", "--out", str(tmp_path / "x.png")]) == 2
    assert "5 images with a mask and 2 classes; at least 6 needed" in capsys.readouterr().err
    bare = open_dataset(DataConfig(str(dataset.images[0].parent), labels="none", classes=CLASSES))
    assert bare.labels is None
    with pytest.raises(picture.UserError, match="0 images with a mask"):
        picture.typical(bare, tmp_path, 1)


def test_the_committed_picture_is_as_agreed():
    with Image.open(picture.OUT) as image:
        assert image.width == 1200 and picture.OUT.stat().st_size < 300_000
