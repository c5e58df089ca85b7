"""The file of a trained classifier: weights in safetensors, and what they are in JSON beside them."""

import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pplfast.data.image_info import Values
from pplfast.data.value_range import recorded_range
from pplfast.described import described_classes
from pplfast.errors import UserError, explain_library_error, naming
from pplfast.extend import refuse_modules_within
from pplfast.files import atomic_path, read_json, write_json
from pplfast.models import create
from pplfast.models.values import bad_kind, bad_weight
from pplfast.networks import CLASSIFIER, find_network
from pplfast.patch.classifier import PatchClassifier
from pplfast.patch.pooling import POOLINGS
from pplfast.recipe import ModelConfig, Part, StageConfig, part_from_dict
from pplfast.steps import VARIANTS
from pplfast.train.plan import cut_after
from pplfast.version import __version__

WEIGHTS, DESCRIPTION = "classifier.safetensors", "classifier.json"
FORMAT = 1


@dataclass(frozen=True)
class ClassifierInfo:
    """What classifier.json says of a trained classifier."""

    variant: str  # plain, ppl or explicit
    class_names: tuple[str, ...]
    class_ids: tuple[int, ...]  # values in masks
    stages: tuple[tuple[str, int], ...]  # (block name, grid) of the last stage; all of them for explicit
    model: dict[str, Any]  # recipe.ModelConfig
    recipe: dict[str, Any]
    dataset: str
    training: dict[str, Any]  # steps, images, seconds, images_per_s, loss
    versions: dict[str, str] = field(default_factory=dict)
    range: Values | None = None  # of images deeper than 8 bits, as it was trained on them
    format: int = FORMAT


def library_versions() -> dict[str, str]:
    versions = {"pplfast": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for name in ("deepspeed", "triton"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def save_weights(model: nn.Module, path: Path) -> None:
    """The state of a network as safetensors. Raises UserError where the disk is full."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary)
        except SafetensorError as error:  # it reports the operating system's errors as its own
            explained = explain_library_error(error, path)
            if explained is None:
                raise
            raise explained from None


def load_state(model: nn.Module, path: Path) -> None:
    """A safetensors file into a network, all of it. Raises RuntimeError where they do not fit each other, and UserError
    for values that no training can have left."""
    tensors, own = load_file(path), model.state_dict()
    shared = {name: tensor for name, tensor in tensors.items() if name in own}
    if wrong := bad_kind(shared, own) or bad_weight(shared):
        raise UserError(f"{path}: {wrong}; the file is damaged, or the training diverged: train again")
    model.load_state_dict(tensors)


def save_classifier(model: PatchClassifier, info: ClassifierInfo, folder: Path) -> None:
    """Write classifier.safetensors, then classifier.json: where the second exists, both are whole."""
    save_weights(model, folder / WEIGHTS)
    write_json(folder / DESCRIPTION, asdict(info))


def read_info(path: str | Path) -> ClassifierInfo:
    """Of a training folder, a run's folder or variant, or one of the classifier's two files.

    Raises UserError where there is no classifier, or where a run has several.
    """
    folder = find_network(path, CLASSIFIER)
    table = read_json(folder / DESCRIPTION)
    try:
        if table["format"] != FORMAT:
            raise UserError(
                f"{folder / DESCRIPTION}: format {table['format']}, this pplfast reads {FORMAT}; "
                f"train again, or use the pplfast that wrote it"
            )
        classes = described_classes(table)
        table["class_names"], table["class_ids"] = classes.names, classes.ids
        table["stages"] = tuple(_stage(stage, f"{folder / DESCRIPTION}: stages") for stage in table["stages"])
        table["range"] = recorded_range(table.get("range"))
        info = ClassifierInfo(**table)
        if info.variant not in VARIANTS or not isinstance(info.dataset, str):
            raise ValueError("variant or dataset is none")
        if not all(isinstance(part, dict) for part in (info.model, info.recipe, info.training, info.versions)):
            raise ValueError("model, recipe, training or versions is no table")
        return info
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{folder / DESCRIPTION}: not a classifier description ({error}); train again") from None


def _stage(value: Any, source: str) -> tuple[str, int]:
    name, grid = value
    stage = part_from_dict(StageConfig, {"epochs": 1, "position": name, "grid": grid}, source)
    return stage.position, stage.grid


def read_recorded(path: str | Path, key: str, kind: type[Part]) -> Part:
    """One table of the recipe that the classifier was trained by, "cam" or "label". Raises UserError as `read_info`."""
    file = find_network(path, CLASSIFIER) / DESCRIPTION
    with naming(file):
        return part_from_dict(kind, read_info(path).recipe.get(key, {}), f"{file}: recipe.{key}")


def _described_model(info: ClassifierInfo, folder: Path) -> PatchClassifier:
    config = part_from_dict(ModelConfig, info.model, f"{folder / DESCRIPTION}: model")
    refuse_modules_within(folder, config.backbone, config.pooling)
    backbone, _ = create(config.backbone, weights="none", output_stride=config.output_stride)
    return PatchClassifier(
        backbone,
        len(info.class_names),
        info.variant,
        config.dropout,
        branches=len(info.stages),
        pooling=POOLINGS.find(config.pooling),
    )


def load_classifier(path: str | Path) -> PatchClassifier:
    """The classifier of a training folder, a run's folder or variant, or one of its two files: on the CPU, in eval
    mode, its cuts set.

    An own backbone or pooling is imported by the name in classifier.json. Raises UserError where there is no
    classifier or several, for a file that is damaged, and for a name that means no backbone or pooling.
    """
    info, folder = read_info(path), find_network(path, CLASSIFIER)
    try:
        with naming(folder / DESCRIPTION):
            model = _described_model(info, folder)
            cuts = [cut_after(model.backbone, name, grid) for name, grid in info.stages]
        load_state(model, folder / WEIGHTS)
        model.set_cuts(cuts)
    except FileNotFoundError:
        raise UserError(f"{folder / WEIGHTS}: no such file; train again") from None
    except (SafetensorError, RuntimeError, TypeError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder / WEIGHTS}: does not fit {DESCRIPTION} ({reason}); train again") from None
    return model.eval()
