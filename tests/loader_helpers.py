"""Small images with known values, and the data sets around them."""

from pathlib import Path

import numpy as np
from PIL import Image

from pplfast.data.classes import VOC
from pplfast.data.dataset import Dataset

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


def picture(height: int, width: int, seed: int) -> Image.Image:
    """Smooth random colours, far from the mean, so that no normalised pixel is 0 by chance."""
    noise = np.random.default_rng(seed).integers(150, 250, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def save_jpeg(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, "JPEG", quality=92, **options)
    return path


def dataset_of(paths: list[Path]) -> Dataset:
    labels = (np.random.default_rng(0).random((len(paths), len(VOC))) < 0.2).astype(np.uint8)
    return Dataset("small", tuple(path.stem for path in paths), tuple(paths), VOC, labels, (None,) * len(paths))


def small_dataset(folder: Path, count: int, shapes: tuple = ((60, 80), (90, 70), (50, 50))) -> Dataset:
    return dataset_of(
        [save_jpeg(folder / f"{i:03d}.jpg", picture(*shapes[i % len(shapes)], seed=i)) for i in range(count)]
    )


def without_quantisation(jpeg: bytes) -> bytes:
    """Header and end are whole, so that only decoding finds out: the quantisation tables are turned into comments."""
    return jpeg.replace(b"\xff\xdb", b"\xff\xfe")
