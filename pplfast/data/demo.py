"""The demo data set on disk, in VOC layout: `pplfast data demo`."""

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pplfast.data.demo_config import DemoConfig
from pplfast.data.demo_objects import KINDS
from pplfast.data.demo_scene import Scene, render_scene
from pplfast.data.masks import mask_image
from pplfast.errors import UserError, explain_os_error
from pplfast.files import read_json, write_json

RENDERER = 2  # raise it with every change of the pixels: a set of another renderer is another set
MARKER = "demo.json"
JPEG_QUALITY = 92


def make_demo(out: Path, config: DemoConfig, progress: Callable[[], None] | None = None) -> bool:
    """Render the set into `out`: JPEGImages, Annotations, SegmentationClass, ImageSets, classes.txt.

    The same configuration gives the same bytes. Returns False where that set is there already. The folder appears
    whole or not at all; UserError where it holds anything else. `progress` is called once per image.
    """
    _validate(config)
    marker = {"renderer": RENDERER, **asdict(config)}
    if out.exists() and _holds(out, marker):
        return False
    temporary = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        temporary.chmod(0o755)
        _write(temporary, config, progress)
        write_json(temporary / MARKER, marker)
        os.replace(temporary, out)
    except OSError as error:
        raise explain_os_error(error, out) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return True


def _validate(config: DemoConfig) -> None:
    for name, lowest in (("seed", 0), ("train", 1), ("val", 1), ("size", 64)):
        value = getattr(config, name)
        if value < lowest:
            raise UserError(f"--{name} {value}: must be {lowest} or more")


def _holds(out: Path, marker: dict[str, Any]) -> bool:
    """Whether `out` is the set of `marker`; UserError if it holds something else; False if it is empty."""
    if not out.is_dir():
        raise UserError(f"{out}: is a file; give --out a new folder")
    if not any(out.iterdir()):
        return False
    if not (out / MARKER).is_file():
        raise UserError(f"{out}: is not empty, and no demo set; give --out a new folder")
    found = read_json(out / MARKER)
    if found != marker:
        raise UserError(
            f"{out}: holds a demo set made with {found}, not {marker}; delete it, or give --out a new folder"
        )
    return True


def _write(root: Path, config: DemoConfig, progress: Callable[[], None] | None) -> None:
    for folder in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    classes = "".join(f"{kind.name}={value}\n" for value, kind in enumerate(KINDS, 1))
    (root / "classes.txt").write_text(classes, encoding="utf-8")
    for part, (name, count) in enumerate((("train", config.train), ("val", config.val))):
        ids = [f"{name}_{index:05d}" for index in range(count)]
        for index, id in enumerate(ids):
            # A generator per image: no image depends on how many there are before it.
            scene = render_scene(config.size, np.random.default_rng((config.seed, part, index)))
            Image.fromarray(scene.image).save(root / "JPEGImages" / f"{id}.jpg", quality=JPEG_QUALITY)
            mask_image(scene.mask).save(root / "SegmentationClass" / f"{id}.png")
            (root / "Annotations" / f"{id}.xml").write_text(_annotation(id, scene), encoding="utf-8")
            if progress:
                progress()
        (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")


def _annotation(id: str, scene: Scene) -> str:
    """VOC's XML; boxes count pixels from 1 and include their last row and column, as VOC's do."""
    height, width = scene.mask.shape
    lines = [
        "<annotation>",
        f"  <filename>{id}.jpg</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
    ]
    for kind, (left, top, right, bottom) in scene.objects:
        lines.append(
            f"  <object><name>{KINDS[kind].name}</name><difficult>0</difficult><bndbox>"
            f"<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
            f"</bndbox></object>"
        )
    return "\n".join([*lines, "</annotation>"]) + "\n"
