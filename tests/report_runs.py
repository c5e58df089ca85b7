"""Run folders as `pplfast run` leaves them, of truth blurred into CAMs; and a parser for their pages."""

import csv
import json
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

from pplfast.data.dataset import DataConfig, Dataset
from pplfast.data.masks import read_mask, write_mask
from pplfast.evaluate import evaluate_cams, evaluate_labels
from pplfast.files import write_json
from pplfast.labels.camfile import Cam, save_cam, stored_size

CLASSES = "cat=8,dog=12"


def make_data(root: Path, count: int = 4, stem: str = "im&age", names: tuple[str, str] = ("cat", "dog")) -> DataConfig:
    """Grey images with one rectangle of each of their classes; ids with characters that HTML must escape.

    stem: what ids begin with; names: of the classes.
    """
    generator = np.random.default_rng(0)
    rows = [("image", "labels")]
    for index in range(count):
        name = f"{stem}_{index}"
        pixels = generator.integers(90, 160, (60, 81, 3)).astype(np.uint8)
        mask = np.zeros((60, 81), np.uint8)
        values = ((8,), (12,), (8, 12))[index % 3]
        for number, value in enumerate(values):
            mask[10:45, 5 + 38 * number : 35 + 38 * number] = value
        pixels[mask > 0] += 60
        mask[:2] = 255
        (root / "masks").mkdir(parents=True, exist_ok=True)
        (root / f"{name}.jpg").parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / f"{name}.jpg")
        write_mask(root / "masks" / f"{name}.png", mask)
        rows.append((name, ";".join(names[(8, 12).index(value)] for value in values)))
    with open(root / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    classes = ",".join(f"{name}={value}" for name, value in zip(names, (8, 12), strict=True))
    return DataConfig(str(root), labels=str(root / "labels.csv"), classes=classes, masks=str(root / "masks"))


def cam_from_truth(mask: np.ndarray, value: int, shift: float) -> np.ndarray:
    """A soft disc of the object's area, `shift` radii above its centre: float16 at stride 4."""
    height, width = stored_size(*mask.shape)
    ys, xs = np.nonzero(mask == value)
    grid_y, grid_x = np.mgrid[:height, :width] * 4.0
    radius = math.sqrt(len(ys) / math.pi) + 1
    distance = np.hypot(grid_y - ys.mean() + shift * radius, grid_x - xs.mean()) / radius
    return np.exp(-(distance**2)).astype(np.float16)


def make_run(folder: Path, config: DataConfig, dataset: Dataset, variants: dict[str, float]) -> None:
    """A run folder as `pplfast run` leaves it. variants: name -> shift of its CAMs."""
    summary = {
        "pplfast": "0",
        "recipe": "demo",
        "seed": 0,
        "versions": {"torch": "2"},
        "hardware": {"cpu": "1 core"},
        "data": {
            "train": {"list": "a<b/train", "images": 9},
            "val": {"list": dataset.name, "images": len(dataset), "scored": len(dataset)},
        },
    }
    for name, shift in variants.items():
        root = folder / name
        for index, image_id in enumerate(dataset.ids):
            mask = read_mask(dataset.masks[index])
            columns = np.flatnonzero(dataset.labels[index]).astype(np.int16)
            maps = np.stack([cam_from_truth(mask, dataset.classes.ids[c], shift) for c in columns])
            cam = Cam(columns, maps, mask.shape)
            save_cam(root / "cams" / f"{image_id}.npz", cam)
            labels = np.where(cam.full().max(0) > 0.3, np.array(dataset.classes.ids)[columns][cam.full().argmax(0)], 0)
            write_mask(root / "labels" / f"{image_id}.png", labels.astype(np.uint8))
            write_mask(root / "labels_crf" / f"{image_id}.png", np.where(mask == 255, 0, labels).astype(np.uint8))
        cams = evaluate_cams(root / "cams", dataset, jobs=1)
        before = evaluate_labels(root / "labels", dataset, jobs=1)
        after = evaluate_labels(root / "labels_crf", dataset, jobs=1)
        write_json(root / "eval_cam.json", cams.to_dict())
        write_json(root / "eval_label.json", before.to_dict())
        write_json(root / "eval_label_crf.json", after.to_dict())
        (root / "train").mkdir()
        log = [json.dumps({"step": step, "loss": 0.6 * math.exp(-step / 40) + 0.1}) for step in range(1, 121)]
        (root / "train" / "log.jsonl").write_text("\n".join(log) + '\n{"step": 121, "lo')
        summary[name] = {
            "cam_miou": cams.miou,
            "cam_threshold": cams.threshold,
            "label_before_crf_miou": before.miou,
            "label_miou": after.miou,
            "background": f"threshold {cams.threshold:g}",
            "crf": "probabilities",
            "seconds": {"train": 63.0, "cams": 12.5, "labels": 1.5, "labels_crf": 4000.0},
            "images_per_second": {"train": 20.0, "cams": 5.0},
        }
    write_json(folder / "summary.json", summary)
    write_json(
        folder / "run.json",
        {"command": "pplfast run --data X", "recipe": {"name": "demo"}, "data": {"val": vars(config)}},
    )


class Page(HTMLParser):
    """Counts elements, checks that each is closed in order, and collects what they refer to."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "line", "circle", "polyline"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.counts, self.references = [], {}, []
        self.kinds, self.text = set(), []  # element with the names of its attributes; what is shown
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.references += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]
        self.kinds.add((tag, *sorted(name for name, _ in attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_data(self, data):
        self.text.append(data)

    def handle_comment(self, data):
        raise AssertionError(f"not an element: {data}")

    handle_pi = unknown_decl = handle_comment

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag
