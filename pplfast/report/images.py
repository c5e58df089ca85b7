"""Pictures of the gallery as data URIs: photographs, CAMs over them, labels over them."""

import base64
import io
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image

from pplfast.arrays import BoolArray, Float32Array, UInt8Array
from pplfast.data.classes import BACKGROUND, IGNORE
from pplfast.data.masks import voc_palette

THUMBNAIL = 288  # pixels of the long side: sharp at the size shown, also on dense screens
IGNORE_COLOUR = (224, 224, 208)
BRIGHTER = 4 / 3  # VOC's first 20 classes go up to 192
DARKEST = 60.0  # luma of 255; VOC's navy has 15
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_HEAT = colormaps["turbo"](np.arange(256))[:, :3].astype(np.float32) * 255


@cache
def display_palette() -> UInt8Array:
    """uint8 (256, 3): VOC's colours as the report shows them, the dark ones (navy, maroon) light enough to be seen.

    In the PNG files they stay as they are. Hues are kept; 255 is IGNORE_COLOUR.
    """
    colours = np.frombuffer(voc_palette(), np.uint8).reshape(256, 3).astype(np.float32) * BRIGHTER
    colours = np.minimum(colours, 255)
    colours[IGNORE] = IGNORE_COLOUR
    luma = (colours @ LUMA)[:, None]
    lifted: Float32Array = colours + (255 - colours) * np.maximum(DARKEST - luma, 0) / np.maximum(255 - luma, 1)
    lifted[BACKGROUND] = 0
    return lifted.astype(np.uint8)


def thumbnail(path: Path) -> UInt8Array:
    """The photograph, reduced; uint8 (H, W, 3)."""
    with Image.open(path) as image:
        image.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))  # lets the JPEG decoder skip detail
        photo = image.convert("RGB")  # as stored, like the loader: CAMs and labels belong to these pixels
    photo.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return np.asarray(photo)


def label_map(path: Path, height: int, width: int) -> UInt8Array:
    """Class values of a label PNG, reduced without mixing them; uint8 (height, width)."""
    with Image.open(path) as image:
        return np.asarray(image.resize((width, height), Image.Resampling.NEAREST))


def heat_over(photo: UInt8Array, cam: Float32Array) -> UInt8Array:
    """`cam` (values 0 to 1, any size) in colours over the grey photograph; uint8 (H, W, 3)."""
    height, width = photo.shape[:2]
    resized = Image.fromarray(cam.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    heat: Float32Array = np.clip(np.asarray(resized), 0, 1)
    grey = photo.astype(np.float32).mean(axis=2, keepdims=True)
    strength = (0.15 + 0.55 * heat)[..., None]
    blend: Float32Array = (1 - strength) * grey + strength * _HEAT[(heat * 255).astype(np.uint8)]
    return blend.astype(np.uint8)


def labels_over(photo: UInt8Array, labels: UInt8Array) -> UInt8Array:
    """Label colours over the photograph, background dimmed, borders drawn; uint8 (H, W, 3)."""
    colours = display_palette()[labels].astype(np.float32)
    grey = photo.astype(np.float32).mean(axis=2, keepdims=True)
    dimmed = 0.45 * grey + np.zeros(3, np.float32)
    painted = 0.35 * grey + 0.75 * colours
    pixels: Float32Array = np.where((labels == BACKGROUND)[..., None], dimmed, painted)
    pixels[_borders(labels)] = 255  # on any photograph one sees where a label ends
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _borders(labels: UInt8Array) -> BoolArray:
    """bool (H, W): the outermost pixels of each label, towards another one."""
    edge: BoolArray = np.zeros(labels.shape, bool)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    edge &= labels != BACKGROUND
    return edge


def data_uri(pixels: UInt8Array) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
