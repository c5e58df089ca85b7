"""A small data set with labels to export: what each label map holds is known here, whatever a file says."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pplfast.data.dataset import DataConfig, Dataset, open_dataset

CAT, DOG = 8, 12
CLASSES = f"dog={DOG},cat={CAT}"  # not in the order of their values
SIZE = (90, 70)  # width, height
NAMES = ("a.jpg", "b.png", "deep/er/c.JPG", "images/d.v2.tif")


@dataclass(frozen=True)
class Labelled:
    root: Path
    labels: Path
    maps: dict[str, np.ndarray]  # uint8 (H, W) by id

    @property
    def config(self) -> DataConfig:
        return DataConfig(str(self.root), labels="none", classes=CLASSES)

    @property
    def dataset(self) -> Dataset:
        return open_dataset(self.config)


def make_labelled(folder: Path, unsure: bool = True) -> Labelled:
    """Images in three formats, in folders too, one of them called images; label PNGs with a palette."""
    root, labels, maps = folder / "photos", folder / "labels", {}
    rng = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)).save(path)
        image_id = name.rsplit(".", 1)[0]
        maps[image_id] = shapes(number, unsure)
        write_palette(labels / f"{image_id}.png", maps[image_id])
    return Labelled(root, labels, maps)


def shapes(number: int, unsure: bool) -> np.ndarray:
    """uint8 (H, W): a ring of dogs round a cat that holds a dog, a diagonal line, single pixels; none in the third."""
    found = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    if number == 2:
        return found
    found[5 + number : 60, 4:50] = DOG
    found[12:52, 10:44] = 0
    found[20:45, 15 + number : 40] = CAT
    found[28:34, 22:30] = DOG
    found[range(5, 30), range(55, 80)] = CAT
    found[65, 85] = found[0, 0] = DOG
    found[40:60, 60:90] = CAT
    found[45:50, 70:75] = 0
    if unsure:
        found[:3, 20:60] = 255
    return found


def write_palette(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    image.putpalette([value for index in range(256) for value in (index, 255 - index, index // 2)])
    image.save(path)


def record_settings(labels: Path, **classes: int) -> None:
    """What a job leaves in its folder of its classes."""
    settings = {"class_names": list(classes), "class_ids": list(classes.values())}
    (labels / "settings.json").write_text(json.dumps(settings))


def make_run(folder: Path, steps: tuple[str, ...], variants: tuple[str, ...] = ("ppl",), **more: object) -> Labelled:
    """A run folder, `folder/run`, with the labels of these steps, and its data set beside it. more: of run.json's
    "data"."""
    made = make_labelled(folder)
    data = {"root": str(made.root), "list": "", "labels": "none", "classes": CLASSES, "masks": "", "difficult": True}
    run = folder / "run"
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"data": {"train": data, "val": data, **more}}))
    for variant in variants:
        for step in steps:
            for image_id, values in made.maps.items():
                write_palette(run / variant / step / f"{image_id}.png", values)
    return made
