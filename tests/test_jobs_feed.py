"""Headers, files and decoding: batches of one size, each image once, and a thread that ends with the job."""

import threading

import numpy as np
import pytest
import torch
from jobs_small import Mean, images
from label_jobs import BAD, jpeg

from pplfast.data.image_info import ImageInfo
from pplfast.data.images import BadImage
from pplfast.jobs import feed as feed_module
from pplfast.jobs.feed import WINDOW, Feed
from pplfast.jobs.meter import Meter

CPU = torch.device("cpu")


class Keeper:
    """Admits all; what it is told."""

    def __init__(self, data, batch=4, most=None):
        self.data, self.batch, self.most = data, batch, most
        self.screened, self.admitted, self.bads, self.sums, self.stop = [], [], {}, {}, False

    def screen(self, index, image):
        self.screened.append(index)
        from pplfast.jobs.screen import screen

        return screen(self.data.images[index], True, 10**7)

    def batch_of(self, size):
        return self.batch

    def admit(self, size, count):
        self.admitted.append((size, count))
        return self.most is None or len(self.admitted) <= self.most

    def bad(self, index, error, admitted=None):
        self.bads[index] = (error.kind, admitted)

    def read(self, index, sha256, decoder):
        self.sums[index] = sha256
        assert decoder == "dali"

    def stopped(self):
        return self.stop


def feed_of(keeper, indices=None, **changes):
    job = Mean(keeper.data, **changes)
    indices = range(len(keeper.data)) if indices is None else indices
    return Feed(job, indices, keeper.batch, keeper, Meter({}), 1, CPU)


def mixed(tmp_path, count):
    """Two of three are wide."""
    data = images(tmp_path / "images", [f"im{n:03d}" for n in range(count)])
    for path in data.images[::3]:
        path.write_bytes(jpeg(24, 40))
    return data


def test_each_image_comes_once_with_those_of_its_size(tmp_path):
    keeper = Keeper(mixed(tmp_path, 30))
    batches = list(feed_of(keeper))
    assert sorted(index for batch in batches for index in batch.indices) == list(range(30))
    assert sorted(len(batch.indices) for batch in batches) == [2, 4, 4, 4, 4, 4, 4, 4]
    for batch in batches:
        assert all(image.shape == (*batch.size, 3) and image.dtype == np.uint8 for image in batch.pixels)
        assert batch.indices == sorted(batch.indices)
    assert keeper.admitted == [(batch.size, len(batch.indices)) for batch in batches]
    assert len(keeper.sums) == 30 and len(set(keeper.sums.values())) == 21


def test_only_the_images_that_are_asked_for_are_touched(tmp_path):
    keeper = Keeper(mixed(tmp_path, 9))
    batches = list(feed_of(keeper, [7, 2, 5]))
    assert sorted(keeper.screened) == [2, 5, 7] and [batch.indices for batch in batches] == [[7, 2, 5]]


def test_a_job_that_looks_at_no_pixels_reads_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(feed_module, "read_encoded", None)
    monkeypatch.setattr(feed_module, "ImageDecoder", None)
    keeper = Keeper(mixed(tmp_path, 5))
    assert sum(len(batch.indices) for batch in feed_of(keeper, decodes=False)) == 5 and not keeper.sums


def test_headers_are_read_ahead_within_a_window_alone(tmp_path, monkeypatch):
    """Images of sizes that never fill a batch go when enough others wait."""
    data = images(tmp_path / "images", [f"im{n:03d}" for n in range(3 * WINDOW)], (8, 8))
    keeper = Keeper(data, batch=1)
    monkeypatch.setattr(keeper, "batch_of", lambda size: 4)
    monkeypatch.setattr(
        keeper, "screen", lambda index, image: keeper.screened.append(index) or ImageInfo(8, 8 + index, "RGB")
    )
    monkeypatch.setattr(feed_module.Feed, "_decode", lambda self, decoder, readers, batch: batch)
    groups, most = feed_of(keeper), 0
    for size, group in groups._groups(feed_module.ThreadPoolExecutor(1)):
        assert len(group) == 1 and size == (8 + group[0], 8)
        most = max(most, len(keeper.screened))
        if group[0] == 0:
            assert len(keeper.screened) <= WINDOW + 4
    assert keeper.screened == list(range(3 * WINDOW))


def test_bad_images_give_back_what_they_were_admitted_with(tmp_path, monkeypatch):
    data = images(tmp_path / "images", "abcdefg")
    for name, kind in zip("bc", ("empty", "damaged"), strict=True):
        (tmp_path / "images" / f"{name}.jpg").write_bytes(BAD[kind][0]())
    plain = feed_module.read_encoded

    def read(path):
        if path.stem == "d":
            raise BadImage("missing", "gone")
        if path.stem == "e":
            path.write_bytes(jpeg(80, 80))
        return plain(path)

    monkeypatch.setattr(feed_module, "read_encoded", read)
    keeper = Keeper(data, batch=7)
    batches = list(feed_of(keeper))
    assert [batch.indices for batch in batches] == [[0, 5, 6]]
    assert keeper.bads == {
        1: ("empty", None), 2: ("damaged", (64, 64)), 3: ("missing", (24, 40)), 4: ("failed", (24, 40)),
    }  # fmt: skip


def test_a_batch_of_bad_images_alone_is_passed_over(tmp_path):
    data = images(tmp_path / "images", "ab")
    for path in data.images:
        path.write_bytes(BAD["damaged"][0]())
    keeper = Keeper(data)
    assert list(feed_of(keeper)) == [] and set(keeper.bads) == {0, 1}


@pytest.mark.parametrize("where", ["screen", "admit", "read"])
def test_an_error_of_the_thread_is_raised_where_the_batches_are_taken(tmp_path, monkeypatch, where):
    keeper = Keeper(images(tmp_path / "images", "abc"))
    monkeypatch.setattr(keeper, where, lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(feed_of(keeper))


def test_a_stop_ends_the_thread_at_once(tmp_path):
    keeper = Keeper(images(tmp_path / "images", [f"im{n:03d}" for n in range(60)]))
    feed = feed_of(keeper)
    for _ in feed:
        keeper.stop = True
    feed._thread.join(5)
    assert not feed._thread.is_alive() and len(keeper.admitted) < 8
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read")]


def test_no_room_ends_it(tmp_path):
    keeper = Keeper(images(tmp_path / "images", [f"im{n:03d}" for n in range(20)]), most=2)
    feed = feed_of(keeper)
    batches = []
    for batch in feed:
        batches.append(batch)
        keeper.stop = len(batches) == 2
    assert len(batches) == 2 and len(keeper.admitted) <= 3
