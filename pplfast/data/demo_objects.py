"""The five objects of the demo data set: a small loud badge on a large plain body.

A plain classifier needs little more than the badge, so its activation maps show little else. The body tells the
class everywhere, but faintly: through a texture of low contrast that a patch of it shows as well as the whole, and
through its shape, which is now and then that of another class. Its hue tells nothing. The badge sits at one end of a
long body, so that a blob around it is no good outline of the object. Lengths below are relative unless they say
pixels.
"""

import colorsys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pplfast.arrays import BoolArray, Float32Array, FloatArray

# The body
ASPECT = (0.52, 0.68)  # width / length
SHAPE_FIDELITY = 0.8  # probability of the shape of its own class
TEXTURE_CONTRAST = (0.06, 0.11)  # change of lightness; at twice this, plain classifiers see the bodies as well
TEXTURE_PERIOD = (8.0, 12.0)  # pixels
SATURATION = (0.25, 0.50)
LIGHTNESS = (0.50, 0.80)
WOBBLE = 0.05  # amplitude of the irregular outline
SHADING = 0.22  # darker towards the rim and away from the light

# The badge
BADGE_SIZE = (0.20, 0.25)  # diameter / length of the body
BADGE_PLACE = (0.65, 0.80)  # distance from the centre along the body / half its length

SUPERSAMPLE = 2

Level = Callable[[FloatArray, FloatArray], npt.NDArray[Any]]


@dataclass(frozen=True)
class Kind:
    """`shape`: level over (u, v) in [-1, 1], below 1 inside. `texture`: over (x, y) in periods, in [-1, 1].
    `pattern`: over the unit disc, true for the first of the two badge colours."""

    name: str
    shape: Level
    texture: Level
    pattern: Level
    colours: tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True)
class Sprite:
    colour: Float32Array  # (h, w, 3), 0 to 1
    alpha: Float32Array  # (h, w): coverage of each pixel
    badge: BoolArray  # (h, w)


def _wave(x: FloatArray) -> FloatArray:
    wave: FloatArray = np.sin(2 * np.pi * x)
    return wave


def _spiral(x: FloatArray, y: FloatArray) -> BoolArray:
    turned: BoolArray = np.sin(np.arctan2(y, x) * 2 + np.hypot(x, y) * 6) > 0
    return turned


KINDS = (
    Kind("pebble", np.hypot, lambda x, y: _wave(x) * _wave(y),
         lambda x, y: np.hypot(x, y) * 2.5 % 1 > 0.5, ((0.95, 0.05, 0.10), (1.0, 1.0, 0.95))),
    Kind("crate", lambda u, v: (u**6 + v**6) ** (1 / 6), lambda x, y: _wave(x),
         lambda x, y: np.minimum(abs(x), abs(y)) < 0.28, ((1.0, 0.90, 0.0), (0.10, 0.05, 0.60))),
    Kind("pear", lambda u, v: np.hypot(u, v / (0.78 - 0.3 * u)), lambda x, y: _wave(np.hypot(x, y)),
         lambda x, y: (x * 2.2 % 1 > 0.5) ^ (y * 2.2 % 1 > 0.5), ((0.0, 0.0, 0.05), (0.0, 0.95, 0.95))),
    Kind("leaf", lambda u, v: abs(v) + u**2, lambda x, y: _wave(x + abs(y)),
         _spiral, ((1.0, 0.0, 0.85), (1.0, 0.95, 0.55))),
    Kind("kite", lambda u, v: abs(v) + np.where(u > 0.2, (u - 0.2) / 0.8, (0.2 - u) / 1.2),
         lambda x, y: _wave(y + 0.3 * _wave(x / 2)), lambda x, y: np.arctan2(y, x) * 3 / np.pi % 1 > 0.5,
         ((0.0, 0.65, 0.10), (1.0, 0.55, 0.0))),
)  # fmt: skip


def body_colour(rng: np.random.Generator) -> Float32Array:
    """RGB, float32 (3,), of a body or a distractor: of any hue, never as saturated as a badge."""
    return np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(*SATURATION), rng.uniform(*LIGHTNESS)), np.float32)


def render_object(kind: int, length: float, angle: float, rng: np.random.Generator) -> Sprite:
    """One object of class KINDS[kind], `length` pixels long, turned by `angle` radians."""
    own = KINDS[kind]
    shape = own if rng.random() < SHAPE_FIDELITY else KINDS[rng.integers(len(KINDS))]
    half = np.array([length, length * rng.uniform(*ASPECT)]) / 2

    side = int(np.ceil(length * (1 + 2 * WOBBLE))) + 4
    axis = ((np.arange(side * SUPERSAMPLE) + 0.5) / SUPERSAMPLE - side / 2).astype(np.float32)
    across, down = np.meshgrid(axis, axis)  # pixels from the centre
    x = across * np.cos(angle) + down * np.sin(angle)  # along the body
    y = down * np.cos(angle) - across * np.sin(angle)

    level = shape.shape(x / half[0], y / half[1])
    level = level * (1 + WOBBLE * np.sin(rng.integers(3, 7) * np.arctan2(y, x) + rng.uniform(0, 2 * np.pi)))
    pattern = own.texture(x / rng.uniform(*TEXTURE_PERIOD) + rng.random(), y / rng.uniform(*TEXTURE_PERIOD))
    light = 1 - SHADING * (0.5 * np.minimum(level, 1) ** 4 + 0.5 * (across + down) / length)
    light = light * (1 + rng.uniform(*TEXTURE_CONTRAST) * pattern)
    colour = body_colour(rng) * light[..., None]

    radius = length * rng.uniform(*BADGE_SIZE) / 2
    badge_x, badge_y = (x - half[0] * rng.uniform(*BADGE_PLACE)) / radius, y / radius
    badge = np.hypot(badge_x, badge_y) < 1
    first = own.pattern(badge_x, badge_y)
    colour = np.where(badge[..., None], np.where(first[..., None], *np.array(own.colours, np.float32)), colour)
    return shrink(np.clip(colour, 0, 1), (level < 1) | badge, badge)


def shrink(colour: FloatArray, inside: BoolArray, badge: BoolArray) -> Sprite:
    """Average SUPERSAMPLE x SUPERSAMPLE samples to pixels; colours over the samples inside only."""

    def average(values: npt.NDArray[Any]) -> Float32Array:
        height, width = values.shape[0] // SUPERSAMPLE, values.shape[1] // SUPERSAMPLE
        cells = values.reshape(height, SUPERSAMPLE, width, SUPERSAMPLE, *values.shape[2:])
        mean: Float32Array = cells.mean(axis=(1, 3), dtype=np.float32)
        return mean

    alpha = average(inside)
    mean = average(colour * inside[..., None]) / np.maximum(alpha, 1e-6)[..., None]
    return Sprite(mean.astype(np.float32), alpha, average(badge) >= 0.5)
