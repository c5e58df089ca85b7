"""The inference loader: shapes, scales, mirrored rows, and images that cannot be used."""

import numpy as np
import pytest
import torch
from loader_helpers import MEAN, STD, dataset_of, picture, save_jpeg, small_dataset, without_quantisation
from PIL import Image

from pplfast.data.inference import InferenceLoader
from pplfast.errors import UserError

SCALES = (0.5, 1.0, 1.5)
SHAPES = ((60, 80), (45, 71), (50, 50))


def loader(dataset, scales=SCALES, flip=True, batch_size=3, **options):
    return InferenceLoader(dataset, scales, flip, MEAN, STD, batch_size, **({"threads": 1} | options))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("images"), 11, SHAPES)


@pytest.fixture(scope="module")
def batches(dataset):
    return list(loader(dataset))


def test_each_image_once_in_batches_of_one_shape(batches):
    assert sorted(index for batch in batches for index in batch.indices) == list(range(11))
    for batch in batches:
        assert {SHAPES[index % 3] for index in batch.indices} == {(batch.height, batch.width)}
    assert sorted(len(batch.indices) for batch in batches) == [1, 1, 3, 3, 3]


def test_layout_and_sizes(batches):
    for batch in batches:
        for scale, images in zip(SCALES, batch.images, strict=True):
            assert images.shape == (2 * len(batch.indices), 3, round(batch.height * scale), round(batch.width * scale))
            assert images.dtype == torch.float32 and images.is_contiguous(memory_format=torch.channels_last)


def test_mirrored_rows(batches):
    for images in (images for batch in batches for images in batch.images):
        plain, mirrored = images.chunk(2)
        assert torch.equal(mirrored, plain.flip(3))


def test_values_equal_pil(dataset, batches):
    for batch in batches:
        for row, index in enumerate(batch.indices):
            image = Image.open(dataset.images[index])
            for images in batch.images:
                height, width = images.shape[2:]
                pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), np.float64)
                error = np.abs(images[row].permute(1, 2, 0).numpy() * STD + MEAN - pixels)
                assert error.mean() < 0.4 and error.max() < 10
                if (height, width) == (batch.height, batch.width):
                    assert error.max() < 1e-4, "scale 1 is the image itself"


def test_without_flip_and_for_some_images(dataset, batches):
    few = list(loader(dataset, flip=False, indices=[7, 2, 5]))
    found = {index: batch.images for batch in few for index in batch.indices}
    assert set(found) == {2, 5, 7}
    full = {
        index: [images[row] for images in batch.images] for batch in batches for row, index in enumerate(batch.indices)
    }
    for batch in few:
        for row, index in enumerate(batch.indices):
            for images, expected in zip(batch.images, full[index], strict=True):
                assert images.shape[0] == len(batch.indices) and torch.equal(images[row], expected)


def test_values_do_not_depend_on_batch_or_threads(dataset, batches):
    alone = {batch.indices[0]: batch.images for batch in loader(dataset, batch_size=1, threads=3)}
    for batch in batches:
        for row, index in enumerate(batch.indices):
            for images, single in zip(batch.images, alone[index], strict=True):
                assert torch.equal(images[row], single[0]) and torch.equal(images[row + len(batch.indices)], single[1])


@pytest.fixture
def with_bad(tmp_path):
    """Good images, and every kind of bad one among them; index -> a word of the reason."""
    paths = [save_jpeg(tmp_path / f"{i:02d}.jpg", picture(60, 80, i)) for i in range(9)]
    paths[1].write_bytes(paths[1].read_bytes()[:600])
    paths[3].unlink()
    paths[4].write_bytes(b"hello")
    for i in (6, 7):
        paths[i].write_bytes(without_quantisation(paths[i].read_bytes()))
    return dataset_of(paths), {1: "truncated", 3: "no such file", 4: "not a JPEG", 6: "damaged", 7: "damaged"}


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_bad_images_are_reported_and_the_rest_still_comes(with_bad, batch_size):
    dataset, expected = with_bad
    reasons = {}
    found = {
        index: images[row].clone()
        for batch in loader(dataset, batch_size=batch_size, on_bad=reasons.__setitem__)
        for images in batch.images[1:2]
        for row, index in enumerate(batch.indices)
    }
    assert reasons.keys() == expected.keys() and all(word in reasons[index] for index, word in expected.items())
    assert found.keys() == {0, 2, 5, 8}
    for index, image in found.items():
        pixels = np.asarray(Image.open(dataset.images[index]), np.float64)
        assert np.abs(image.permute(1, 2, 0).numpy() * STD + MEAN - pixels).max() < 1e-4


def test_bad_image_without_handler_is_named(with_bad):
    dataset, expected = with_bad
    for index, word in expected.items():
        with pytest.raises(UserError, match=rf"{index:02d}\.jpg: .*{word}.*pplfast data check"):
            list(loader(dataset, indices=[0, index, 2]))
