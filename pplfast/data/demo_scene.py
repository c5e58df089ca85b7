"""One image of the demo data set: clutter, then one to three objects that partly hide each other, and the mask."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from pplfast.arrays import BoolArray, Float32Array, UInt8Array
from pplfast.data.demo_objects import (
    KINDS,
    SUPERSAMPLE,
    TEXTURE_CONTRAST,
    TEXTURE_PERIOD,
    Sprite,
    body_colour,
    render_object,
    shrink,
)

# Objects. Lengths are fractions of the image's long side.
COUNT = (0.45, 0.35, 0.20)  # probabilities of one, two, three objects
LENGTH = ((0.60, 0.85), (0.52, 0.70), (0.42, 0.55))  # of the bodies, by the number of objects
MIN_VISIBLE = 0.6  # of an object's area, after occlusion and the image's edge
MIN_BADGE = 0.9  # of its badge
ATTEMPTS = 60  # at placing an object, before it is left out

# Clutter
SHORT_SIDE = (0.75, 1.0)  # of the long side
DISTRACTORS = (10, 18)
DISTRACTOR_SIZE = (0.08, 0.42)
DISTRACTOR_TEXTURE = 0.5  # probability of blotches on a distractor, as coarse as the textures of the bodies
CLOUD_CELLS = (3, 7, 40)  # cells of smooth noise along an image, coarse to fine
CLOUD_CONTRAST = (0.30, 0.20, 0.12)
GRAIN = 0.02  # standard deviation of the pixel noise


@dataclass(frozen=True)
class Scene:
    image: UInt8Array  # (H, W, 3)
    mask: UInt8Array  # (H, W): 0 background, 1 + index into KINDS
    objects: tuple[tuple[int, tuple[int, int, int, int]], ...]  # kind, visible box: left, top, right, bottom, exclusive


@dataclass(frozen=True)
class _Placed:
    kind: int
    solid: BoolArray  # (H, W): where it is, before others hide it
    badge: BoolArray  # (H, W)
    area: float  # of the whole object and of its badge, inside the image or not
    badge_area: float


def render_scene(size: int, rng: np.random.Generator) -> Scene:
    """A scene whose long side has `size` pixels, wholly determined by the state of `rng`."""
    height, width = size, round(size * rng.uniform(*SHORT_SIDE))
    if rng.random() < 0.7:
        height, width = width, height
    canvas = _background(height, width, rng)
    count = 1 + int(rng.choice(len(COUNT), p=COUNT))
    placed: list[_Placed] = []
    for kind in rng.permutation(len(KINDS))[:count]:
        length = size * rng.uniform(*LENGTH[count - 1])
        sprite = render_object(int(kind), length, rng.uniform(0, 2 * np.pi), rng)
        for _ in range(ATTEMPTS):
            top, left = (int(rng.uniform(0, extent) - len(sprite.alpha) / 2) for extent in (height, width))
            candidate = _place(int(kind), sprite, top, left, (height, width))
            if _all_visible([*placed, candidate]):
                _blend(canvas, sprite, top, left)
                placed.append(candidate)
                break
    canvas += rng.normal(0, GRAIN, canvas.shape).astype(np.float32)
    mask = np.zeros((height, width), np.uint8)
    objects = []
    for thing, visible in zip(placed, _visible(placed), strict=True):
        mask[visible] = thing.kind + 1
        objects.append((thing.kind, _box(visible)))
    return Scene((np.clip(canvas, 0, 1) * 255).round().astype(np.uint8), mask, tuple(objects))


def _background(height: int, width: int, rng: np.random.Generator) -> Float32Array:
    """Two regions of clouded colour, and distractors over both."""
    canvas = _clouds(height, width, rng)
    other = _clouds(height, width, rng)
    rows = np.arange(height)[:, None] / height
    border = rng.uniform(0.35, 0.75) + 0.06 * np.sin(np.arange(width)[None] / width * rng.uniform(3, 12))
    canvas = np.where((rows > border)[..., None], other, canvas)
    for _ in range(rng.integers(*DISTRACTORS, endpoint=True)):
        sprite = _distractor(max(height, width) * rng.uniform(*DISTRACTOR_SIZE), rng)
        top, left = (int(rng.uniform(0, extent) - len(sprite.alpha) / 2) for extent in (height, width))
        _blend(canvas, sprite, top, left)
    return canvas


def _clouds(height: int, width: int, rng: np.random.Generator) -> Float32Array:
    light = np.ones((height, width), np.float32)
    for cells, contrast in zip(CLOUD_CELLS, CLOUD_CONTRAST, strict=True):
        light += contrast * _noise(cells, height, width, rng)
    return (body_colour(rng) * light[..., None]).astype(np.float32)


def _noise(cells: int, height: int, width: int, rng: np.random.Generator) -> Float32Array:
    """Smooth noise, float32 (height, width), about -1 to 1, of `cells` cells along each side."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def _distractor(length: float, rng: np.random.Generator) -> Sprite:
    """A polygon or an ellipse in the colours of the bodies, often with a texture, never with one of theirs."""
    side = int(np.ceil(length)) + 2
    axis = ((np.arange(side * SUPERSAMPLE) + 0.5) / SUPERSAMPLE - side / 2).astype(np.float32)
    across, down = np.meshgrid(axis, axis)
    angle, aspect, corners = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 1), rng.integers(3, 8)
    x = across * np.cos(angle) + down * np.sin(angle)
    y = (down * np.cos(angle) - across * np.sin(angle)) / aspect
    if corners < 7:
        turns = 2 * np.pi / corners
        sector = (np.arctan2(y, x) + np.pi) % turns - turns / 2
        inside = np.hypot(x, y) * np.cos(sector) < np.cos(turns / 2) * length / 2
    else:
        inside = np.hypot(x, y) < length / 2
    light = 1 - 0.2 * (across + down) / length
    if rng.random() < DISTRACTOR_TEXTURE:
        cells = max(2, round(2 * length / rng.uniform(*TEXTURE_PERIOD)))
        contrast = 2 * rng.uniform(*TEXTURE_CONTRAST)
        light = light * (1 + contrast * _noise(cells, len(axis), len(axis), rng))
    colour = body_colour(rng) * light[..., None]
    return shrink(np.clip(colour, 0, 1), inside, np.zeros_like(inside))


