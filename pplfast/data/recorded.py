"""The data set that a file of a run names, read as what a stranger may have written."""

import dataclasses
import os
from typing import Any

from pplfast.checked import Table
from pplfast.data.dataset import DataConfig

KEYS = [field.name for field in dataclasses.fields(DataConfig)]


def recorded_data(data: Table, which: str) -> DataConfig:
    """data: the table "data" of a run.json. which: its list, like "val". UserError for what no run writes there."""
    table = data.table(which, KEYS)
    values: dict[str, Any] = {key: table.flag(key) if key == "difficult" else _path_text(table, key) for key in table}
    if "root" not in values:
        raise table.wrong("root", "a folder")
    return DataConfig(**values)


def _path_text(table: Table, key: str) -> str:
    """Text that the system takes as part of a path."""
    text = table.text(key)
    try:
        if b"\0" not in os.fsencode(text):
            return text
    except UnicodeEncodeError:
        pass
    raise table.wrong(key, "a path without NUL and half characters")
