"""A data set of many small images and a classifier with random weights: for what is about files, not about labels."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pplfast.models import create
from pplfast.models.boundary import BoundaryNet
from pplfast.models.segmentation import SegmentationNet
from pplfast.patch.branches import Cut
from pplfast.patch.classifier import PatchClassifier
from pplfast.recipe import AffinityConfig, ModelConfig, SegmentationConfig
from pplfast.train.model_file import ClassifierInfo, library_versions, save_classifier
from pplfast.train.network_file import save_network

CLASSES = ("bus", "cat", "person")
SIZES = ((48, 32), (32, 48), (40, 40))  # width, height
DIFFERENT = 256  # images that are drawn; the others are copies, since what is drawn does not matter


def image_id(number: int) -> str:
    return f"{number // 1000:02d}/{number:06d}"


def make_images(root: Path, count: int, sizes: tuple[tuple[int, int], ...] = SIZES) -> Path:
    """`root/images/NN/NNNNNN.jpg` with 1 or 2 classes each in `root/labels.csv`, and `root/model`. Returns root."""
    rng = np.random.default_rng(0)
    rows, drawn, labels = ["image,labels"], [], []
    for number in range(count):
        path = root / "images" / f"{image_id(number)}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < DIFFERENT:
            width, height = sizes[number % len(sizes)]
            coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path, quality=90)
            drawn.append(path.read_bytes())
            picked = rng.permutation(len(CLASSES))[: 1 + number % 2]
            labels.append(";".join(CLASSES[i] for i in sorted(picked)))
        else:
            path.write_bytes(drawn[number % DIFFERENT])
        rows.append(f"{image_id(number)}.jpg,{labels[number % DIFFERENT]}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    make_model(root / "model")
    return root


def make_model(
    folder: Path,
    backbone: str = "efficientnet_lite0",
    classes: tuple[str, ...] = CLASSES,
    position: str = "group5",
    weights: str = "none",
) -> None:
    torch.manual_seed(0)
    net, _ = create(backbone, weights=weights, output_stride=16)
    model = PatchClassifier(net, len(classes), "ppl")
    model.set_cuts([Cut(net.position(position) + 1, 2)])
    info = ClassifierInfo(
        "ppl",
        classes,
        tuple(range(1, len(classes) + 1)),
        ((position, 2),),
        vars(ModelConfig(backbone=backbone)),
        {},
        "none",
        {},
        library_versions(),
    )
    save_classifier(model, info, folder)


def make_boundary(folder: Path) -> None:
    torch.manual_seed(0)
    net, _ = create("efficientnet_lite0", weights="none", output_stride=16)
    info = {"backbone": "efficientnet_lite0", "output_stride": 16, "settings": dataclasses.asdict(AffinityConfig())}
    save_network(BoundaryNet(net), "boundary", info, folder)


def make_segmentation(folder: Path) -> None:
    torch.manual_seed(0)
    config = SegmentationConfig(model=ModelConfig(backbone="efficientnet_lite0", output_stride=16))
    net, _ = create("efficientnet_lite0", weights="none", output_stride=16)
    model = SegmentationNet(net, len(CLASSES) + 1)
    info = {
        "model": dataclasses.asdict(config.model),
        "head": model.head_name,
        "class_names": CLASSES,
        "class_ids": tuple(range(1, len(CLASSES) + 1)),
        "settings": dataclasses.asdict(config),
    }
    save_network(model, "segmentation", info, folder)


def data_arguments(root: Path) -> list[str]:
    """Of the data set that `make_images` made."""
    named = [f"{name}={number}" for number, name in enumerate(CLASSES, 1)]
    return [
        *("--data", str(root / "images"), "--labels", str(root / "labels.csv")),
        *("--classes", ",".join(named)),
    ]


def cam_arguments(root: Path, out: Path, *more: str) -> list[str]:
    """Of `pplfast cam`: one scale, since the maps do not matter."""
    scales = ["--scales", "1", "--no-flip", "--precision", "fp32"]
    return ["cam", *data_arguments(root), "--model", str(root / "model"), "--out", str(out), *scales, *more]


def label_arguments(root: Path, out: Path, *more: str) -> list[str]:
    """Of `pplfast label`, likewise."""
    words = cam_arguments(root, out, "--value", "0.4", *more)
    return ["label", *words[1:]]
