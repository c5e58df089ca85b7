"""The training loader against PIL and numpy, and its promises about order, ranks, resuming, caching and bad files."""

import dataclasses

import numpy as np
import pytest
import torch
from loader_helpers import MEAN, STD, dataset_of, picture, save_jpeg, small_dataset, without_quantisation
from PIL import Image

from pplfast.data import sampling
from pplfast.data.handover import Handover
from pplfast.data.loader import TrainLoader
from pplfast.data.pipelines import Augmenter
from pplfast.errors import UserError
from pplfast.recipe import AugmentConfig

AUGMENT = AugmentConfig(crop=64, resize_long=(40, 96), flip=0.5)


def loader(dataset, batch_size=4, augment=AUGMENT, **options):
    return TrainLoader(dataset, augment, MEAN, STD, batch_size, **({"threads": 1, "cache_mb": 64} | options))


def rows(batches):
    """index -> image, of the rows that count."""
    return {
        int(index): image
        for batch in batches
        for index, image, weight in zip(batch.indices, batch.images, batch.weights, strict=True)
        if weight
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[index], expected[index]) for index in expected)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("images"), 11)


@pytest.fixture(scope="module")
def epochs(dataset):
    """Two epochs of one rank without a cache: what every other way of loading must equal."""
    one = loader(dataset, cache_mb=0)
    return [list(one.epoch(number)) for number in range(2)]


def reference(path, uniforms, augment):
    """The same augmentation in PIL and numpy, whole image first: resize, normalise, cut, pad with 0, flip."""
    image = Image.open(path).convert("RGB")
    height, width = image.height, image.width
    low, high = augment.resize_long
    factor = (low + int(uniforms[0] * (high - low + 1))) / max(height, width)
    height, width = int(np.rint(height * factor)), int(np.rint(width * factor))
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float64)
    pixels = (pixels - MEAN) / STD
    out = np.zeros((augment.crop, augment.crop, 3))
    source, target = [], []
    for size, position in ((height, uniforms[1]), (width, uniforms[2])):
        visible = min(size, augment.crop)
        source.append(slice(start := int(position * (size - visible + 1)), start + visible))
        target.append(slice(start := int(position * (augment.crop - visible + 1)), start + visible))
    out[tuple(target)] = pixels[tuple(source)]
    return out[:, ::-1] if uniforms[3] < augment.flip else out


def assert_equals_reference(dataset, batches, augment):
    uniforms = sampling.epoch_uniforms(0, 0, len(dataset))
    for index, image in rows(batches).items():
        found, expected = image.permute(1, 2, 0).numpy(), reference(dataset.images[index], uniforms[index], augment)
        assert ((found == 0) == (expected == 0)).all(), "padding is exactly 0, and only padding"
        error = np.abs(found - expected) * STD
        # PIL rounds between its two passes and weighs the border otherwise: a few grey levels at most.
        assert error.max() < 6 and error.mean() < 0.4


def test_values_equal_pil_and_numpy(dataset, epochs):
    padded = [bool((image == 0).all(dim=0).any()) for image in rows(epochs[0]).values()]
    assert any(padded) and not all(padded), "both cases are covered"
    assert_equals_reference(dataset, epochs[0], AUGMENT)


def test_values_equal_pil_and_numpy_on_real_images(voc_mini):
    real = dataset_of(sorted((voc_mini / "JPEGImages").glob("*.jpg"))[:6])
    augment = AugmentConfig(crop=224, resize_long=(160, 320))
    uniforms = sampling.epoch_uniforms(0, 0, len(real))
    for index, image in rows(loader(real, augment=augment).epoch(0)).items():
        expected = reference(real.images[index], uniforms[index], augment)
        assert np.abs(image.permute(1, 2, 0).numpy() - expected).mean() * 57 < 0.4


def test_batch_layout(dataset, epochs):
    for batch in epochs[0]:
        assert batch.images.dtype == torch.float32 and batch.images.shape[1:] == (3, 64, 64)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.targets.dtype == batch.weights.dtype == torch.float32 and batch.indices.dtype == torch.int64
        assert (batch.targets.numpy() == dataset.labels[batch.indices.numpy()]).all()
    assert [len(batch.indices) for batch in epochs[0]] == [4, 4, 3]
    assert [batch.total for batch in epochs[0]] == [4, 4, 3]


def test_batches_stay_valid_after_later_ones_and_after_the_loader(dataset, epochs):
    one = loader(dataset)
    kept = list(one.epoch(0))
    list(one.epoch(1))
    del one
    assert_same(rows(kept), rows(epochs[0]))


def test_epochs_differ_and_seeds_differ(dataset, epochs):
    first, second, other = rows(epochs[0]), rows(epochs[1]), rows(loader(dataset, seed=1).epoch(0))
    for changed in (second, other):
        assert sum(torch.equal(first[index], changed[index]) for index in first) == 0


