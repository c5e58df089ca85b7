"""What a data set needs to be known of for `suggest`: `pplfast init` writes the recipe, `pplfast run` takes it."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from pplfast.errors import UserError
from pplfast.recipe.suggested import DataFacts, Suggestion, suggest
from pplfast.recipe.writing import toml_value

if TYPE_CHECKING:
    from pplfast.data.dataset import Dataset
    from pplfast.data.stored import ImageFile

MOST_HEADERS = 200  # that are read, evenly over the list


def data_facts(dataset: "Dataset") -> DataFacts:
    """Reads some headers, and asks for the GPU. UserError where none of the images can be read."""
    import numpy as np
    import torch

    sides = _long_sides([dataset.images[index] for index in dataset.some(MOST_HEADERS)])
    if not sides:
        raise UserError(f"{dataset.name}: none of the images can be read; `pplfast data check` says why")
    gpu = torch.cuda.get_device_properties(0).total_memory / 2**30 if torch.cuda.is_available() else 0.0
    return DataFacts(len(dataset), int(np.median(sides)), gpu)


def _long_sides(images: "Sequence[ImageFile]") -> list[int]:
    from pplfast.data.images import BadImage, inspect_image

    def side(path: "ImageFile") -> int:
        try:
            info = inspect_image(path)
        except BadImage:
            return 0
        return max(info.width, info.height)

    with ThreadPoolExecutor() as pool:
        return [found for found in pool.map(side, images) if found]


def suggestion_for(dataset: "Dataset") -> Suggestion:
    """Its recipe has the data set's name."""
    found = suggest(data_facts(dataset))
    return Suggestion((f"name={toml_value(dataset.name)}", *found.settings), found.reasons)


def recorded_suggestion(out: str | os.PathLike[str], root: str | os.PathLike[str]) -> tuple[str, ...]:
    """The settings that an earlier call with the same --out and --data took: they stay, also where more images or
    another device would get others; () where there is no such run. What is damaged is named elsewhere."""
    from pplfast.files import read_json

    for path in (Path(out) / "run.json", *sorted(Path(out).glob("seed*/run.json"))):
        try:
            record = read_json(path)
            settings, of = record.get("suggested", []), record["data"]["train"]["root"]
            if of == str(Path(root).resolve()) and all(isinstance(setting, str) for setting in settings):
                return tuple(settings)
        except (UserError, OSError, KeyError, TypeError, AttributeError):
            continue
    return ()
