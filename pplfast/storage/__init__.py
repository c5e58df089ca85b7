"""Bytes of files, on a disk or at a URL of an object store (s3://, gs://, hf://, whatever fsspec knows): listed, read
in ranges, written whole. What may pass is tried again, and counted.

    places.py   names: what is a URL, joining, what a pattern, a folder or a list file stands for
    retry.py    trying again with back-off; the counts
    remote.py   fsspec's file systems, with the options that this needs
    access.py   reading, writing, listing and removing
    tables.py   JSON objects

Credentials come from where each store's own tools look for them (environment, configuration files, roles): never from
an option, a recipe or a file of ours.
"""

from pplfast.storage.access import (
    Found,
    RangeReader,
    find,
    list_folder,
    local_copy,
    read_file,
    read_range,
    remove,
    write_file,
)
from pplfast.storage.places import is_remote, join, last_part, parent
from pplfast.storage.retry import RETRIES, StorageError

__all__ = [
    "RETRIES",
    "Found",
    "RangeReader",
    "StorageError",
    "find",
    "is_remote",
    "join",
    "last_part",
    "list_folder",
    "local_copy",
    "parent",
    "read_file",
    "read_range",
    "remove",
    "write_file",
]
