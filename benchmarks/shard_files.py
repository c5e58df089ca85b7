"""Data sets in WebDataset tar shards, written for tests and benchmarks: from files, or of small pictures made here.

The same samples give the same bytes: no times, no owners.
"""

import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from pplfast.data.dataset import Dataset
from pplfast.data.stored import Stored
from pplfast.storage import join, read_file, write_file

CLASSES = ("disc", "square", "cross")  # of `tiny_jpegs`; a colour each, so that a small network learns them
COLOURS = ((220, 60, 50), (60, 190, 70), (60, 90, 230))
DIFFERENT = 300  # pictures that are drawn; the others repeat them
QUALITY = 85

Sample = tuple[str, Mapping[str, bytes]]  # the key, and contents by suffix: {".jpg": ..., ".cls": ...}


@dataclass(frozen=True)
class Tiny:
    """jpeg: of one picture; mask: PNG of its classes' values, 1 on, 0 the background; classes: indices, ascending."""

    jpeg: bytes
    mask: bytes
    classes: tuple[int, ...]

    @property
    def cls(self) -> bytes:
        """Text of a `.cls` member: indices, separated by commas."""
        return ",".join(map(str, self.classes)).encode()


def write_shards(folder: str, samples: Iterable[Sample], per_shard: int, prefix: str = "images") -> list[str]:
    """`<folder>/<prefix>-000000.tar` and on, each of `per_shard` samples (the last one: of fewer), each written whole.

    folder: a path or a URL; made if it is a path. Returns the shards. A shard lies in memory while it is made."""
    shards: list[str] = []
    rest = iter(samples)
    while chunk := list(islice(rest, per_shard)):
        path = join(folder, f"{prefix}-{len(shards):06d}.tar")
        write_file(path, tar_of(chunk))
        shards.append(path)
    return shards


def tar_of(samples: Iterable[Sample]) -> bytes:
    """A tar's bytes; names of up to 100 bytes have a plain header, longer ones a PAX one before it."""
    buffer = io.BytesIO()
    for key, contents in samples:
        for suffix, data in contents.items():
            info = tarfile.TarInfo(f"{key}{suffix}")
            info.size = len(data)
            buffer.write(info.tobuf(tarfile.PAX_FORMAT))
            buffer.write(data)
            buffer.write(bytes(-len(data) % tarfile.BLOCKSIZE))
    buffer.write(bytes(2 * tarfile.BLOCKSIZE))
    return buffer.getvalue()


def folder_to_shards(dataset: Dataset, folder: str, per_shard: int, prefix: str = "images") -> list[str]:
    """A data set as shards, in its order: each image's bytes, its labels as `.cls` (indices into the
    classes, separated by commas) where it has some, its mask as `.seg.png`. Dots of an id become %2E, as in the shards
    of `pplfast label`: a key ends at the first one. `<folder>/classes.txt` has the names, as `NAME=VALUE`."""
    classes = "".join(f"{name}={value}\n" for name, value in zip(dataset.classes.names, dataset.classes.ids))
    write_file(join(folder, "classes.txt"), classes.encode())
    return write_shards(folder, _samples(dataset), per_shard, prefix)


def _samples(dataset: Dataset) -> Iterator[Sample]:
    for index, (id, image, mask) in enumerate(zip(dataset.ids, dataset.images, dataset.masks)):
        parent, slash, stem = id.rpartition("/")
        contents = {os.path.splitext(str(image))[1].lower(): _contents(image)}
        if dataset.labels is not None:
            contents[".cls"] = ",".join(map(str, np.flatnonzero(dataset.labels[index]))).encode()
        if mask is not None:
            contents[".seg.png"] = _contents(mask)
        yield parent + slash + stem.replace("%", "%25").replace(".", "%2E"), contents


def _contents(file: Path | Stored) -> bytes:
    return file.read() if isinstance(file, Stored) else read_file(str(file))


def tiny_jpegs(count: int, side: int = 32, seed: int = 0) -> Iterator[tuple[str, Tiny]]:
    """Keys "0000000" and on, each with a picture of `side` x `side` pixels: one or two shapes of CLASSES on noise.

    DIFFERENT of them are drawn, by `seed`; a million take seconds."""
    drawn = [_draw(side, np.random.default_rng((seed, number))) for number in range(min(count, DIFFERENT))]
    for number in range(count):
        yield f"{number:07d}", drawn[number % DIFFERENT]


def tiny_samples(count: int, side: int = 32, seed: int = 0, masks: bool = False) -> Iterator[Sample]:
    """`tiny_jpegs` as samples of shards: `.jpg`, `.cls`, and `.seg.png` with masks."""
    for key, tiny in tiny_jpegs(count, side, seed):
        contents = {".jpg": tiny.jpeg, ".cls": tiny.cls}
        yield key, {**contents, ".seg.png": tiny.mask} if masks else contents


def _draw(side: int, rng: np.random.Generator) -> Tiny:
    noise = rng.integers(90, 150, (side, side, 1), dtype=np.uint8).repeat(3, axis=2)
    image, mask = Image.fromarray(noise), Image.new("L", (side, side))
    classes = tuple(sorted(map(int, rng.permutation(len(CLASSES))[: 1 + int(rng.random() < 0.3)])))
    for at, index in enumerate(classes):
        length, width = side * rng.uniform(0.3, 0.45), side / len(classes)  # two shapes have a half each
        left = width * at + rng.uniform(0, width - length)
        top = rng.uniform(0, side - length)
        for canvas, colour in ((image, COLOURS[index]), (mask, index + 1)):
            _shape(ImageDraw.Draw(canvas), index, left, top, length, colour)
    return Tiny(_encoded(image, "JPEG", quality=QUALITY), _encoded(mask, "PNG"), classes)


def _shape(
    draw: ImageDraw.ImageDraw, index: int, left: float, top: float, length: float, colour: int | tuple[int, int, int]
) -> None:
    right, bottom, third = left + length, top + length, length / 3
    if CLASSES[index] == "disc":
        draw.ellipse((left, top, right, bottom), fill=colour)
    elif CLASSES[index] == "square":
        draw.rectangle((left, top, right, bottom), fill=colour)
    else:
        draw.rectangle((left + third, top, right - third, bottom), fill=colour)
        draw.rectangle((left, top + third, right, bottom - third), fill=colour)


def _encoded(image: Image.Image, format: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()
