"""Labels over photographs, for people to look at: classes in colours, borders, a dimmed background. No torch here: what
is called from worker processes."""

import io
from functools import cache

import numpy as np
from PIL import Image

from pplfast.arrays import BoolArray, Float32Array, UInt8Array
from pplfast.data.classes import BACKGROUND, IGNORE
from pplfast.data.masks import voc_palette

SUFFIX = ".overlay.jpg"
LONGEST = 2000  # pixels of the long side of a drawing
DRAWN = 16  # bytes a pixel of an image, at most, that its drawing takes
QUALITY = 85
IGNORE_COLOUR = (224, 224, 208)
BRIGHTER = 4 / 3  # VOC's first 20 classes go up to 192
DARKEST = 60.0  # luma of 255; VOC's navy has 15
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
BORDER = 600  # pixels of the long side for each one of a border's width: so it is seen at any size
_SUMS = 3 * 255 + 1  # of red, green and blue


@cache
def display_palette() -> UInt8Array:
    """uint8 (256, 3): VOC's colours as they are drawn, the dark ones (navy, maroon) light enough to be seen.

    In the PNG files they stay as they are. Hues are kept; 255 is IGNORE_COLOUR.
    """
    colours = np.frombuffer(voc_palette(), np.uint8).reshape(256, 3).astype(np.float32) * BRIGHTER
    colours = np.minimum(colours, 255)
    colours[IGNORE] = IGNORE_COLOUR
    luma = (colours @ LUMA)[:, None]
    lifted: Float32Array = colours + (255 - colours) * np.maximum(DARKEST - luma, 0) / np.maximum(255 - luma, 1)
    lifted[BACKGROUND] = 0
    return lifted.astype(np.uint8)


def labels_over(photo: UInt8Array, labels: UInt8Array, border: int = 1) -> UInt8Array:
    """Label colours over the photograph, background dimmed, borders drawn that many pixels wide.

    photo: uint8 (H, W, 3); labels: uint8 (H, W), values in masks; uint8 (H, W, 3).
    """
    grey = photo.sum(axis=2, dtype=np.uint16)
    pixels: UInt8Array = np.take(_drawn(), labels * np.int32(_SUMS) + grey, axis=0)
    pixels[_borders(labels, border)] = 255  # on any photograph one sees where a label ends
    return pixels


def draw(photo: UInt8Array, labels: UInt8Array) -> Image.Image:
    """The same, reduced to LONGEST where it is larger. Labels are not mixed."""
    height, width = labels.shape
    if max(height, width) > LONGEST:
        share = LONGEST / max(height, width)
        size = max(1, round(width * share)), max(1, round(height * share))
        photo = np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BOX))
        labels = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
    return Image.fromarray(labels_over(photo, labels, max(1, round(max(labels.shape) / BORDER))))


def encode_overlay(photo: UInt8Array, labels: UInt8Array) -> bytes:
    """The file of `draw`, a JPEG."""
    buffer = io.BytesIO()
    draw(photo, labels).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


@cache
def _drawn() -> UInt8Array:
    """uint8 (256 * _SUMS, 3): what becomes of a pixel with this label and this sum of its three values."""
    grey = np.arange(_SUMS, dtype=np.float32)[:, None] / 3
    colours = display_palette().astype(np.float32)[:, None]
    painted = 0.35 * grey + 0.75 * colours
    painted[BACKGROUND] = 0.45 * grey
    return np.clip(painted, 0, 255).astype(np.uint8).reshape(-1, 3)


def _borders(labels: UInt8Array, width: int) -> BoolArray:
    """bool (H, W): the outermost pixels of each label, towards another one."""
    edge: BoolArray = np.zeros(labels.shape, bool)
    for step in range(1, width + 1):
        across, down = labels[:, step:] != labels[:, :-step], labels[step:] != labels[:-step]
        edge[:, step:] |= across
        edge[:, :-step] |= across
        edge[step:] |= down
        edge[:-step] |= down
    edge &= labels != BACKGROUND
    return edge