@pytest.mark.parametrize(("world_size", "batch_size", "threads"), [(2, 2, 1), (2, 2, 3), (3, 4, 2), (4, 3, 1)])
def test_values_do_not_depend_on_ranks_or_threads(dataset, epochs, world_size, batch_size, threads):
    ranks = [
        list(loader(dataset, batch_size, rank=rank, world_size=world_size, threads=threads).epoch(1))
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    counted = [int(index) for batches in ranks for batch in batches for index in batch.indices[batch.weights > 0]]
    assert sorted(counted) == list(range(len(dataset)))
    assert_same(rows([batch for rank in ranks for batch in rank]), rows(epochs[1]))


def test_continues_within_an_epoch(dataset, epochs):
    continued = list(loader(dataset).epoch(1, start=1))
    assert [batch.indices.tolist() for batch in continued] == [batch.indices.tolist() for batch in epochs[1][1:]]
    assert_same(rows(continued), rows(epochs[1][1:]))


def test_an_epoch_may_be_left_early(dataset, epochs):
    one = loader(dataset)
    next(iter(one.epoch(0)))
    assert_same(rows(one.epoch(1)), rows(epochs[1]))


@pytest.mark.parametrize("cache_kb", [0, 70, 1024])
def test_cached_epoch_equals_uncached(dataset, epochs, cache_kb):
    one = loader(dataset, cache_mb=cache_kb / 1024)
    list(one.epoch(0))
    assert one.cache.bytes <= cache_kb * 1024
    assert len(one.cache) == {0: 0, 70: 4, 1024: 11}[cache_kb]
    assert_same(rows(one.epoch(1)), rows(epochs[1]))


def test_cached_images_are_not_read_again(tmp_path):
    small = small_dataset(tmp_path, 5)
    one = loader(small)
    expected = rows(one.epoch(0))
    for path in small.images:
        path.unlink()
    assert_same(rows(one.epoch(0)), expected)


def test_jitter_leaves_padding_zero_and_changes_pixels(dataset, epochs):
    changed = rows(loader(dataset, augment=dataclasses.replace(AUGMENT, jitter=0.3)).epoch(0))
    for index, plain in rows(epochs[0]).items():
        assert torch.equal((plain == 0).all(dim=0), (changed[index] == 0).all(dim=0))
        assert not torch.equal(plain, changed[index])


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        ((1, 1, 1), [100, 150, 60]),
        ((1.2, 1, 1), [120, 180, 72]),
        ((1, 0.5, 1), [114, 139, 94]),  # contrast: towards the middle grey, 128
        ((2, 1, 1), [200, 255, 120]),  # clipped like the uint8 pixels of a file
        ((1, 1, 0), [125, 125, 125]),  # saturation 0: the luma 0.299 R + 0.587 G + 0.114 B = 124.8
    ],
)
def test_jitter_factors(factors, expected):
    augmenter = Augmenter(8, True, (0, 0, 0), (1, 1, 1), 1, 1, Handover(torch.device("cpu")))
    corner = np.zeros((1, 2), np.float32)
    whole = sampling.Geometry(corner + 8, corner, corner + 8, corner, np.zeros(1, np.int32))
    named = dict(zip(("brightness", "contrast", "saturation"), np.float32(factors)[:, None], strict=True))
    image = augmenter([np.full((8, 8, 3), (100, 150, 60), np.uint8)], whole, named)[0]
    assert np.abs(image.numpy() - np.array(expected)[:, None, None]).max() <= 1


def test_grey_images_come_as_rgb_and_orientation_is_not_applied(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    image = picture(64, 40, 0)
    paths = [save_jpeg(tmp_path / "grey.jpg", image.convert("L")), save_jpeg(tmp_path / "exif.jpg", image, exif=turned)]
    augment = AugmentConfig(crop=64, resize_long=(64, 64), flip=0)
    grey, exif = (image for _, image in sorted(rows(loader(dataset_of(paths), augment=augment).epoch(0)).items()))
    pixels = grey.numpy() * np.array(STD)[:, None, None] + np.array(MEAN)[:, None, None]
    visible = (grey != 0).all(dim=0).numpy()
    assert visible.sum() == 64 * 40 and np.ptp(pixels[:, visible], axis=0).max() < 1e-3
    assert (exif != 0).all(dim=0).any(dim=1).sum() == 64, "64 rows high, as stored"
    assert (exif != 0).all(dim=0).any(dim=0).sum() == 40


def damaged(folder, kind):
    path = save_jpeg(folder / "bad.jpg", picture(60, 80, 0))
    data = path.read_bytes()
    if kind == "channels":
        picture(60, 80, 0).convert("LAB").save(path, "TIFF")
    elif kind == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {
                "truncated": data[: len(data) // 2],
                "empty": b"",
                "not a JPEG": b"hello",
                "damaged": without_quantisation(data),
            }[kind]
        )
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("truncated", "truncated"),
        ("damaged", "damaged"),
        ("empty", "empty"),
        ("not a JPEG", "not a JPEG"),
        ("missing", "no such file"),
        ("channels", "channels that are no colours"),
    ],
)
def test_an_unusable_image_is_named(tmp_path, kind, reason):
    good = [save_jpeg(tmp_path / f"{i}.jpg", picture(60, 80, i)) for i in range(5)]
    bad = damaged(tmp_path, kind)
    with pytest.raises(UserError, match=rf"bad\.jpg: .*{reason}.*pplfast data check") as caught:
        list(loader(dataset_of([*good, bad])).epoch(0))
    assert "\n" not in str(caught.value)


def test_refuses_a_data_set_without_labels_or_images(dataset):
    with pytest.raises(UserError, match="--labels"):
        loader(dataclasses.replace(dataset, labels=None))
    with pytest.raises(UserError, match="--list"):
        loader(dataset.subset([]))
