"""One small data set in every layout that labels are read from."""

import json
from pathlib import Path

from data_sets import SIZE, make_voc, save_image

from pplfast.data.dataset import Dataset

IMAGES = {"a1": ("ant", "bee"), "a2": ("bee",), "b1": (), "b2": ("ant",), "c": ("cow", "ant", "bee")}
NAMES = ("ant", "bee", "cow")


def shown(dataset: Dataset) -> dict[str, set[str]]:
    """What each image shows, by its name without folders."""
    names = dataset.classes.names
    return {
        id.rpartition("/")[2]: {name for name, on in zip(names, row, strict=True) if on}
        for id, row in zip(dataset.ids, dataset.known_labels, strict=True)
    }


def save_images(root: Path, images=IMAGES) -> Path:
    for seed, name in enumerate(images):
        save_image(root / f"{name}.jpg", seed=seed)
    return root


def voc(root: Path) -> Path:
    make_voc(root, IMAGES)
    return root


def table(root: Path) -> Path:
    rows = [f"{name}.jpg,{';'.join(labels)}" for name, labels in IMAGES.items()]
    (save_images(root) / "labels.csv").write_text("\n".join(["image,labels", *rows]))
    return root


def columns(root: Path) -> Path:
    rows = [",".join((name, *(str(int(known in labels)) for known in NAMES))) for name, labels in IMAGES.items()]
    (save_images(root) / "labels.csv").write_text("\n".join([",".join(("image", *NAMES)), *rows]))
    return root


def folders(root: Path) -> Path:
    """An image with several labels lies in the folder of each."""
    for seed, (name, labels) in enumerate(IMAGES.items()):
        for label in labels or ("background",):
            save_image(root / label / f"{name}.jpg", seed=seed)
    return root


def coco(root: Path) -> Path:
    save_images(root)
    annotations = [
        {"image_id": number, "category_id": 1 + NAMES.index(label), "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}
        for number, labels in enumerate(IMAGES.values())
        for label in labels
    ]
    write_coco(root / "_annotations.coco.json", IMAGES, annotations, dict(enumerate(NAMES, 1)))
    return root


def write_coco(path: Path, images, annotations, categories: dict[int, str]) -> Path:
    """images: their names, numbered from 0; with a suffix where they have one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [name if "." in name else f"{name}.jpg" for name in images]
    content = {
        "images": [{"id": i, "file_name": name, "width": SIZE[0], "height": SIZE[1]} for i, name in enumerate(names)],
        "annotations": [{"id": 100 + number, **annotation} for number, annotation in enumerate(annotations)],
        "categories": [{"id": id, "name": name} for id, name in categories.items()],
    }
    path.write_text(json.dumps(content))
    return path


def yolo(root: Path) -> Path:
    """ROOT/images and ROOT/labels; boxes and outlines, and no file for an image without an object."""
    save_images(root / "images")
    (root / "labels").mkdir()
    for name, labels in IMAGES.items():
        boxes = [f"{NAMES.index(label)} 0.5 0.5 0.1 0.1\n" for label in labels]
        outlines = [f"{NAMES.index(label)} 0.1 0.1 0.2 0.1 0.2 0.2\n" for label in labels]
        if labels:
            (root / "labels" / f"{name}.txt").write_text("".join(boxes + outlines))
    (root / "data.yaml").write_text("train: images\nnc: 3\nnames: [ant, bee, cow]\n")
    return root
