"""All readers, in the order in which they are shown."""

import importlib

from fuzz import (
    readers_arrays,
    readers_layouts,
    readers_records,
    readers_report,
    readers_shards,
    readers_steps,
    readers_text,
    readers_weights,
)
from fuzz.reader import Reader


def all_readers() -> list[Reader]:
    importlib.import_module("torch._dynamo")  # takes seconds at the first call of a kernel, in each process anew
    rooms = (
        readers_text,
        readers_layouts,
        readers_arrays,
        readers_records,
        readers_shards,
        readers_steps,
        readers_weights,
        readers_report,
    )
    readers = [reader for room in rooms for reader in room.readers()]
    assert len({reader.name for reader in readers}) == len(readers), "two readers of one name"
    return readers
