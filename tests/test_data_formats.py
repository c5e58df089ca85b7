"""Images of all formats and modes: the same pixels from every decoder, by rules that are stated."""

import numpy as np
import pytest
import torch
from picture_files import LOSSLESS, OTHERS, deep, grey, lossy, picture, pillow, three, tiff, write
from PIL import Image

from pplfast.data.decoding import decode_image, read_pixels, to_8_bit
from pplfast.data.decoding_processes import Encoded
from pplfast.data.encoded import ImageDecoder, read_encoded
from pplfast.data.image_info import DALI
from pplfast.data.images import BadImage, inspect_image
from pplfast.data.pipelines import Decoder
from pplfast.data.value_range import measured_range
from pplfast.errors import UserError

FORMS = {**LOSSLESS, **OTHERS}
CPU = torch.device("cpu")


@pytest.mark.parametrize("name", FORMS)
def test_a_form_of_a_picture_has_its_pixels_and_is_named(tmp_path, name):
    suffix, decoder, encode, meant = FORMS[name]
    path = write(tmp_path, name, suffix, encode(picture()))
    info = inspect_image(path)
    assert (info.decoder, info.height, info.width) == (decoder, *picture().shape[:2])
    pixels = read_pixels(path)
    # what is seen through transparency is rounded in two ways
    assert pixels.dtype == np.uint8 and np.abs(pixels.astype(int) - meant(picture())).max() <= info.alpha
    if decoder == DALI:
        (decoded,) = Decoder(1, 1, CPU)([read_encoded(path)])
        assert np.array_equal(decoded, pixels)


@pytest.mark.parametrize("name", lossy(picture()))
def test_lossy_forms_are_near_and_alike_in_all_decoders(tmp_path, name):
    suffix, data, decoder = lossy(picture())[name]
    path = write(tmp_path, name, suffix, data)
    pixels = read_pixels(path)
    assert inspect_image(path).decoder == decoder and np.abs(pixels.astype(int) - picture()).mean() < 4
    if decoder == DALI:
        (decoded,) = Decoder(1, 1, CPU)([read_encoded(path)])
        assert np.abs(decoded.astype(int) - pixels).max() <= 2


def test_the_content_decides_the_format_and_not_the_name(tmp_path):
    path = write(tmp_path, "a", "jpg", LOSSLESS["PNG"][2](picture()))
    assert inspect_image(path).format == "PNG" and np.array_equal(read_pixels(path), picture())


@pytest.mark.parametrize("name", [*FORMS, *lossy(picture())])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.95])
def test_a_file_that_is_cut_off_is_found_bad(tmp_path, name, share):
    if name in FORMS:
        suffix, data = FORMS[name][0], FORMS[name][2](picture())
    else:
        suffix, data, _ = lossy(picture())[name]
    path = write(tmp_path, name, suffix, data[: max(1, int(len(data) * share))])
    if name in ("animated GIF", "TIFF of two pages") and share > 0.4:  # the first frame is whole
        assert np.array_equal(decode_image(path), FORMS[name][3](picture()))
        return
    with pytest.raises(BadImage) as caught:
        decode_image(path)
    assert caught.value.kind in ("truncated", "not-image")


def test_orientation_is_reported_and_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(picture())
    for suffix, format in (("png", "PNG"), ("webp", "WEBP"), ("tif", "TIFF"), ("jpg", "JPEG")):
        options = {"lossless": True} if format == "WEBP" else {"compression": "jpeg"} if format == "TIFF" else {}
        path = write(tmp_path, format, suffix, pillow(image, format, exif=exif, **options))
        info = inspect_image(path)
        assert (info.orientation, info.height, info.width) == (6, *picture().shape[:2])
        assert read_pixels(path).shape == picture().shape
    path = write(tmp_path, "turned", "tif", tiff(picture(), photometric="rgb", extratags=[(274, 3, 1, 6, True)]))
    assert inspect_image(path).orientation == 6 and np.array_equal(read_pixels(path), picture())


# Deep values


