import errno
import os
import struct
import warnings

import numpy as np
import pytest
from data_sets import SIZE, save_image, spoil_huffman_table
from PIL import Image

from pplfast import reading
from pplfast.data.decoding import decode_image
from pplfast.data.encoded import read_encoded
from pplfast.data.images import BadImage, ImageInfo, inspect_image
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
    decode_image(path)


def test_bytes_behind_the_end_are_allowed(tmp_path):
    path = save_image(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes() + b"\0" * 500)
    assert inspect_image(path).mode == "RGB"


def test_bad_images_by_kind(tmp_path):
    good = save_image(tmp_path / "good.jpg").read_bytes()
    path = tmp_path / "a.jpg"
    assert kind_of(path) == "missing"
    assert kind_of(tmp_path) == "unreadable"  # a folder
    path.write_bytes(b"")
    assert kind_of(path) == "empty"
    path.write_text("<html>404</html>")
    assert kind_of(path) == "not-image"
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
    assert kind_of(path, decode_image) == "truncated"


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


# What a file is that is no image, and JPEGs that decoders do not read

FOREIGN = {
    b"\0\0\0\x18ftypheic\0\0\0\0mif1heic": "an HEIC (HEIF); convert",
    b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf": "an AVIF; convert",
    b"\0\0\0\x1cftypavif\0\0\0\0mif1": "an AVIF; convert",
    b"\0\0\0\x20ftypisom\0\0\2\0isomiso2mp41": "a video",
    b"\0\0\0\x0cJXL \r\n\x87\n": "a JPEG XL; convert",
    b"\xff\x0a\xfa\x1f": "a JPEG XL; convert",
    b"RIFF\x24\0\0\0WAVEfmt ": "a WAV; download it again",
    b"RIFF\x24\0\0\0AVI LIST": "an AVI video",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n": "a Git LFS pointer; fetch the image with `git lfs",
    b"/annex/objects/SHA256E-s1--00.jpg\n": "a git-annex pointer; fetch",
    b'{"error": "not found"}': "JSON; download it again",
    b'\xef\xbb\xbf [\n{"a": 1}]': "JSON; download it again",
    b"\n\n  <!DOCTYPE html><html>": "an HTML or XML page; download it again",
    b"<svg xmlns='x'>": "an SVG drawing; convert",
    b"Too many requests, gr\xc3\xbc\xc3\x9fe": "text; download it again",
    "Zugriff verweigert".encode("utf-16"): "text in UTF-16",
    b"PK\x03\x04\x14": "a ZIP archive",
    b"\0" * 5000: "zeros alone",
    b"\0" * 128 + b"DICM": "a DICOM file",
    b"\x01\x02\x03\x04\xfe": "something else",
}


@pytest.mark.parametrize("start", FOREIGN, ids=FOREIGN.values())
def test_a_file_that_is_no_image_is_named_for_what_it_is(tmp_path, start):
    for rest in (b"", b"\0" * 600 if start[:1] not in b"{T\n<v/\xef" else b" " * 600):
        (tmp_path / "a.jpg").write_bytes(start + rest)
        with pytest.raises(BadImage) as caught:
            inspect_image(tmp_path / "a.jpg")
        assert caught.value.kind == "not-image" and str(caught.value).startswith(f"not a JPEG but {FOREIGN[start]}")


def test_a_character_cut_off_at_the_end_of_the_head_is_no_reason_not_to_be_text(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x" + "ü".encode() * 600)
    with pytest.raises(BadImage, match="not a JPEG but text"):
        inspect_image(tmp_path / "a.jpg")


def test_a_jpeg_of_12_bits_is_whole(tmp_path):
    path = save_image(tmp_path / "a.jpg")
    data = bytearray(path.read_bytes())
    data[data.index(b"\xff\xc0") + 4] = 12
    path.write_bytes(data)
    with pytest.raises(BadImage, match="a JPEG of 12 bits a channel; save it with 8 bits") as caught:
        inspect_image(path)
    assert caught.value.kind == "rare-jpeg"


def test_a_lossless_jpeg_is_whole_but_not_for_the_loaders(tmp_path):
    """Grey, every pixel 128: one bit a pixel."""
    frame = struct.pack(">BHHB", 8, 8, 16, 1) + b"\1\x11\0"
    head = {0xC3: frame, 0xC4: b"\0\1" + bytes(16), 0xDA: b"\1\1\0\1\0\0"}
    segments = b"".join(struct.pack(">BBH", 0xFF, code, len(data) + 2) + data for code, data in head.items())
    path = tmp_path / "a.jpg"
    path.write_bytes(b"\xff\xd8" + segments + bytes(16) + b"\xff\xd9")
    for look in (inspect_image, decode_image):
        with pytest.raises(BadImage, match="a lossless JPEG; save it as an ordinary one") as caught:
            look(path)
        assert caught.value.kind == "rare-jpeg"


# What the operating system refuses

CODES = [errno.ESTALE, errno.EIO, errno.ENAMETOOLONG, errno.EACCES, errno.EMFILE, errno.ELOOP, errno.ENOTDIR, 0]
LOOKS = {"inspect": inspect_image, "decode": decode_image, "read": read_encoded}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("code", CODES)
def test_an_error_of_the_system_at_opening_is_the_images(tmp_path, monkeypatch, code, look):
    def failing(*arguments, **options):
        raise OSError(code, os.strerror(code)) if code else OSError()

    path = save_image(tmp_path / "a.jpg")
    monkeypatch.setattr(reading.os, "open", failing)
    with pytest.raises(BadImage, match="cannot be read: ") as caught:
        LOOKS[look](path)
    assert caught.value.kind == "unreadable" and "None" not in str(caught.value)


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("after", range(6))
@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO])
def test_an_error_of_the_system_while_reading_is_the_disks_not_damage(tmp_path, monkeypatch, code, after, look):
    calls = []

    class Failing(reading._Regular):
        def _count(self):
            calls.append(1)
            if len(calls) > after:
                raise OSError(code, os.strerror(code))

        def read(self, size=-1, /):
            self._count()
            return super().read(size)

        def readinto(self, buffer, /):
            self._count()
            return super().readinto(buffer)

    path = save_image(tmp_path / "a.jpg")
    monkeypatch.setattr(reading, "_Regular", Failing)
    found = None
    try:
        LOOKS[look](path)
    except BadImage as error:
        found = error
    if len(calls) <= after:
        assert found is None
    else:
        assert found.kind == "unreadable" and ("lost it" in str(found) or "reports an error" in str(found))


def test_what_vanishes_or_shrinks_between_two_reads_is_the_images(tmp_path, monkeypatch):
    path = save_image(tmp_path / "a.jpg")
    assert bytes(read_encoded(path)) == path.read_bytes()
    path.unlink()
    with pytest.raises(BadImage, match="no such file; restore it") as caught:
        read_encoded(path)
    assert caught.value.kind == "missing"
    good, segment = save_image(path).read_bytes(), struct.unpack
    path.write_bytes(good[:2] + b"\xff\xed" + (60_000).to_bytes(2, "big") + bytes(59_998) + good[2:])
    monkeypatch.setattr("pplfast.data.jpeg.struct.unpack", lambda *a: (os.truncate(path, 24), segment(*a))[1])
    with pytest.raises(BadImage, match="truncated before its image data"):
        inspect_image(path)


@pytest.mark.parametrize("look", LOOKS)
def test_a_folder_or_a_pipe_under_an_images_name_is_the_images(tmp_path, look):
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, reason in (("folder.jpg", "is a folder"), ("pipe.jpg", "not a regular file"), ("x" * 300, "too long")):
        with pytest.raises(BadImage, match=f"cannot be read: .*{reason}"):
            LOOKS[look](tmp_path / name)


def test_pillows_warning_of_large_images_stays_inside(tmp_path, monkeypatch):
    path = save_image(tmp_path / "a.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SIZE[0] * SIZE[1] - 1)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        inspect_image(path)
        decode_image(path)
    assert seen == []
