"""Decoding and scaling of images for a network: values, layout, and images that cannot be decoded."""

import numpy as np
import pytest
import torch
from loader_helpers import MEAN, STD, picture, save_jpeg, small_dataset, without_quantisation
from PIL import Image

from pplfast.data.encoded import read_encoded
from pplfast.data.handover import Handover
from pplfast.data.pipelines import Decoder, Resizer

CPU = torch.device("cpu")
SCALES = (0.5, 1.0, 1.5)
SHAPES = ((60, 80), (45, 71), (50, 50))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("images"), 6, SHAPES)


def decoded(paths, batch=3, threads=1):
    encoded = [read_encoded(path) for path in paths]
    decoder = Decoder(batch, threads, CPU)
    return [image for at in range(0, len(paths), batch) for image in decoder(encoded[at : at + batch])]


def resizer(batch=3, threads=1):
    return Resizer(MEAN, STD, batch, threads, Handover(CPU))


def test_decoded_pixels_equal_pil(dataset):
    for path, image in zip(dataset.images, decoded(dataset.images), strict=True):
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, np.asarray(Image.open(path)))


@pytest.mark.parametrize("scale", SCALES)
def test_scaled_values_equal_pil(dataset, scale):
    for at, (height, width) in enumerate(SHAPES):
        pixels = decoded(dataset.images[at::3])
        images = resizer()(pixels, scale)
        size = round(height * scale), round(width * scale)
        assert images.shape == (2, 3, *size) and images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)
        for row, own in zip(images, pixels, strict=True):
            expected = Image.fromarray(own).resize(size[::-1], Image.Resampling.BICUBIC)
            error = np.abs(row.permute(1, 2, 0).numpy() * STD + MEAN - np.asarray(expected, np.float64))
            assert error.mean() < 0.4 and error.max() < 10
            if scale == 1:
                assert error.max() < 1e-4, "the image itself"


def test_values_do_not_depend_on_batch_or_threads(dataset):
    pixels = decoded(dataset.images[::3])
    together = resizer()(pixels, 0.5)
    for row, (path, own) in enumerate(zip(dataset.images[::3], pixels, strict=True)):
        (alone,) = decoded([path], 1, 3)
        np.testing.assert_array_equal(alone, own)
        assert torch.equal(resizer(1, 3)([alone], 0.5)[0], together[row])


def test_what_was_returned_stays_when_more_is_made(dataset):
    one, pixels = resizer(), decoded(dataset.images[::3])
    first = one(pixels, 1.0)
    kept = first.clone()
    for _ in range(4):
        one([image // 2 for image in pixels], 1.0)
    assert torch.equal(first, kept)


@pytest.mark.parametrize("batch", [1, 4, 9])
def test_a_damaged_image_costs_its_own_result_only(tmp_path, batch):
    paths = [save_jpeg(tmp_path / f"{i}.jpg", picture(60, 80, i)) for i in range(9)]
    for i in (3, 6, 7):  # whole to the eye
        paths[i].write_bytes(without_quantisation(paths[i].read_bytes()))
    found = decoded(paths, batch)
    assert [i for i, image in enumerate(found) if image is None] == [3, 6, 7]
    for path, image in zip(paths, found, strict=True):
        if image is not None:
            np.testing.assert_array_equal(image, np.asarray(Image.open(path)))