def _overlap(canvas_shape: tuple[int, ...], side: int, top: int, left: int) -> tuple[tuple[slice, slice], ...]:
    """The part of the canvas that a square sprite covers, and the part of the sprite that is on the canvas."""
    y0, y1 = max(top, 0), max(min(top + side, canvas_shape[0]), max(top, 0))
    x0, x1 = max(left, 0), max(min(left + side, canvas_shape[1]), max(left, 0))
    return (slice(y0, y1), slice(x0, x1)), (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))


def _blend(canvas: Float32Array, sprite: Sprite, top: int, left: int) -> None:
    on_canvas, on_sprite = _overlap(canvas.shape, len(sprite.alpha), top, left)
    alpha = sprite.alpha[on_sprite][..., None]
    canvas[on_canvas] = canvas[on_canvas] * (1 - alpha) + sprite.colour[on_sprite] * alpha


def _place(kind: int, sprite: Sprite, top: int, left: int, shape: tuple[int, int]) -> _Placed:
    on_canvas, on_sprite = _overlap(shape, len(sprite.alpha), top, left)
    inside = sprite.alpha >= 0.5
    solid, badge = np.zeros(shape, bool), np.zeros(shape, bool)
    solid[on_canvas] = inside[on_sprite]
    badge[on_canvas] = sprite.badge[on_sprite]
    return _Placed(kind, solid, badge, float(inside.sum()), float(sprite.badge.sum()))


def _visible(placed: list[_Placed]) -> list[BoolArray]:
    """Per object, the pixels that no later one hides."""
    result: list[BoolArray] = []
    hidden: BoolArray = np.zeros((), bool)
    for thing in reversed(placed):
        result.append(thing.solid & ~hidden)
        hidden = hidden | thing.solid
    return result[::-1]


def _all_visible(placed: list[_Placed]) -> bool:
    return all(
        visible.sum() >= MIN_VISIBLE * thing.area and (visible & thing.badge).sum() >= MIN_BADGE * thing.badge_area
        for thing, visible in zip(placed, _visible(placed), strict=True)
    )


def _box(visible: BoolArray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
