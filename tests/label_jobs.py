"""Images that cannot be labelled, one of each kind, and small labelling jobs."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from pplfast.benchmarks.label_data import label_arguments
from pplfast.cli import main

EXIF_ORIENTATION = 0x0112


def jpeg(width: int = 40, height: int = 24, mode: str = "RGB", seed: int = 40, **options) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((width, height), Image.BICUBIC).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def _of_size(width: int, height: int) -> bytes:
    """A JPEG whose header claims a size: whoever decodes it before looking at the header is lost."""
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def _other(kind: str, image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _rotated() -> bytes:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    return jpeg(exif=exif)


def _damaged() -> bytes:
    """Whole to the eye, with its end marker, but the Huffman tables are gone: the decoder gives up."""
    data = bytearray(jpeg(64, 64))
    at = data.index(b"\xff\xc4")
    data[at + 4 : at + 21] = b"\xff" * 17
    return bytes(data)


# kind in the manifest -> (bytes of the file, words of the reason); None: there is no file
BAD: dict[str, tuple[Callable[[], bytes] | None, str]] = {
    "truncated": (lambda: jpeg()[:-400], "truncated"),
    "not-image": (lambda: b"<html>not found</html>", "not a JPEG but an HTML"),
    "empty": (lambda: b"", "empty file"),
    "too-small": (lambda: jpeg(1, 1), "1 x 1 pixels: too small"),
    "too-large": (lambda: _of_size(20_000, 20_000), "20000 x 20000|400000000 pixels"),
    "channels": (lambda: _other("TIFF", Image.new("LAB", (40, 24))), "channels that are no colours"),
    "rotated": (_rotated, "turned by EXIF .orientation 6"),
    "damaged": (_damaged, "damaged"),
    "missing": (None, "no such file"),
}


def label(root: Path, out: Path, *more: str) -> int:
    """`pplfast label` in this process; the exit code."""
    return main(label_arguments(root, out, "--jobs", "1", *more))


def pngs(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out).with_suffix("")): path.read_bytes() for path in sorted(out.rglob("*.png"))}
