"""What a training folder belongs to: the settings and the data that its weights depend on."""

import hashlib
from pathlib import Path
from typing import Any

from pplfast.data.dataset import Dataset
from pplfast.errors import UserError
from pplfast.files import read_json, write_json
from pplfast.recipe import Recipe, recipe_to_dict
from pplfast.recipe.reading import completed
from pplfast.train.model_file import DESCRIPTION, library_versions

RECORD = "recipe.json"
# Parts of a recipe that training depends on, and those of the tables of the other networks.
USED = ("seed", "loss", "model", "augment", "optim", "stages")
USED_OF_NETWORK = {
    "boundary": ("epochs", "steps", "radius", "augment", "optim"),
    "segmentation": ("epochs", "steps", "head", "balanced", "model", "augment", "optim"),
}
OF_CLASSIFIER = ("dropout", "pooling")  # keys of [segmentation.model] that its network has no use for
FOR_INFORMATION = ("recipe", "settings", "versions", "precision", "float32")  # precision: what "auto" came to


def describe(recipe: Recipe, variant: str, dataset: Dataset) -> dict[str, Any]:
    """The contents of recipe.json."""
    return {
        "variant": variant,
        "recipe": recipe_to_dict(recipe),
        "dataset": {
            "name": dataset.name,
            "images": len(dataset),
            "classes": list(dataset.classes.names),
            "list_and_labels": _digest(dataset),
        },
        "versions": library_versions(),
    }


def claim_folder(folder: Path, record: dict[str, Any], resume: bool, result: str = DESCRIPTION) -> str:
    """Decide what to do with `folder`: "finished", "resume" or "start". Called by rank 0 alone.

    record: what the run is; all of it that its training depends on has to agree with the folder's: not versions, not
    settings of what follows, not where the data set lies. result: the file that a finished run has.
    Writes recipe.json into a fresh folder. Raises UserError if the folder belongs to another run, or to an unfinished
    one and `resume` is off.
    """
    path = folder / RECORD
    if path.is_file():
        _refuse_other(folder, read_json(path), record)
        if (folder / result).is_file():
            return "finished"
        if resume:
            return "resume"
        if any((folder / "checkpoints").glob("stage*")):
            raise UserError(
                f"{folder}: holds an unfinished run of these settings; add --resume to continue it, or "
                f"choose another --out"
            )
    elif (folder / result).exists() or (folder / "checkpoints").exists():
        raise UserError(f"{folder}: holds a training run without {RECORD}; choose another --out")
    write_json(path, record)
    return "start"


def _refuse_other(folder: Path, there: dict[str, Any], record: dict[str, Any]) -> None:
    old, new = _flat(_essence(there)), _flat(_essence(record))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            raise UserError(
                f"{folder}: holds a run with {key} = {old.get(key)!r}, not {new.get(key)!r}; choose another --out"
            )


def _essence(record: dict[str, Any]) -> dict[str, Any]:
    record = completed(record)
    network, dataset = record.get("network"), _table(record.get("dataset"))
    used = USED_OF_NETWORK.get(network, USED) if isinstance(network, str) else USED
    settings = _table(record.get("settings" if network else "recipe"))
    kept = {key: settings.get(key) for key in used}
    if network:
        kept["model"] = {key: value for key, value in _table(kept.get("model")).items() if key not in OF_CLASSIFIER}
    rest = {key: value for key, value in record.items() if key not in FOR_INFORMATION}
    return {**rest, "dataset": {key: value for key, value in dataset.items() if key != "name"}, **kept}


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts and lists as one dict with dotted keys."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else None
    if items is None:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in items:
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _digest(dataset: Dataset) -> str:
    """Of the ids and the labels; the images themselves are taken on trust."""
    digest = hashlib.sha256(dataset.encoded_ids)
    digest.update(dataset.known_labels.tobytes())
    return digest.hexdigest()[:16]
