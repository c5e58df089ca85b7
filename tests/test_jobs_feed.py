"""The feed of a job: every image once, in batches of one size, and a bad one alone."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from loader_helpers import dataset_of, picture, save_jpeg, without_quantisation
from PIL import Image

from pplfast.data.images import inspect_image
from pplfast.jobs.feed import WINDOW, Feed
from pplfast.jobs.meter import Meter

CPU = torch.device("cpu")
SHAPES = ((60, 80), (45, 71), (50, 50))


class Keeper:
    """Of images of a data set, by the book."""

    def __init__(self, dataset, batch):
        self.dataset, self.batch = dataset, batch
        self.reasons, self.digests, self.admitted, self.returned = {}, {}, 0, 0
        self.end = threading.Event()

    def screen(self, index):
        info = inspect_image(self.dataset.images[index])
        return info.height, info.width

    def batch_of(self, size):
        return self.batch

    def admit(self, size, count):
        self.admitted += count
        return not self.stopped()

    def bad(self, index, error, admitted=None):
        self.reasons[index] = error.kind
        self.returned += admitted is not None

    def read(self, index, sha256):
        self.digests[index] = sha256

    def stopped(self):
        return self.end.is_set()


def feed(keeper, decodes=True, indices=None):
    job = SimpleNamespace(dataset=keeper.dataset, batch=keeper.batch, decodes=decodes)
    return Feed(job, range(len(keeper.dataset)) if indices is None else indices, keeper, Meter({}), 1, CPU)


@pytest.fixture
def dataset(tmp_path):
    return dataset_of([save_jpeg(tmp_path / f"{i:02d}.jpg", picture(*SHAPES[i % 3], i)) for i in range(11)])


def test_each_image_once_in_batches_of_one_size(dataset):
    keeper = Keeper(dataset, 3)
    batches = list(feed(keeper))
    assert sorted(index for batch in batches for index in batch.indices) == list(range(11))
    assert sorted(len(batch.indices) for batch in batches) == [1, 1, 3, 3, 3]
    for batch in batches:
        assert batch.indices == sorted(batch.indices)
        for index, pixels in zip(batch.indices, batch.pixels, strict=True):
            assert batch.size == SHAPES[index % 3] == pixels.shape[:2]
            np.testing.assert_array_equal(pixels, np.asarray(Image.open(dataset.images[index])))
    assert keeper.digests.keys() == set(range(11)) and keeper.admitted == 11 and not keeper.reasons


def test_the_images_asked_for_and_no_pixels_where_none_are_wanted(dataset):
    keeper = Keeper(dataset, 3)
    batches = list(feed(keeper, decodes=False, indices=[7, 2, 5, 1]))
    assert [batch.indices for batch in batches] == [[7, 1], [2, 5]]
    assert not any(batch.pixels for batch in batches) and not keeper.digests


def test_headers_are_read_no_further_ahead_than_a_window():
    """Of a list where no two sizes are alike: those that wait longest go first."""
    seen = []

    class Sizes(Keeper):
        def screen(self, index):
            seen.append(index)
            return 8 + index, 8

    keeper, count = Sizes(range(80), 2), 0
    for count, batch in enumerate(feed(keeper, decodes=False), 1):
        assert batch.indices == [count - 1]
        if count == 1:
            assert len(seen) <= 2 * WINDOW + 2 * 4 * 2
    assert count == 80


@pytest.fixture
def with_bad(tmp_path):
    """Good images, and every kind of bad one among them; index -> kind."""
    paths = [save_jpeg(tmp_path / f"{i:02d}.jpg", picture(60, 80, i)) for i in range(9)]
    paths[1].write_bytes(paths[1].read_bytes()[:600])
    paths[3].unlink()
    paths[4].write_bytes(b"hello")
    for i in (6, 7):
        paths[i].write_bytes(without_quantisation(paths[i].read_bytes()))
    return dataset_of(paths), {1: "truncated", 3: "missing", 4: "not-jpeg", 6: "damaged", 7: "damaged"}


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_bad_images_are_told_and_the_rest_still_comes(with_bad, batch):
    dataset, expected = with_bad
    keeper = Keeper(dataset, batch)
    found = [index for each in feed(keeper) for index in each.indices]
    assert sorted(found) == [0, 2, 5, 8] and keeper.reasons == expected
    assert keeper.returned == 2 and keeper.admitted == 6  # the memory of those that only decoding finds


def test_an_image_that_is_replaced_meanwhile_is_bad(dataset):
    class Late(Keeper):
        def screen(self, index):
            size = super().screen(index)
            if index == 4:
                save_jpeg(self.dataset.images[4], picture(20, 30, 4))
            return size

    keeper = Late(dataset, 3)
    assert 4 not in [index for batch in feed(keeper) for index in batch.indices]
    assert keeper.reasons == {4: "failed"} and keeper.returned == 1


def test_it_ends_where_the_keeper_stops(dataset):
    keeper = Keeper(dataset, 1)
    for _batch in feed(keeper):
        keeper.end.set()
    assert keeper.admitted <= 5


def test_what_goes_wrong_in_its_thread_is_raised_where_it_is_read(dataset):
    keeper = Keeper(dataset, 2)
    keeper.read = lambda index, sha256: 1 / 0
    with pytest.raises(ZeroDivisionError):
        list(feed(keeper))
