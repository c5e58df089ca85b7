"""Images and masks of other people: no small file makes large memory, nothing is waited for, nothing else is run."""

import io
import itertools
import os
import struct
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from data_sets import SIZE, make_voc
from labels_small import small_dataset, write_cams
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from untrusted import refused, write

from pplfast.data import pillow
from pplfast.data.check import check_dataset
from pplfast.data.dataset import DataConfig, open_dataset
from pplfast.data.decoding import decode_image, read_pixels
from pplfast.data.images import BadImage, inspect_image
from pplfast.data.masks import read_mask, write_mask
from pplfast.data.names import SUFFIXES
from pplfast.errors import UserError
from pplfast.evaluate import evaluate_cams, evaluate_labels
from pplfast.reading import open_regular


@pytest.fixture
def voc(tmp_path):
    return make_voc(tmp_path / "set", dict.fromkeys(("a", "b"), ("cat",)))


def jpeg_of(width, height):
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    data = bytearray(file.getvalue())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def png_of(width, height):
    """A PNG of 8-bit grey whose header claims that size; its content ends early."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(100_000))),
        (b"IEND", b""),
    ]
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("side", [5_000, 10_000, 13_000, 20_000, 65_535])
def test_a_small_file_that_claims_many_pixels_is_not_decoded(tmp_path, monkeypatch, side):
    image, mask = write(tmp_path / "a.jpg", jpeg_of(side, side)), write(tmp_path / "a.png", png_of(side, side))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decodes"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for look, file in itertools.product((inspect_image, decode_image), (image, mask)):
            with pytest.raises(BadImage, match="pixels.*: too large to decode; make it smaller") as caught:
                look(file)
            assert caught.value.kind == "too-large"
        with pytest.raises(UserError, match=r"a\.png: not a readable PNG mask \(.*pixels.*too large to decode"):
            read_mask(mask)
        with pytest.raises(UserError, match=r"a\.jpg: .*pixels.*: too large to decode; make it smaller"):
            read_pixels(image)


def test_data_check_names_what_is_too_large_or_takes_much(voc, monkeypatch):
    write(voc / "JPEGImages" / "a.jpg", jpeg_of(65_535, 65_535))
    write(voc / "SegmentationClass" / "a.png", png_of(65_535, 65_535))
    monkeypatch.setattr("pplfast.data.check.LARGE", SIZE[0] * SIZE[1] - 1)
    report = check_dataset(open_dataset(DataConfig(str(voc), "train")))
    assert [(p.id, p.kind, p.severity) for p in report.problems] == [
        ("a", "too-large", "error"), ("a", "bad-mask", "error"), ("b", "large", "warning")
    ]  # fmt: skip


def test_real_images_of_one_colour_are_no_attack(tmp_path):
    """What compresses best of all that people have: it must stay readable."""
    blank = Image.new("L", (4000, 4000))
    blank.save(tmp_path / "a.jpg", quality=10, progressive=True, optimize=True)
    blank.save(tmp_path / "a.png", optimize=True)
    assert inspect_image(tmp_path / "a.jpg").width == 4000
    decode_image(tmp_path / "a.jpg")
    assert not read_mask(tmp_path / "a.png").any()


@pytest.mark.parametrize("chunk", ["text", "international", "profile", "behind"])
def test_chunks_that_inflate_are_refused(tmp_path, chunk):
    info, options = PngInfo(), {}
    if chunk == "profile":
        options["icc_profile"] = bytes(20_000_000)
    elif chunk == "international":
        info.add_itxt("a", "x" * 20_000_000, zip=True)
    else:
        info.add_text("a", "x" * 20_000_000, zip=True)
    Image.new("L", (8, 8)).save(tmp_path / "a.png", pnginfo=info, **options)
    if chunk == "behind":  # the pixels
        data = (tmp_path / "a.png").read_bytes()
        begin, end = data.index(b"zTXt") - 4, data.index(b"IDAT") - 4
        write(tmp_path / "a.png", data[:begin] + data[end:-12] + data[begin:end] + data[-12:])
    tracemalloc.start()
    with pytest.raises(UserError, match=r"a\.png: not a readable PNG mask \(Decompressed data too large"):
        read_mask(tmp_path / "a.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


POSTSCRIPT = (
    b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%ImageData: 8 8 8 1 0 1 2 "x"\n%%EndComments\n(run) run\n'
)


def test_other_formats_under_the_name_of_one_are_not_opened(tmp_path):
    """Pillow gives PostScript to another program; the guard of the tests sees any that is started."""
    for suffix in SUFFIXES:
        write(tmp_path / f"a{suffix}", POSTSCRIPT)
        with pytest.raises(UserError, match=rf"a\{suffix}: not a .* but a PostScript file; download it again"):
            read_pixels(tmp_path / f"a{suffix}")
    with pytest.raises(UserError, match=r"a\.png: not a readable PNG mask"):
        read_mask(tmp_path / "a.png")
    Image.new("L", (8, 8)).save(tmp_path / "a.png", format="GIF")
    with pytest.raises(UserError, match="of another format"):
        read_mask(tmp_path / "a.png")


def test_a_header_without_end_is_damaged(tmp_path):
    for filler in (b"\xff" * 2_000_000, b"\xff\xe0\x00\x02" * 500_000, b"\xff\xe0\x00\x00" * 500_000):
        with pytest.raises(BadImage, match="its header is damaged"):
            inspect_image(write(tmp_path / "a.jpg", b"\xff\xd8" + filler + b"\xff\xd9"))


def test_pipes_devices_and_folders_are_no_files(voc):
    for name in ("a.jpg", "a.xml", "a.png"):
        (path := next(voc.rglob(name))).unlink()
        os.mkfifo(path)
    problems = []
    report = check_dataset(open_dataset(DataConfig(str(voc), "train"), problems), problems)
    assert [(p.id, p.kind) for p in report.problems] == [("a", "unreadable"), ("a", "bad-labels")]
    assert all("not a regular file" in problem.message for problem in report.problems)
    with pytest.raises(UserError, match=r"a\.png: cannot be read \(not a regular file\)"):
        read_mask(voc / "SegmentationClass" / "a.png")
    for made in (os.mkfifo, os.mkdir):
        made(voc / made.__name__)
        for kind in ("npy", "csv"):
            (voc / made.__name__).rename(voc / f"t.{kind}")
            assert f"t.{kind}" in refused(root=voc, list="train", labels=voc / f"t.{kind}")
            (voc / f"t.{kind}").rename(voc / made.__name__)
    with pytest.raises(BadImage, match="cannot be read"):
        inspect_image(voc / "JPEGImages" / "b.jpg" / "below-a-file.jpg")


# Scores


@pytest.mark.parametrize("value", [255, 77])
def test_masks_without_a_class_score_nothing(tmp_path, value):
    dataset = small_dataset(tmp_path)
    cams = write_cams(tmp_path / "cams", dataset)
    for name, mask in zip(dataset.ids, dataset.masks, strict=True):
        write_mask(tmp_path / "labels" / f"{name}.png", np.zeros_like(read_mask(mask)))
        write_mask(mask, np.full_like(read_mask(mask), value))
    for score in (
        lambda: evaluate_cams(cams, dataset, jobs=1),
        lambda: evaluate_labels(tmp_path / "labels", dataset, jobs=1),
    ):
        with pytest.raises(UserError, match=rf"nothing can be scored: its \d+ masks .*only of .*{value}"):
            score()


@pytest.mark.parametrize("options", [{"lossless": False}, {"lossless": True}, {"lossless": False, "exif": b"Exif\0\0"}])
def test_the_size_of_a_webp_is_known_before_its_decoder_makes_room(tmp_path, monkeypatch, options):
    Image.new("RGB", (300, 200), (9, 120, 30)).save(tmp_path / "a.webp", **options)
    with open_regular(tmp_path / "a.webp") as file:
        assert pillow._webp_size(file) == (300, 200) and file.tell() == 0
    data = bytearray((tmp_path / "a.webp").read_bytes())
    kind = bytes(data[12:16])
    if kind == b"VP8X":
        data[24:30] = (15_999).to_bytes(3, "little") * 2
    elif kind == b"VP8L":
        data[21:25] = (15_999 | 15_999 << 14).to_bytes(4, "little")
    else:
        data[26:30] = (16_000).to_bytes(2, "little") * 2
    (tmp_path / "b.webp").write_bytes(data)
    monkeypatch.setattr(pillow.Image, "open", lambda *a, **k: pytest.fail("Pillow was asked to open it"))
    with open_regular(tmp_path / "b.webp") as file, pytest.raises(pillow.ImageError, match="16000 x 16000 pixels"):
        pillow.open_image(file, "WEBP")
