"""What the ranks of a training must agree on, before the first of them works."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from pplfast.cluster.agreement import CODE, DATA, MACHINE, OPTIONS, RECIPE, Settings, agree, code_versions
from pplfast.cluster.ranks import Ranks, together
from pplfast.precision import resolve_precision
from pplfast.train.task import Task

TABLES = {"boundary": "affinity", "segmentation": "segmentation"}  # of the recipe, by what a record calls the network
OF_ONE_HOST = ("threads", "cache_mb", "local_rank", "loggers")  # options that may differ


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
        CODE: code_versions(),
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
