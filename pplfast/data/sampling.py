"""Which images a step sees, and how each is changed: pure functions of (seed, epoch, image), without any state.

So a run continues at any step, and no number depends on how many processes, threads or batches share the work.
"""

from dataclasses import dataclass

import numpy as np

from pplfast.arrays import Float32Array, Float64Array, Int32Array, Int64Array
from pplfast.recipe import AugmentConfig

_ORDER, _AUGMENT = 0, 1  # separate random streams of one (seed, epoch)
_LONG, _Y, _X, _FLIP, _BRIGHTNESS, _CONTRAST, _SATURATION, _COLUMNS = range(8)


@dataclass(frozen=True)
class Shard:
    """One rank's part of one step."""

    indices: Int64Array  # (B,)
    weights: Float32Array  # (B,): 1, or 0 for a repeated image where a rank has none
    total: int  # images of this step over all ranks, without repeats


@dataclass(frozen=True)
class Geometry:
    """How each image of a batch is cut from its resized version and laid into the crop."""

    size: Float32Array  # (B, 2): height and width of the visible part, in pixels of the resized image
    roi_start: Float32Array  # (B, 2): that part's first corner (y, x), in pixels of the decoded image
    roi_end: Float32Array  # (B, 2): its opposite corner
    place: Float32Array  # (B, 2): where the part lies in the crop (y, x), as a fraction of the free space
    flip: Int32Array  # (B,)


def epoch_order(seed: int, epoch: int, count: int) -> Int64Array:
    """A permutation of range(count)."""
    return np.argsort(_stream(seed, epoch, _ORDER).random(count), kind="stable")


def sharded_order(seed: int, epoch: int, units: Int64Array, lanes: int, window: int) -> Int64Array:
    """A permutation of range(count), in which each rank reads few shards at a time.

    units: (count,), the shard of each image, or what else is read as a whole. The shards are shuffled and laid end to
    end, and their images cut into `lanes` of one length; in each an image moves by less than `window` places, as in a
    shuffle buffer of that size. The next image of every lane follows, and so on: in steps of `lanes` images a rank,
    which has a contiguous part of each, has the lanes of that part, on however many ranks.
    """
    random = _stream(seed, epoch, _ORDER)
    place = np.argsort(random.random(int(units.max(initial=-1)) + 1))  # a shard may have no image in a part of the set
    ordered = np.argsort(place[units], kind="stable")
    count = len(units)
    rows, extra = divmod(count, lanes)  # the first lanes have an image more: those of the last step
    lane = np.repeat(np.arange(lanes), np.where(np.arange(lanes) < extra, rows + 1, rows))
    within = np.arange(count) - np.searchsorted(lane, lane)
    moved = np.lexsort((within + window * random.random(count), lane))
    order = np.empty(count, np.int64)
    order[within * lanes + lane] = ordered[moved]
    return order


def epoch_uniforms(seed: int, epoch: int, count: int) -> Float64Array:
    """Random numbers in [0, 1) for the augmentation, (count, 7); row i belongs to image i."""
    return _stream(seed, epoch, _AUGMENT).random((count, _COLUMNS))


def _stream(seed: int, epoch: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed % 2**64, epoch, stream))))


def steps_per_epoch(count: int, group: int) -> int:
    return -(-count // group)


def shard(order: Int64Array, step: int, group: int, rank: int, world_size: int) -> Shard:
    """Rank `rank`'s contiguous part of step `step`; a step has `group` images over all ranks, the last one fewer.

    The ranks have equally many, but for the last ones. One that would have none repeats one with weight 0: each image
    counts once per epoch over all ranks, and the steps are the same whatever their number. The last step is not shared
    out evenly: parts of one size hold the same images, on however many ranks.
    """
    images = order[step * group : (step + 1) * group]
    rows = -(-group // world_size)
    own = images[rank * rows : (rank + 1) * rows]
    if len(own) == 0:
        return Shard(images[-1:], np.zeros(1, np.float32), len(images))
    return Shard(own, np.ones(len(own), np.float32), len(images))


def geometry(shapes: Int64Array, uniforms: Float64Array, augment: AugmentConfig) -> Geometry:
    """Resize, crop and flip of a batch. shapes: (B, 2) heights and widths; uniforms: (B, 7), the images' rows.

    The resized image's long side is a whole number of pixels, uniform over `resize_long` with both ends, as in the
    field's published loaders. Along each side, a larger image is cut and a smaller one placed at a uniform position.
    """
    low, high = augment.resize_long
    long = low + np.floor(uniforms[:, _LONG] * (high - low + 1))
    resized = np.maximum(1, np.rint(shapes * (long / shapes.max(axis=1))[:, None]))
    size = np.minimum(resized, augment.crop)
    position = uniforms[:, [_Y, _X]]
    start = np.floor(position * (resized - size + 1))
    free = augment.crop - size
    offset = np.floor(position * (free + 1))
    scale = shapes / resized
    return Geometry(
        size=size.astype(np.float32),
        roi_start=(start * scale).astype(np.float32),
        roi_end=((start + size) * scale).astype(np.float32),
        place=(offset / np.maximum(free, 1)).astype(np.float32),
        flip=(uniforms[:, _FLIP] < augment.flip).astype(np.int32),
    )


def jitter_factors(uniforms: Float64Array, strength: float) -> dict[str, Float32Array]:
    """Factors of brightness, contrast and saturation, each float32 (B,), uniform in 1 +- strength."""
    columns = {"brightness": _BRIGHTNESS, "contrast": _CONTRAST, "saturation": _SATURATION}
    return {name: (1 + strength * (2 * uniforms[:, column] - 1)).astype(np.float32) for name, column in columns.items()}
