"""Do all ranks mean the same run? Asked before the first of them works.

Ranks of different recipes would train different numbers of steps and wait for each other for ever, or end with weights
that differ, far from the cause.
"""

import dataclasses
import hashlib
import socket
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from pplfast import kernels
from pplfast.data.dataset import Dataset
from pplfast.precision import resolve_precision
from pplfast.train.model_file import library_versions
from pplfast.train.ranks import EveryRankError, OtherRankError, Ranks, gather, together
from pplfast.train.task import Task

# What must agree, by what mends a difference. The first comes first: another version may have other settings.
CODE = "install the same versions on all hosts"
RECIPE = "start all ranks with the same recipe"
DATA = "give all ranks the same images and labels"
OPTIONS = "start all ranks with the same options"
MACHINE = "start all ranks on machines of one kind, or set optim.precision to what all of them have"
Settings = Mapping[str, Mapping[str, Any]]  # one of these -> name as the user knows it -> value, dict or list

DALI = ("nvidia-dali-cuda130", "nvidia-dali-cuda120")
TABLES = {"boundary": "affinity", "segmentation": "segmentation"}  # of the recipe, by what a record calls the network
OF_ONE_HOST = ("threads", "cache_mb", "local_rank", "loggers")  # options that may differ
SHOWN = 80  # characters of a value


def agree(ranks: Ranks, settings: Settings) -> None:
    """Compare every rank's settings; called by all. Raises EveryRankError (and OtherRankError) naming the first that
    differs, with both values and hosts."""
    own = {group: _flat(values) for group, values in settings.items()}
    found = gather(ranks, (socket.gethostname(), own))
    message = difference(found)
    if message:
        raise (EveryRankError if ranks.main else OtherRankError)(message)


def difference(found: list[tuple[str, dict[str, dict[str, str]]]]) -> str | None:
    """Of each rank its host and its settings as text -> the first difference from rank 0, with its remedy."""
    host, first = found[0]
    for remedy in first:
        for rank, (other_host, other) in enumerate(found):
            here, there = first[remedy], other.get(remedy, {})
            names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
            if names:
                more = f" (and {len(names) - 1} more settings differ)" if len(names) > 1 else ""
                return (
                    f"{names[0]} is {here.get(names[0], 'not set')} on host {host} (rank 0) and "
                    f"{there.get(names[0], 'not set')} on host {other_host} (rank {rank}){more}; {remedy}"
                )
    return None


def agreed_record(task: Task[Any], options: Any, ranks: Ranks) -> dict[str, Any]:
    """What a training's folder is claimed with, once all ranks want the same. Called by all of them.

    options: TrainOptions. Raises UserError on all ranks for data of the task that cannot be trained on, and for what
    `agree` finds.
    """
    record = together(ranks, lambda: _checked_record(task))
    if ranks.world > 1:
        agree(ranks, together(ranks, lambda: _training_settings(task, record, options, ranks.device)))
    return record


def _checked_record(task: Task[Any]) -> dict[str, Any]:
    task.check()
    return task.record()


def _training_settings(task: Task[Any], record: Mapping[str, Any], options: Any, device: torch.device) -> Settings:
    """What decides the result, and what the ranks do together."""
    table = TABLES.get(record.get("network", ""))
    recipe = {table: record["settings"]} if table else record["recipe"]
    data = record["dataset"]
    run = {key: record[key] for key in ("variant", "seed") if key in record}
    return {
        CODE: _code_versions(),
        RECIPE: {"the network to train": task.title, **run, **recipe},
        DATA: {
            "the number of images": data["images"],
            "classes": data["classes"],
            "the digest of ids and labels": data.get("list_and_labels", data.get("list_and_masks")),
        },
        OPTIONS: {
            f"--{field.name.replace('_', '-')}": getattr(options, field.name)
            for field in dataclasses.fields(options)
            if field.name not in OF_ONE_HOST
        },
        MACHINE: {"device": device.type, "optim.precision": resolve_precision(task.optim.precision, device)},
    }


def labelling_settings(settings: Mapping[str, Any], dataset: Dataset) -> Settings:
    """Of a labelling job, whose rank 0 shares out the images by their places in the list. settings: what decides the
    labels."""
    digest = hashlib.sha256("\n".join(dataset.ids).encode() + dataset.known_labels.tobytes())
    data = {"the number of images": len(dataset), "the digest of ids and labels": digest.hexdigest()[:16]}
    return {CODE: _code_versions(), DATA: data, OPTIONS: settings}


@cache
def _code_versions() -> dict[str, str]:
    """Of the libraries that the results depend on, and a digest of this program's own files."""
    versions = {name: text for name, text in library_versions().items() if name != "python"}
    for name in DALI:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {**versions, "the digest of pplfast's files": _digest()}


def _digest() -> str:
    """An installation from a working tree changes without its version."""
    digest = hashlib.sha256()
    for root in (Path(__file__).parents[1], Path(kernels.__path__[0])):
        for path in sorted(path for path in root.rglob("*") if path.suffix in (".py", ".cpp")):
            digest.update(f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Nested dicts and lists under dotted names; as text, in which NaN is like NaN and 1 unlike 1.0."""
    if isinstance(value, Mapping):
        items = [(str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list | tuple):
        items = [(str(index), inner) for index, inner in enumerate(value)]
    else:
        text = ascii(value)
        if len(text) > SHOWN:
            text = f"{text[: SHOWN - 20]}... ({hashlib.sha256(text.encode()).hexdigest()[:12]})"
        return {name: text}
    flat = {f"the number of {name}": str(len(items))} if isinstance(value, list | tuple) else {}
    for key, inner in items:
        flat |= _flat(inner, f"{name}.{key}" if name else key)
    return flat
