"""Pictures of the gallery as data URIs: photographs, CAMs over them, labels over them."""

import base64
import io
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image

from pplfast.arrays import Float32Array, UInt8Array
from pplfast.data.classes import BACKGROUND, IGNORE
from pplfast.data.masks import voc_palette

THUMBNAIL = 288  # pixels of the long side: sharp at the size shown, also on dense screens
IGNORE_COLOUR = (224, 224, 208)
_HEAT = colormaps["turbo"](np.arange(256))[:, :3].astype(np.float32) * 255


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
    """Label colours over the photograph, background dimmed; uint8 (H, W, 3)."""
    table = np.frombuffer(voc_palette(), np.uint8).reshape(256, 3).astype(np.float32)
    table[IGNORE] = IGNORE_COLOUR
    colours = table[labels]
    grey = photo.astype(np.float32).mean(axis=2, keepdims=True)
    dimmed = 0.45 * grey + np.zeros(3, np.float32)
    painted = 0.35 * grey + 0.75 * colours
    blend: Float32Array = np.clip(np.where((labels == BACKGROUND)[..., None], dimmed, painted), 0, 255)
    return blend.astype(np.uint8)


def data_uri(pixels: UInt8Array) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
