"""Order, shares of the ranks, and the geometry of the augmentation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pplfast.data import sampling
from pplfast.recipe import AugmentConfig


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 50), group=st.integers(1, 16), world=st.integers(1, 5))
def test_each_image_counts_once_per_epoch_over_all_ranks(count, group, world):
    order = sampling.epoch_order(seed=3, epoch=2, count=count)
    counted = np.zeros(count)
    for step in range(sampling.steps_per_epoch(count, group)):
        shards = [sampling.shard(order, step, group, rank, world) for rank in range(world)]
        assert all(1 <= len(shard.indices) == len(shard.weights) <= -(-group // world) for shard in shards)
        assert sum(shard.weights.sum() for shard in shards) == shards[0].total
        for shard in shards:
            np.add.at(counted, shard.indices, shard.weights)
    assert (counted == 1).all()


def test_ranks_together_see_the_step_of_one_rank_with_a_larger_batch():
    order = sampling.epoch_order(seed=0, epoch=0, count=23)
    for step in range(sampling.steps_per_epoch(23, 8)):
        parts = [sampling.shard(order, step, 8, rank, 3) for rank in range(3)]
        whole = sampling.shard(order, step, 8, 0, 1)
        assert np.concatenate([part.indices[part.weights > 0] for part in parts]).tolist() == whole.indices.tolist()


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 70), size=st.integers(1, 6), world=st.integers(1, 5))
def test_parts_of_one_size_hold_the_same_images_whatever_the_number_of_ranks(count, size, world):
    """One rank computes them one after the other, also those of an epoch's last step."""
    order = sampling.epoch_order(0, 0, count)
    parts = [
        part.indices.tolist()
        for step in range(sampling.steps_per_epoch(count, size * world))
        for part in (sampling.shard(order, step, size * world, rank, world) for rank in range(world))
        if part.weights.any()
    ]
    alone = [sampling.shard(order, step, size, 0, 1) for step in range(sampling.steps_per_epoch(count, size))]
    assert parts == [part.indices.tolist() for part in alone]


def test_order_depends_on_seed_and_epoch():
    orders = {tuple(sampling.epoch_order(seed, epoch, 30)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert all(sorted(order) == list(range(30)) for order in orders)
    assert (sampling.epoch_order(1, 2, 30) == sampling.epoch_order(1, 2, 30)).all()


@settings(max_examples=80, deadline=None)
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12), lanes=st.integers(1, 20), window=st.integers(1, 8))
def test_order_of_shards_has_every_image_once(sizes, lanes, window):
    units = np.repeat(np.arange(len(sizes)), sizes)
    order = sampling.sharded_order(5, 1, units, lanes, window)
    assert sorted(order) == list(range(sum(sizes)))
    assert (order == sampling.sharded_order(5, 1, units, lanes, window)).all()


def test_order_of_shards_is_shuffled_within_them_and_between_them():
    units = np.repeat(np.arange(40), 50)
    order = sampling.sharded_order(0, 0, units, 1, 20)
    met = units[order]
    firsts = [int(np.flatnonzero(met == unit)[0]) for unit in range(40)]
    assert firsts != sorted(firsts), "the shards keep their order"
    assert (np.diff(order) != 1).mean() > 0.9, "images keep their order within a shard"
    place = np.argsort(np.argsort(firsts, kind="stable"))[units] * 50 + np.arange(2000) % 50  # before the buffer
    assert np.abs(place[order] - np.arange(2000)).max() <= 20 + 20
    epochs = {tuple(sampling.sharded_order(seed, epoch, units, 1, 20)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(epochs) == 4


@pytest.mark.parametrize("world", (1, 2, 4))
def test_each_rank_reads_few_shards_at_a_time(world):
    """Of 400 shards, in 50 steps of 16 images."""
    units = np.repeat(np.arange(400), 100)
    order = sampling.sharded_order(3, 0, units, 16, 100)
    for rank in range(world):
        own = [sampling.shard(order, step, 16, rank, world).indices for step in range(1000, 1050)]
        # A lane takes 50 images there, of a window of 100 before and behind: of at most four shards.
        assert len(np.unique(units[np.concatenate(own)])) <= 4 * 16 // world


@pytest.mark.parametrize("group", (4, 8, 16))
def test_order_of_shards_is_the_same_in_parts_of_any_size(group):
    units = np.repeat(np.arange(9), 7)
    order = sampling.sharded_order(1, 1, units, 16, 5)
    steps = sampling.steps_per_epoch(63, group)
    assert np.concatenate([sampling.shard(order, step, group, 0, 1).indices for step in range(steps)]).tolist() == (
        order.tolist()
    )


def test_random_numbers_of_an_image_do_not_depend_on_the_number_of_images():
    assert (sampling.epoch_uniforms(1, 2, 10) == sampling.epoch_uniforms(1, 2, 40)[:10]).all()


def test_geometry_stays_inside_and_covers_the_range():
    augment = AugmentConfig(crop=64, resize_long=(40, 96), flip=0.25)
    shapes = np.tile([[60, 80], [90, 70], [300, 20]], (2000, 1))
    cut = sampling.geometry(shapes, sampling.epoch_uniforms(0, 0, len(shapes)), augment)
    assert (cut.roi_start >= 0).all() and (cut.roi_end <= shapes + 1e-3).all() and (cut.roi_start < cut.roi_end).all()
    assert cut.size.min() >= 1 and cut.size.max() == 64
    assert cut.place.min() == 0 and cut.place.max() == 1
    assert cut.flip.mean() == pytest.approx(0.25, abs=0.03)
    # The whole of the long side is visible where it fits: its length is uniform over 40..64 there.
    long = cut.size[:, 1][shapes[:, 1] == 80]
    counts = np.bincount(long[long < 64].astype(int), minlength=64)[40:]
    assert counts.min() > 0 and counts.max() < 3 * counts.mean()


def test_jitter_factors_are_centred_on_one():
    factors = sampling.jitter_factors(sampling.epoch_uniforms(0, 0, 5000), 0.3)
    assert set(factors) == {"brightness", "contrast", "saturation"}
    for values in factors.values():
        assert 0.7 <= values.min() < 0.71 and 1.29 < values.max() <= 1.3
        assert values.mean() == pytest.approx(1, abs=0.02)
