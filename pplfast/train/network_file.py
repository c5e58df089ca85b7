"""The files of a boundary or segmentation network: weights in safetensors, and what they are in JSON beside them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from torch import nn

from pplfast.data.image_info import Values
from pplfast.data.value_range import recorded_range
from pplfast.described import described_training
from pplfast.errors import UserError, naming
from pplfast.files import StrPath, read_json, write_json
from pplfast.networks import KINDS, find_network
from pplfast.recipe import Part, part_from_dict
from pplfast.train.model_file import library_versions, load_state, save_weights

FORMAT = 1

Model = TypeVar("Model", bound=nn.Module)


def save_network(model: nn.Module, name: str, info: dict[str, Any], folder: Path) -> None:
    """Write `folder/<name>.safetensors`, then `folder/<name>.json`. Raises UserError where the disk is full."""
    save_weights(model, folder / f"{name}.safetensors")
    write_json(folder / f"{name}.json", {"format": FORMAT, **info, "versions": library_versions()})


def read_network(folder: StrPath, name: str) -> dict[str, Any]:
    """What `<name>.json` says. Raises UserError where the folder holds no such network."""
    path = _folder(folder, name) / f"{name}.json"
    info = read_json(path)
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise UserError(f"{path}: not the description of a {name} network of this pplfast; train again")
    return info


@contextmanager
def as_described(folder: Path, name: str) -> Iterator[None]:
    """While a network is made of what `read_network` gave: keys that it lacks, and values that are none, are a
    UserError that names the file."""
    path = folder / f"{name}.json"
    try:
        with naming(path):
            yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not the description of a {name} network ({error!r}); train again") from None


def read_settings(folder: StrPath, name: str, kind: type[Part]) -> Part:
    """The recipe's table that the network was trained by, what follows its training included."""
    return part_from_dict(kind, read_network(folder, name).get("settings"), f"{folder}/{name}.json: settings")


def read_range(folder: StrPath, name: str) -> Values | None:
    """Of images deeper than 8 bits, as it was trained on them."""
    with as_described(_folder(folder, name), name):
        return recorded_range(read_network(folder, name).get("range"))


def read_training(folder: StrPath, name: str) -> dict[str, Any]:
    """The figures of its training: steps, seconds, images_per_s, loss."""
    with as_described(_folder(folder, name), name):
        return described_training(read_network(folder, name)["training"])


def _folder(folder: StrPath, name: str) -> Path:
    return find_network(folder, next(kind for kind in KINDS if kind.name == name))


def load_weights_into(model: Model, folder: StrPath, name: str) -> Model:
    """The model with the weights of `<name>.safetensors`, in eval mode."""
    path = _folder(folder, name) / f"{name}.safetensors"
    try:
        load_state(model, path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; train again") from None
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{path}: does not fit {name}.json ({str(error).splitlines()[0]}); train again") from None
    return model.eval()
