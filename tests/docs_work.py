"""A folder in which the commands of the documentation run: small rendered images under the names that the pages use."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pplfast.benchmarks.shard_files import folder_to_shards
from pplfast.cli import main
from pplfast.data.dataset import DataConfig, open_dataset
from pplfast.data.demo import DemoConfig, make_demo
from pplfast.recipe import Recipe, load_recipe, recipe_from_dict, recipe_to_dict

IMAGES = DemoConfig(train=8, val=4, size=96)
CLASSES = ("scratch", "dent")  # of the photos, by their folders
LARGE = ("resnet50", "resnet101", "wrn38")
BACKBONE, POSITIONS = "efficientnet_lite0", ("group3", "group5", "group6", "group7")
OPTIONS = {  # appended to what is run
    "run": ("--threads", "1", "--jobs", "1"),
    "train": ("--threads", "1"),
    "refine train": ("--threads", "1"),
    "segment train": ("--threads", "1"),
    "segment test": ("--jobs", "1"),
    "label": ("--jobs", "1"),
    "eval": ("--jobs", "1"),
    "data demo": ("--train", str(IMAGES.train), "--val", str(IMAGES.val), "--size", str(IMAGES.size)),
}


def make_images(root: Path) -> None:
    """VOCdevkit/VOC2012 with its lists and image labels, runs/demo/data, photos, archive, new-photos, scans, coco,
    crops (the photos in shards), hosts."""
    voc = root / "VOCdevkit" / "VOC2012"
    make_demo(voc, IMAGES)
    shutil.copytree(voc, root / "runs" / "demo" / "data")
    lists = voc / "ImageSets" / "Segmentation"
    shutil.copy(lists / "val.txt", lists / "test.txt")
    shutil.copy(lists / "train.txt", root / "train_aug.txt")
    dataset = open_dataset(DataConfig(str(voc), list="train"))
    labels = {name: row.astype(np.float32) for name, row in zip(dataset.ids, dataset.labels)}
    np.save(root / "cls_labels.npy", labels, allow_pickle=True)
    for folder, count in (("photos", IMAGES.train), ("archive", 3)):
        for index, image in enumerate(dataset.images[:count]):
            place = root / folder / CLASSES[index % 2] / image.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, place)
    shutil.copy(dataset.images[0], root / "photos" / CLASSES[0] / "0001.jpg")  # the README's Python names it
    (root / "new-photos").mkdir()
    for image in dataset.images[:2]:
        shutil.copy(image, root / "new-photos")
    for name, image in zip(CLASSES, dataset.images):
        (root / "scans" / name).mkdir(parents=True)
        grey = np.asarray(Image.open(image).convert("L"), np.uint16)
        Image.fromarray(grey * 16).save(root / "scans" / name / "0001.png")
    make_coco(root / "coco", dataset.images[:2])
    folder_to_shards(open_dataset(DataConfig(str(root / "photos"))), str(root / "crops"), 4, "train")
    (root / "hosts").write_text("localhost slots=2\n")


def make_coco(root: Path, images: Sequence[Path]) -> None:
    """val2017 with an object in each image, of two categories in turn."""
    (root / "val2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    table: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
    for number, (image, name) in enumerate(zip(images, CLASSES), 1):
        shutil.copy(image, root / "val2017")
        width, height = Image.open(image).size
        table["images"].append({"id": number, "file_name": image.name, "width": width, "height": height})
        outline = [[10, 10, 40, 10, 40, 40]]
        table["annotations"].append({"id": number, "image_id": number, "category_id": number, "segmentation": outline})
        table["categories"].append({"id": number, "name": name})
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(table))


def write_labels(root: Path, classes: Sequence[str]) -> None:
    """labels.csv of the photos, each with one of these classes."""
    photos = root / "photos"
    names = [path.relative_to(photos) for path in sorted(photos.rglob("*.jpg"))]
    rows = [f"{name},{classes[index % len(classes)]}" for index, name in enumerate(names)]
    (root / "labels.csv").write_text("\n".join(["image,labels", *rows]) + "\n")


def small_values(recipe: Recipe) -> dict[str, Any]:
    """Values that make a recipe fit these images: the same stages and steps, an optimizer step or two of each."""
    values: dict[str, Any] = {"cam.scales": [1.0], "cam.flip": False, "cam.precision": "fp32"}
    values |= {"segmentation.scales": [1.0], "segmentation.flip": False}
    for part in ("", "affinity.", "segmentation."):
        values |= {f"{part}augment.crop": 64, f"{part}augment.resize_long": [64, 80]}
        values |= {f"{part}optim.batch": 4, f"{part}optim.precision": "fp32"}
    values |= {f"stages.{number}.epochs": 0.5 for number in range(len(recipe.stages))}
    for part in ("affinity", "segmentation"):
        if getattr(recipe, part).trained:
            values[f"{part}.epochs"] = 0.5
    for part, model in (("", recipe.model), ("segmentation.", recipe.segmentation.model)):
        if model.backbone in LARGE:  # their weights are not here
            values |= {f"{part}model.backbone": BACKBONE, f"{part}model.weights": "auto"}
            values |= {f"{part}model.output_stride": 16}
    if recipe.model.backbone in LARGE:
        values |= {f"stages.{number}.position": name for number, name in zip(range(len(recipe.stages)), POSITIONS)}
    return values


def kind(words: Sequence[str]) -> str:
    """The command's name: one word, or two where the first has actions."""
    return next((name for name in (" ".join(words[:2]), words[0]) if name in OPTIONS), words[0])


def run(words: Sequence[str], recipe: Recipe | None) -> int:
    """`pplfast WORDS` in this process, made small; the exit code. recipe: that of the words, where they have one."""
    values = small_values(recipe) if recipe else {}
    settings = [word for key, value in values.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    return main([*words, *OPTIONS.get(kind(words), ()), *settings])


def load_small_recipe(*args: Any, **options: Any) -> Recipe:
    """In place of `pplfast.load_recipe`."""
    recipe = load_recipe(*args, **options)
    table = recipe_to_dict(recipe)
    for key, value in small_values(recipe).items():
        *parents, last = key.split(".")
        place = table
        for parent in parents:
            place = place[int(parent)] if isinstance(place, list | tuple) else place[parent]
        place[last] = value
    return recipe_from_dict(table, recipe.name)
