"""`pplfast report` over a run of which one file is damaged."""

import json
import shutil
from pathlib import Path

import labels_small
import numpy as np

import fuzz.mutate as mutate
from fuzz import binary, pictures
from fuzz.reader import Reader
from fuzz.trees import json_lines, json_tree
from pplfast.data.dataset import DataConfig, open_dataset
from pplfast.data.masks import read_mask, write_mask
from pplfast.evaluate import evaluate_cams, evaluate_labels, inspect_labels
from pplfast.files import write_json
from pplfast.labels.camfile import load_cam
from pplfast.recipe import load_recipe, recipe_to_dict
from pplfast.report import write_report

CLASSES = ",".join(f"{name}={value}" for name, value in zip(labels_small.CLASSES.names, labels_small.CLASSES.ids))


def _run(folder: Path) -> None:
    """A finished run with one variant and the list of its images, in paths relative to the working folder."""
    small = labels_small.small_dataset(folder / "small")
    data, run = folder / "data", folder / "run"
    data.mkdir()
    rows = []
    for name, image, labels in zip(small.ids, small.images, small.labels):
        shutil.copy(image, data / f"{name}.jpg")
        rows.append(f"{name},{';'.join(small.classes.names[column] for column in np.flatnonzero(labels))}\n")
    (data / "labels.csv").write_text("".join(rows))
    shutil.copytree(folder / "small/masks", data / "masks")
    config = DataConfig(str(data), labels=str(data / "labels.csv"), classes=CLASSES, masks=str(data / "masks"))
    for variant in ("plain", "ppl"):
        _variant(run / variant, config)
    numbers = {
        "cam_miou": 50.5,
        "cam_threshold": 0.3,
        "label_before_crf_miou": 51.5,
        "label_miou": 52.5,
        "background": "threshold 0.3",
        "crf": "probabilities",
        "images_without_label": 0,
        "seconds": {"train": 63.0, "cams": 12.5, "labels_crf": 4000.0},
        "images_per_second": {"train": 20.0, "cams": 5.0},
    }
    facts = inspect_labels(run / "ppl/labels", open_dataset(config), jobs=1).to_dict() | {"warnings": ["labels: x"]}
    summary = {
        "recipe": "demo",
        "seed": 0,
        "versions": {"torch": "2"},
        "hardware": {"cpu": "1 core"},
        "seconds": 99.5,
        "data": {"train": {"list": "a/train", "images": 9}, "val": {"list": "a/val", "images": 5, "scored": 5}},
        "warnings": ["ppl, labels: x"],
        "plain": {**numbers, "without_masks": {}},
        "ppl": {**numbers, "without_masks": {"labels": facts}},
    }
    write_json(run / "summary.json", summary)
    where = {**vars(config), "root": "input/data", "labels": "input/data/labels.csv", "masks": "input/data/masks"}
    recipe = recipe_to_dict(load_recipe("demo"))
    record = {
        "command": "pplfast run",
        "recipe": recipe,
        "variants": ["plain", "ppl"],
        "versions": {},
        "data": {"train": where, "val": where},
    }
    write_json(run / "run.json", record)


def _variant(folder: Path, config: DataConfig) -> None:
    dataset = open_dataset(config)
    labels_small.write_cams(folder / "cams", dataset)
    for name, mask in zip(dataset.ids, dataset.masks):
        values = load_cam(folder / f"cams/{name}.npz").full().max(0) > 0.5
        for kind in ("labels", "labels_crf"):
            write_mask(
                folder / kind / f"{name}.png",
                np.where(values & (read_mask(mask) != 255), read_mask(mask), 0).astype(np.uint8),
            )
    write_json(folder / "eval_cam.json", evaluate_cams(folder / "cams", dataset, jobs=1).to_dict())
    write_json(folder / "eval_label.json", evaluate_labels(folder / "labels", dataset, jobs=1).to_dict())
    write_json(folder / "eval_label_crf.json", evaluate_labels(folder / "labels_crf", dataset, jobs=1).to_dict())
    (folder / "train").mkdir()
    log = [json.dumps({"step": step, "loss": 0.6 / step, "lr": 0.01}) for step in range(1, 30)]
    (folder / "train/log.jsonl").write_text("\n".join(log) + '\n{"step": 31, "lo')


def _report(folder: Path) -> None:
    text = write_report(folder / "run", images=2).read_text(encoding="utf-8")
    for word in ("<script", "alert(1)</", "\0"):
        assert word not in text, f"the page holds {word!r} as markup"


SHOWN = "im1"  # one of the two images of the gallery


def readers() -> list[Reader]:
    json_, lines = mutate.mixed(json_tree, json_tree, json_tree), mutate.mixed(json_lines)
    png, npz, jpeg = (mutate.mixed(mutator, mutator) for mutator in (pictures.png, binary.npz, pictures.jpeg))
    csv = mutate.mixed(mutate.text("cat", "bus", ";", ",", "im1"))
    files = {
        "summary": ("run/summary.json", json_),
        "run": ("run/run.json", json_),
        "eval_cam": ("run/ppl/eval_cam.json", json_),
        "eval_label": ("run/ppl/eval_label.json", json_),
        "eval_label_crf": ("run/plain/eval_label_crf.json", json_),
        "log": ("run/ppl/train/log.jsonl", lines),
        "cam": (f"run/ppl/cams/{SHOWN}.npz", npz),
        "label": (f"run/ppl/labels/{SHOWN}.png", png),
        "mask": (f"data/masks/{SHOWN}.png", png),
        "image": (f"data/{SHOWN}.jpg", jpeg),
        "data": ("data/labels.csv", csv),
    }
    return [Reader(f"report_{name}", file, _run, mutator, _report) for name, (file, mutator) in files.items()]