def test_a_range_maps_low_to_black_and_high_to_white(tmp_path):
    plane = grey(picture())
    path = write(tmp_path, "dark", "tif", tiff(plane.astype(np.uint16) * 4 + 100))
    assert read_pixels(path).max() < 5  # over the full range it is black
    assert np.array_equal(read_pixels(path, (100.0, 1120.0)), three(plane))
    halves = read_pixels(path, (610.0, 1120.0))[..., 0]
    assert np.array_equal(halves, np.rint(np.clip((plane * 4.0 - 510) / 510, 0, 1) * 255))


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int16", "int32", "uint32"])
def test_values_without_limits_of_their_own_need_a_range(tmp_path, kind):
    plane = grey(picture())
    path = write(tmp_path, kind, "tif", tiff(plane.astype(kind)))
    with pytest.raises(UserError, match=rf"{kind}\.tif: holds .* no black and white of their own; give --range"):
        read_pixels(path)
    assert np.array_equal(read_pixels(path, (0.0, 255.0)), three(plane))


def test_a_range_is_in_the_files_own_values_also_where_white_is_lowest(tmp_path):
    plane = grey(picture())
    for kind in ("uint16", "int16", "float32"):
        path = write(tmp_path, kind, "tif", tiff(plane.astype(kind) + 100, photometric="miniswhite"))
        assert np.array_equal(read_pixels(path, (100.0, 355.0)), three(255 - plane))


def test_a_palette_of_16_bit_numbers_has_colours_of_8(tmp_path):
    numbers = np.arange(64, dtype=np.uint16).reshape(8, 8)
    colours = np.arange(3 * 65536, dtype=np.uint16).reshape(3, 65536)
    path = write(tmp_path, "a", "tif", tiff(numbers, photometric="palette", colormap=colours))
    assert inspect_image(path).bits == 8
    assert np.array_equal(read_pixels(path, (0.0, 10.0)), np.moveaxis(colours[:, numbers] >> 8, 0, 2))


def test_colours_that_are_multiplied_with_their_alpha_are_seen_as_they_are(tmp_path):
    for kind, top in (("uint8", 255), ("uint16", 65535), ("float32", 1)):
        plain = np.zeros((8, 8, 4), np.float64)
        plain[..., 0], plain[..., 1], plain[..., 3] = 0.8, 0.2, 0.6
        stored = plain * np.array([0.6, 0.6, 0.6, 1]) * top
        path = write(
            tmp_path,
            kind,
            "tif",
            tiff(
                stored.astype(kind) if kind == "float32" else np.rint(stored).astype(kind),
                photometric="rgb",
                extrasamples=["assocalpha"],
            ),
        )
        expected = 255 * (0.6 * plain[0, 0, :3] + 0.4)
        assert np.abs(read_pixels(path, (0.0, 1.0) if kind == "float32" else None)[0, 0] - expected).max() <= 1


def test_no_number_is_black_and_infinity_white(tmp_path):
    plane = np.full((8, 8), 0.5, np.float32)
    plane[0, :3] = np.nan, np.inf, -np.inf
    path = write(tmp_path, "a", "tif", tiff(plane))
    assert read_pixels(path, (0.0, 1.0))[0, :4, 0].tolist() == [0, 255, 0, 128]


def test_8_bit_images_are_not_touched_by_a_range(tmp_path):
    path = write(tmp_path, "a", "png", LOSSLESS["PNG"][2](picture()))
    assert np.array_equal(read_pixels(path, (100.0, 200.0)), picture())


def test_a_table_and_arithmetic_map_alike():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for low, high in ((0.0, 65535.0), (100.0, 4095.0), (-5.5, 70_000.25)):
        assert np.array_equal(to_8_bit(values, low, high), to_8_bit(values.astype(np.float32), low, high))


def test_fewer_bits_than_their_words_have_their_own_full_range(tmp_path):
    values = (grey(picture()).astype(np.uint32) * 4095 // 255).astype(np.uint16)
    path = write(tmp_path, "twelve", "tif", tiff(values, bitspersample=12))
    info = inspect_image(path)
    assert info.bits == 12 and np.abs(read_pixels(path).astype(int) - three(grey(picture()))).max() <= 1


def test_the_range_is_measured_over_all_channels_and_columns(tmp_path):
    colours = np.zeros((400, 500, 3), np.uint16) + np.array([1000, 20_000, 60_000], np.uint16)
    assert measured_range([write(tmp_path, "rgb", "tif", tiff(colours, photometric="rgb"))]) == (1000, 60_000)
    for width in (500, 640, 1000, 1024):
        stripes = np.zeros((1000, width), np.uint16)
        stripes[:, ::2] = 60_000
        assert measured_range([write(tmp_path, f"stripes{width}", "tif", tiff(stripes))]) == (0, 60_000)
        ramp = np.broadcast_to(np.linspace(0, 60_000, width).astype(np.uint16), (1000, width))
        low, high = measured_range([write(tmp_path, f"ramp{width}", "tif", tiff(ramp))])
        assert low < 200 and high > 59_800


def test_of_many_images_some_are_measured_from_first_to_last(tmp_path):
    paths = [write(tmp_path, f"{index:03}", "tif", tiff(np.full((8, 8), index, np.uint16))) for index in range(450)]
    low, high = measured_range(paths)
    assert low < 3 and high > 446 and measured_range(paths) == (low, high)
    assert measured_range([]) is None and measured_range([tmp_path / "none.tif"]) is None


# What is no picture of colours


@pytest.mark.parametrize("pixels, options", [
    (np.zeros((16, 16, 5), np.uint8), {"photometric": "minisblack", "planarconfig": "contig"}),
    (np.zeros((16, 16, 2), np.uint8), {"photometric": "minisblack", "planarconfig": "contig"}),
    (np.zeros((16, 16), np.complex64), {}),
    (np.zeros((16, 16, 4), np.uint16), {"photometric": "separated"}),
    (np.zeros((4, 16, 16), np.uint8), {"photometric": "minisblack", "volumetric": True, "tile": (4, 16, 16)}),
])  # fmt: skip
def test_channels_that_are_no_colours_are_refused(tmp_path, pixels, options):
    path = write(tmp_path, "a", "tif", tiff(pixels, **options))
    with pytest.raises(BadImage, match="save") as caught:
        inspect_image(path)
    assert caught.value.kind == "channels"


def test_a_ppm_of_16_bits_is_refused(tmp_path):
    path = write(tmp_path, "a", "ppm", b"P6\n4 4\n65535\n" + bytes(4 * 4 * 6))
    with pytest.raises(BadImage, match="a PPM of 16 bits.*save it as PNG or TIFF"):
        inspect_image(path)
    path.write_bytes(b"P5\n4 4\n4095\n" + bytes([15, 255] * 16))
    assert read_pixels(path).min() == 255


def test_several_pages_are_said(tmp_path):
    for name in ("TIFF of two pages", "animated GIF"):
        suffix, _, encode, _ = OTHERS[name]
        assert inspect_image(write(tmp_path, name, suffix, encode(picture()))).frames == 2
    assert inspect_image(write(tmp_path, "one", "tif", LOSSLESS["TIFF LZW"][2](picture()))).frames == 1


# In processes, beside DALI


@pytest.mark.slow
def test_a_batch_of_many_decoders_comes_in_order_and_a_bad_image_costs_itself(tmp_path):
    paths = [write(tmp_path, name, form[0], form[2](picture())) for name, form in FORMS.items()]
    torn = write(tmp_path, "torn", "tif", FORMS["TIFF 16 bit"][2](picture()))
    encoded = [Encoded(read_encoded(path), inspect_image(path)) for path in (*paths, torn)]
    encoded[-1].data[200:-200] = 255
    decoder = ImageDecoder(len(encoded), 2, CPU, None)
    for _ in range(2):
        found = decoder(encoded)
        assert isinstance(found[-1], BadImage) and "damaged or truncated" in str(found[-1])
        for path, pixels in zip(paths, found, strict=False):
            assert np.array_equal(pixels, read_pixels(path)), path.name


@pytest.mark.slow
def test_a_decoder_that_dies_costs_its_image_alone(tmp_path, monkeypatch):
    good = write(tmp_path, "good", "tif", tiff(deep(grey(picture()))))
    image = Encoded(read_encoded(good), inspect_image(good))
    monkeypatch.setattr("pplfast.data.decoding_processes.decode_bytes", _die_of_zeros)
    dead = Encoded(np.zeros(10, np.uint8), image.info)
    decoder = ImageDecoder(3, 2, CPU, None)
    found = decoder([image, dead, image])
    assert (
        "tifffile ends its process over it" in str(found[1])
        and np.array_equal(found[0], found[2])
        and found[0].shape == (*picture().shape[:2], 3)
    )


def _die_of_zeros(data, info, values):
    import os

    from pplfast.data.decoding_processes import decode_bytes

    if not any(data):
        os._exit(1)
    return decode_bytes(data, info, values)
