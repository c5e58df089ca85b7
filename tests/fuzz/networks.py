"""The smallest networks of each kind, so that their files are small and quickly made."""

import io
import struct
from pathlib import Path

import torch
from torch import nn

from pplfast import Backbone, BlockSpec
from pplfast.models import create
from pplfast.models.boundary import BoundaryNet
from pplfast.models.segmentation import SegmentationNet
from pplfast.patch.classifier import PatchClassifier
from pplfast.recipe import AffinityConfig, SegmentationConfig, load_recipe, recipe_to_dict
from pplfast.recipe.settings import ModelConfig
from pplfast.train.model_file import ClassifierInfo, save_classifier
from pplfast.train.network_file import save_network
from pplfast.train.plan import cut_after

NAME = "fuzz.networks:Small"
TRAINING = {"steps": 9, "seconds": 1.5, "images_per_s": 60.0, "loss": 0.25}
CLASSES = {"class_names": ["cat", "dog"], "class_ids": [8, 12]}


class Small(Backbone):
    """Three blocks, stride 16, 130 parameters."""

    mean = (120.0, 120.0, 120.0)
    std = (60.0, 60.0, 60.0)

    def __init__(self, output_stride: int = 16) -> None:
        super().__init__()
        layout = ((2, 4), (2, 2), (3, 2))
        self.specs = tuple(BlockSpec(f"part{index}", stride, width) for index, (width, stride) in enumerate(layout))
        inputs = [3, *(spec.channels for spec in self.specs)]
        self.parts = nn.ModuleList(
            nn.Conv2d(inputs[index], spec.channels, spec.stride + 1, spec.stride, spec.stride // 2)
            for index, spec in enumerate(self.specs)
        )

    def block_modules(self, index: int) -> list[nn.Module]:
        return [self.parts[index]]


def small() -> Backbone:
    """As a network's description makes it."""
    return create(NAME, weights="none", output_stride=16)[0]


def _recipe() -> dict:
    recipe = recipe_to_dict(load_recipe("demo"))
    recipe["model"] |= {"backbone": NAME, "weights": "none"}
    return recipe


def write_classifier(folder: Path) -> None:
    torch.manual_seed(0)
    recipe = _recipe()
    backbone = small()
    model = PatchClassifier(backbone, 2, "ppl", branches=1)
    model.set_cuts([cut_after(backbone, "part1", 2)])
    info = ClassifierInfo(
        "ppl", ("cat", "dog"), (8, 12), (("part1", 2),), recipe["model"], recipe, "data", dict(TRAINING), {"torch": "2"}
    )
    folder.mkdir(parents=True, exist_ok=True)
    save_classifier(model, info, folder)


def write_boundary(folder: Path) -> None:
    torch.manual_seed(0)
    info = {
        "backbone": NAME,
        "output_stride": 16,
        **CLASSES,
        "training": TRAINING,
        "settings": _plain(AffinityConfig()),
        "dataset": "data",
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_network(BoundaryNet(small()), "boundary", info, folder)


def write_segmentation(folder: Path) -> None:
    torch.manual_seed(0)
    model = SegmentationNet(small(), 3, "aspp")
    settings = _plain(SegmentationConfig(model=ModelConfig(backbone=NAME, weights="none")))
    info = {
        "model": settings["model"],
        "head": model.head_name,
        **CLASSES,
        "training": TRAINING,
        "settings": settings,
        "dataset": "data",
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_network(model, "segmentation", info, folder)


def _plain(part: object) -> dict:
    import dataclasses

    return dataclasses.asdict(part)


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return small().state_dict()


def as_torch(content: object, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def as_mxnet(tensors: dict[str, torch.Tensor], magic: int | None = 0xF993FAC9) -> bytes:
    """A .params file; magic: of the array's version, None for the oldest."""
    parts = [struct.pack("<QQQ", 0x112, 0, len(tensors))]
    for tensor in tensors.values():
        shape = tensor.shape
        if magic is None:
            parts.append(struct.pack(f"<I{len(shape)}I", len(shape), *shape))
        else:
            storage = struct.pack("<i", 0) if magic != 0xF993FAC8 else b""
            parts.append(struct.pack("<I", magic) + storage + struct.pack(f"<I{len(shape)}q", len(shape), *shape))
        parts += [struct.pack("<iii", 1, 0, 0), tensor.numpy().tobytes()]
    parts.append(struct.pack("<Q", len(tensors)))
    parts += [struct.pack("<Q", len(name)) + name.encode() for name in tensors]
    return b"".join(parts)
