"""Scores of small, medium and large objects."""

import json

import numpy as np
import pytest
from PIL import Image

from pplfast.cli import main
from pplfast.data.dataset import DataConfig, open_dataset
from pplfast.data.masks import write_mask
from pplfast.errors import UserError
from pplfast.evaluate.sizes import parts_by_size


@pytest.fixture
def squares(tmp_path):
    """Six images of 20 x 20 pixels with a square each; labels hit all but the largest."""
    for k, side in enumerate((8, 2, 6, 4, 10, 12)):
        mask = np.zeros((20, 20), np.uint8)
        mask[:side, :side] = 1
        mask[19] = 255
        write_mask(tmp_path / "masks" / f"im{k}.png", mask)
        write_mask(tmp_path / "labels" / f"im{k}.png", mask * (side < 12) * (mask != 255))
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (20, 20)).save(tmp_path / "photos" / f"im{k}.jpg")
    return tmp_path


def options(root):
    return ["--data", str(root / "photos"), "--masks", str(root / "masks"), "--classes", "square"]


def test_thirds_of_the_images_by_what_their_masks_show(squares, capsys):
    out = squares / "scores.json"
    words = ["eval", *options(squares), "--pngs", str(squares / "labels"), "--by-size", "--out", str(out)]
    assert main([*words, "--jobs", "1"]) == 0
    small, medium, large = json.loads(out.read_text())["sizes"]
    assert [part["size"] for part in (small, medium, large)] == ["small", "medium", "large"]
    assert [part["images"] for part in (small, medium, large)] == [2, 2, 2]
    assert (small["least"], small["most"]) == pytest.approx((100 * 4 / 380, 100 * 16 / 380))
    assert small["miou"] == medium["miou"] == 100
    assert large["classes"][1]["iou"] == pytest.approx(100 * 100 / (100 + 144))
    assert "small objects, 1.1 to 4.2 % of an image: mIoU 100.0 of 2 images" in capsys.readouterr().out


def test_three_masks_with_a_class_are_needed(squares):
    dataset = open_dataset(
        DataConfig(str(squares / "photos"), labels="none", masks=str(squares / "masks"), classes="square")
    )
    assert [part.dataset.ids for part in parts_by_size(dataset)] == [("im1", "im3"), ("im2", "im0"), ("im4", "im5")]
    with pytest.raises(UserError, match="2 masks show a class"):
        parts_by_size(dataset.subset([0, 1]))
