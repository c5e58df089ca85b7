import numpy as np
import pytest
from data_sets import SIZE, save_image, spoil_huffman_table
from PIL import Image

from pplfast.data.images import BadImage, ImageInfo, decode_fully, inspect_image
from pplfast.data.masks import read_mask, voc_palette, write_mask
from pplfast.errors import UserError


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def kind_of(path, look=inspect_image):
    with pytest.raises(BadImage) as caught:
        look(path)
    return caught.value.kind


@pytest.mark.parametrize("mode, options, expected", [
    ("RGB", {}, ImageInfo(*SIZE, "RGB", 1)),
    ("RGB", {"progressive": True}, ImageInfo(*SIZE, "RGB", 1)),
    ("L", {}, ImageInfo(*SIZE, "L", 1)),
    ("RGB", {"exif": exif(6)}, ImageInfo(*SIZE, "RGB", 6)),  # the size as stored
    ("RGB", {"exif": exif(0)}, ImageInfo(*SIZE, "RGB", 1)),  # 0 is not defined
])  # fmt: skip
def test_header_of_good_images(tmp_path, mode, options, expected):
    path = save_image(tmp_path / "a.jpg", mode, **options)
    assert inspect_image(path) == expected
    decode_fully(path)


def test_bytes_behind_the_end_are_allowed(tmp_path):
    path = save_image(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes() + b"\0" * 500)
    assert inspect_image(path).mode == "RGB"


def test_bad_images_by_kind(tmp_path):
    good = save_image(tmp_path / "good.jpg").read_bytes()
    path = tmp_path / "a.jpg"
    assert kind_of(path) == "missing"
    assert kind_of(tmp_path) == "missing"  # a folder
    path.write_bytes(b"")
    assert kind_of(path) == "empty"
    save_image(path, format="PNG")
    assert kind_of(path) == "not-jpeg"
    path.write_text("<html>404</html>")
    assert kind_of(path) == "not-jpeg"
    save_image(path, "CMYK")
    assert kind_of(path) == "cmyk"
    path.write_bytes(good[:2] + b"junk" + good[6:])
    assert kind_of(path) == "truncated"


@pytest.mark.parametrize("length", [2, 3, 30, 300, 640, -300, -2, -1])
def test_every_cut_is_truncation(tmp_path, length):
    path = save_image(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes()[:length])
    assert kind_of(path) == "truncated"


def test_end_marker_of_a_thumbnail_does_not_count(tmp_path):
    path = save_image(tmp_path / "a.jpg")
    good = path.read_bytes()
    thumbnail = b"\xff\xed" + (len(good) + 2).to_bytes(2, "big") + good  # a whole JPEG within a segment
    path.write_bytes(good[:2] + thumbnail + good[2:])
    assert inspect_image(path) == ImageInfo(*SIZE, "RGB", 1)
    path.write_bytes(good[:2] + thumbnail + good[2:-200])
    assert kind_of(path) == "truncated"


def test_damage_that_only_decoding_shows(tmp_path):
    path = save_image(tmp_path / "a.jpg")
    path.write_bytes(spoil_huffman_table(path.read_bytes()))
    assert inspect_image(path).width == SIZE[0]
    assert kind_of(path, decode_fully) == "truncated"


# Masks


def test_palette_is_that_of_voc(voc_mini):
    first = sorted((voc_mini / "SegmentationClass").glob("*.png"))[0]
    assert Image.open(first).getpalette() == list(voc_palette())


def test_known_palette_colours():
    colours = np.frombuffer(voc_palette(), np.uint8).reshape(256, 3)
    assert colours[[0, 1, 15, 20, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [192, 128, 128],
        [0, 64, 128],
        [224, 224, 192],
    ]


def test_mask_round_trip(tmp_path):
    mask = np.arange(256, dtype=np.uint8).reshape(8, 32)
    write_mask(tmp_path / "new" / "a.png", mask)
    stored = Image.open(tmp_path / "new" / "a.png")
    assert stored.mode == "P" and stored.format == "PNG"
    read = read_mask(tmp_path / "new" / "a.png")
    assert read.dtype == np.uint8 and (read == mask).all()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_mask_values_are_read_whatever_the_form(tmp_path):
    mask = np.array([[0, 1, 2], [3, 15, 7]], np.uint8)
    grey, small = Image.fromarray(mask), Image.fromarray(mask)
    grey.save(tmp_path / "grey.png")
    small.putpalette(voc_palette()[:48])
    small.save(tmp_path / "bits.png", bits=4)
    assert (read_mask(tmp_path / "grey.png") == mask).all() and (read_mask(tmp_path / "bits.png") == mask).all()


def test_masks_that_cannot_be_read(tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(UserError, match="no such mask"):
        read_mask(path)
    save_image(path)
    with pytest.raises(UserError, match="mode RGB"):
        read_mask(path)
    write_mask(path, np.zeros((60, 60), np.uint8))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match="not a readable PNG mask"):
        read_mask(path)


def test_write_mask_refuses_other_arrays(tmp_path):
    for wrong in (np.zeros((4, 4), np.int64), np.zeros((4, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="uint8"):
            write_mask(tmp_path / "a.png", wrong)
    assert not list(tmp_path.iterdir())
