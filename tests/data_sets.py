"""Small data sets for the tests of pplfast.data: written on the spot, with the faults that a test asks for."""

from pathlib import Path

import numpy as np
from PIL import Image

from pplfast.data.masks import write_mask

SIZE = (40, 30)  # width, height


def save_image(path: Path, mode: str = "RGB", seed: int = 0, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


def spoil_huffman_table(data: bytes) -> bytes:
    """The JPEG with an impossible Huffman table: its header still parses and its end is there."""
    start = data.index(b"\xff\xc4") + 5
    return data[:start] + b"\xff" * 16 + data[start + 16 :]


def save_xml(path: Path, *objects: str, difficult: tuple[str, ...] = ()) -> Path:
    """An annotation as VOC writes it, with a part inside its first object: parts are not objects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = "<part><name>head</name></part>"
    things = "".join(
        f"<object><name>{name}</name><difficult>{int(name in difficult)}</difficult>{part}</object>" for name in objects
    )
    path.write_text(f"<annotation>{things}</annotation>")
    return path


def save_list(root: Path, name: str, *lines: str, kind: str = "Segmentation") -> Path:
    path = root / "ImageSets" / kind / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def make_voc(root: Path, labels: dict[str, tuple[str, ...]]) -> Path:
    """A VOC root with one good image, annotation and mask per id, and the list `train` of all of them."""
    for seed, (id, objects) in enumerate(labels.items()):
        save_image(root / "JPEGImages" / f"{id}.jpg", seed=seed)
        save_xml(root / "Annotations" / f"{id}.xml", *objects)
        write_mask(root / "SegmentationClass" / f"{id}.png", np.zeros(SIZE[::-1], np.uint8))
    save_list(root, "train", *labels)
    return root
