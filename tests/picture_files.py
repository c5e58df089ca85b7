"""One picture in many formats and modes, each with the 8-bit RGB pixels that it means, made without pplfast."""

import io
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

SIZE = (52, 44)  # width, height


def picture(size: tuple[int, int] = SIZE) -> np.ndarray:
    """uint8 (H, W, 3): smooth, so that lossy forms are near it, and different in each channel."""
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    planes = (0.5 + 0.5 * np.sin(3 * x + 2 * y), x * y, 1 - 0.7 * x)
    return np.rint(255 * np.dstack(planes)).astype(np.uint8)


def grey(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).convert("L"))


def with_alpha(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 4): from transparent at the left to opaque at the right."""
    ramp = np.linspace(0, 255, pixels.shape[1]).astype(np.uint8)
    return np.dstack([pixels, np.broadcast_to(ramp, pixels.shape[:2])])


def on_white(pixels: np.ndarray) -> np.ndarray:
    """What of (H, W, C + 1) is seen on white, (H, W, 3)."""
    share = pixels[..., -1:] / 255
    seen = np.rint(pixels[..., :-1] * share + 255 * (1 - share)).astype(np.uint8)
    return np.broadcast_to(seen, (*seen.shape[:2], 3))


def three(plane: np.ndarray) -> np.ndarray:
    return np.dstack([plane] * 3)


def pillow(pixels: np.ndarray | Image.Image, format: str, **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def tiff(pixels: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def deep(pixels: np.ndarray) -> np.ndarray:
    """The same over the full range of 16 bits."""
    return pixels.astype(np.uint16) * 257


def palette(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels).quantize(32)


def as_rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


# name -> (suffix, decoder, bytes of a picture, its pixels). Those that keep the picture's own pixels first.
Form = tuple[str, str, Callable[[np.ndarray], bytes], Callable[[np.ndarray], np.ndarray]]
LOSSLESS: dict[str, Form] = {
    "PNG": ("png", "dali", lambda p: pillow(p, "PNG"), lambda p: p),
    "PNG 16 bit": ("png", "imagecodecs", lambda p: imagecodecs.png_encode(deep(p)), lambda p: p),
    "WebP lossless": ("webp", "dali", lambda p: pillow(p, "WEBP", lossless=True), lambda p: p),
    "BMP": ("bmp", "dali", lambda p: pillow(p, "BMP"), lambda p: p),
    "PPM": ("ppm", "pillow", lambda p: pillow(p, "PPM"), lambda p: p),
    "JPEG 2000": ("jp2", "pillow", lambda p: pillow(p, "JPEG2000", irreversible=False), lambda p: p),
    "TIFF strips": ("tif", "dali", lambda p: tiff(p, photometric="rgb", rowsperstrip=8), lambda p: p),
    "TIFF LZW": ("tiff", "dali", lambda p: tiff(p, photometric="rgb", compression="lzw"), lambda p: p),
    "TIFF deflate, tiles": (
        "tif",
        "dali",
        lambda p: tiff(p, photometric="rgb", tile=(16, 16), compression="zlib", predictor=True),
        lambda p: p,
    ),
    "TIFF planes": (
        "tif",
        "tifffile",
        lambda p: tiff(np.moveaxis(p, 2, 0).copy(), photometric="rgb", planarconfig="separate"),
        lambda p: p,
    ),
    "TIFF 16 bit": ("tif", "tifffile", lambda p: tiff(deep(p), photometric="rgb", compression="lzw"), lambda p: p),
    "BigTIFF": ("tif", "dali", lambda p: tiff(p, photometric="rgb", bigtiff=True), lambda p: p),
}
OTHERS: dict[str, Form] = {
    "grey PNG": ("png", "dali", lambda p: pillow(grey(p), "PNG"), lambda p: three(grey(p))),
    "grey BMP": ("bmp", "pillow", lambda p: pillow(grey(p), "BMP"), lambda p: three(grey(p))),
    "grey TIFF": ("tif", "dali", lambda p: tiff(grey(p)), lambda p: three(grey(p))),
    "grey 16-bit PNG": (
        "png",
        "imagecodecs",
        lambda p: imagecodecs.png_encode(deep(grey(p))),
        lambda p: three(grey(p)),
    ),
    "grey 16-bit TIFF": ("tif", "tifffile", lambda p: tiff(deep(grey(p)), byteorder=">"), lambda p: three(grey(p))),
    "grey 16-bit JPEG 2000": (
        "jp2",
        "imagecodecs",
        lambda p: imagecodecs.jpeg2k_encode(deep(grey(p)), reversible=True, level=0),
        lambda p: three(grey(p)),
    ),
    "inverted grey TIFF": (
        "tif",
        "tifffile",
        lambda p: tiff(grey(p), photometric="miniswhite"),
        lambda p: three(255 - grey(p)),
    ),
    "black and white TIFF": (
        "tif",
        "tifffile",
        lambda p: pillow(Image.fromarray(p).convert("1"), "TIFF", compression="group4"),
        lambda p: as_rgb(Image.fromarray(p).convert("1")),
    ),
    "grey + alpha PNG": (
        "png",
        "pillow",
        lambda p: pillow(Image.fromarray(with_alpha(p)).convert("LA"), "PNG"),
        lambda p: on_white(np.asarray(Image.fromarray(with_alpha(p)).convert("LA"))),
    ),
    "RGBA PNG": ("png", "pillow", lambda p: pillow(with_alpha(p), "PNG"), lambda p: on_white(with_alpha(p))),
    "RGBA 16-bit PNG": (
        "png",
        "imagecodecs",
        lambda p: imagecodecs.png_encode(deep(with_alpha(p))),
        lambda p: on_white(with_alpha(p)),
    ),
    "RGBA WebP": (
        "webp",
        "pillow",
        lambda p: pillow(with_alpha(p), "WEBP", lossless=True, exact=True),
        lambda p: on_white(with_alpha(p)),
    ),
    "RGBA TIFF": (
        "tif",
        "tifffile",
        lambda p: tiff(with_alpha(p), photometric="rgb", extrasamples=["unassalpha"]),
        lambda p: on_white(with_alpha(p)),
    ),
    "RGB and infrared TIFF": (
        "tif",
        "tifffile",
        lambda p: tiff(with_alpha(p), photometric="rgb", extrasamples=["unspecified"]),
        lambda p: p,
    ),
    "palette PNG": ("png", "dali", lambda p: pillow(palette(p), "PNG"), lambda p: as_rgb(palette(p))),
    "palette TIFF": ("tif", "tifffile", lambda p: pillow(palette(p), "TIFF"), lambda p: as_rgb(palette(p))),
    "palette with a transparent colour": (
        "png",
        "pillow",
        lambda p: pillow(palette(p), "PNG", transparency=3),
        lambda p: np.where((np.asarray(palette(p)) == 3)[..., None], 255, as_rgb(palette(p))),
    ),
    "GIF": ("gif", "pillow", lambda p: pillow(palette(p), "GIF"), lambda p: as_rgb(palette(p))),
    "animated GIF": (
        "gif",
        "pillow",
        lambda p: pillow(palette(p), "GIF", save_all=True, append_images=[palette(255 - p)]),
        lambda p: as_rgb(palette(p)),
    ),
    "TIFF of two pages": ("tif", "dali", lambda p: tiff(np.stack([grey(p), 255 - grey(p)])), lambda p: three(grey(p))),
    "CMYK TIFF": (
        "tif",
        "tifffile",
        lambda p: pillow(Image.fromarray(p).convert("CMYK"), "TIFF"),
        lambda p: as_rgb(Image.fromarray(p).convert("CMYK")),
    ),
}


def lossy(pixels: np.ndarray) -> dict[str, tuple[str, bytes, str]]:
    """name -> (suffix, bytes, decoder)"""
    image = Image.fromarray(pixels)
    return {
        "JPEG": ("jpg", pillow(image, "JPEG", quality=95), "dali"),
        "CMYK JPEG": ("jpg", pillow(image.convert("CMYK"), "JPEG", quality=95), "pillow"),
        "WebP": ("webp", pillow(image, "WEBP", quality=90), "dali"),
        "JPEG 2000 lossy": (
            "jp2",
            pillow(image, "JPEG2000", irreversible=True, quality_mode="rates", quality_layers=[4]),
            "pillow",
        ),
    }


def write(folder: Path, name: str, suffix: str, data: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.replace(' ', '_')}.{suffix}"
    path.write_bytes(data)
    return path
