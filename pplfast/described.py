"""What the JSON beside a network's weights may say. A file from elsewhere may say anything."""

import math
from collections.abc import Mapping
from typing import Any

from pplfast.data.classes import BACKGROUND, IGNORE, ClassList

FIGURES = {"steps": int, "seconds": float, "images_per_s": float, "loss": float}  # of a training


def described_classes(table: Mapping[str, Any]) -> ClassList:
    """Of "class_names" and "class_ids". Raises ValueError, TypeError or KeyError where they are no classes."""
    names, ids = table["class_names"], table["class_ids"]
    if not isinstance(names, list) or not all(isinstance(name, str) and name.isprintable() for name in names):
        raise ValueError("class_names are no names")
    if not isinstance(ids, list) or not all(type(value) is int and BACKGROUND < value < IGNORE for value in ids):
        raise ValueError(f"class_ids are not all between {BACKGROUND} and {IGNORE}")
    if not names or len(set(ids)) < len(ids) or len(set(names)) < len(names):
        raise ValueError("a class is there twice" if names else "no classes")
    return ClassList(tuple(names), tuple(ids))


def described_training(table: Any) -> dict[str, Any]:
    """What a training recorded of itself. Raises ValueError where it is not that."""
    if not isinstance(table, dict) or table.keys() != FIGURES.keys():
        raise ValueError(f"training does not hold {', '.join(FIGURES)}")
    for key, kind in FIGURES.items():
        value = table[key]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or (kind is int and not isinstance(value, int)) or not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"training.{key} is no number of a finished training")
    return table
