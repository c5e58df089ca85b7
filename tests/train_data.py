"""A data set of a few small JPEGs and a recipe of a few steps, for tests that train."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pplfast.data.dataset import DataConfig, Dataset, open_dataset
from pplfast.recipe import Recipe, recipe_from_dict

CLASSES = "cat,dog,cow"


def write_images(folder: Path, count: int = 10) -> Path:
    """JPEGs of blurred noise and labels.csv; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = ["image,labels"]
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (5, 6, 3), dtype=np.uint8))
        coarse.resize((64 + i, 60), Image.Resampling.BICUBIC).save(folder / f"photo{i}.jpg")
        rows.append(f"photo{i}.jpg,{'cat' if i % 2 else 'dog'}{';cow' if i % 3 == 0 else ''}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def open_images(folder: Path) -> Dataset:
    return open_dataset(DataConfig(str(folder), labels=str(folder / "labels.csv"), classes=CLASSES))


def make_recipe(**changes) -> Recipe:
    """EfficientNet-Lite0 at 32 pixels; `changes` are tables of the recipe, merged into it."""
    table = {
        "name": "tiny",
        "augment": {"crop": 32, "resize_long": [32, 48]},
        "optim": {"lr": 1e-3, "batch": 8, "precision": "fp32"},
        "stages": [{"position": "group3", "grid": 2, "epochs": 1}, {"position": "group5", "grid": 2, "epochs": 0.5}],
    }
    for key, value in changes.items():
        table[key] = {**table.get(key, {}), **value} if isinstance(value, dict) else value
    return recipe_from_dict(table, "test")


def without_steps(record: Any) -> Any:
    """Of a folder, as a pplfast wrote it that knew epochs alone."""
    if isinstance(record, list | tuple):
        return [without_steps(entry) for entry in record]
    if not isinstance(record, dict):
        return record
    return {key: without_steps(value) for key, value in record.items() if key != "steps" or "epochs" not in record}


RECIPE_FILE = """
name = "tiny"
[augment]
crop = 32
resize_long = [32, 48]
[optim]
lr = 1e-3
batch = 8
precision = "fp32"
[[stages]]
position = "group3"
grid = 2
epochs = 1
[[stages]]
position = "group5"
grid = 2
epochs = 0.5
"""
