"""What the networks that train on label PNGs share: which images have one, and what such a run depends on."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from pplfast.data.dataset import Dataset
from pplfast.errors import UserError
from pplfast.files import StrPath
from pplfast.jobs.output_shards import LabelMasks, OutputShards, holds_shards
from pplfast.train.model_file import library_versions

COMMAND = "pplfast label"


def with_masks(dataset: Dataset, folder: StrPath) -> Dataset:
    """The images that have a `folder/<id>.png`, or of label shards, a label, with it as their mask. folder: may be the
    URL of such. UserError where none has one, and for label shards that are not of all the data set's shards."""
    if holds_shards(folder, COMMAND):
        outputs = OutputShards(folder, dataset, COMMAND)
        good = np.flatnonzero(~outputs.bad)
        return dataclasses.replace(dataset.subset(cast(Sequence[int], good)), masks=LabelMasks(outputs, good))
    folder = Path(folder)
    found = [index for index, name in enumerate(dataset.ids) if (folder / f"{name}.png").is_file()]
    if not found:
        raise UserError(f"{folder}: holds no label of {dataset.name} (expected {dataset.ids[0]}.png, ...)")
    part = dataset.subset(found)
    return dataclasses.replace(part, masks=tuple(folder / f"{name}.png" for name in part.ids))


def mask_record(network: str, settings: dict[str, Any], dataset: Dataset, seed: int) -> dict[str, Any]:
    """The contents of recipe.json: the settings (all of the network's table), the list, and the labels' bytes."""
    digest = hashlib.sha256(dataset.encoded_ids)
    if isinstance(dataset.masks, LabelMasks):
        digest.update(dataset.masks.digest)
    else:
        for path in dataset.masks:
            assert isinstance(path, Path), "with_masks() leaves out images without one"
            digest.update(path.read_bytes())
    return {
        "network": network,
        "settings": settings,
        "seed": seed,
        "versions": library_versions(),
        "dataset": {
            "name": dataset.name,
            "images": len(dataset),
            "classes": list(dataset.classes.names),
            "list_and_masks": digest.hexdigest()[:16],
        },
    }
