"""JSON objects in files, local or remote."""

import os
from typing import Any

from pplfast.errors import UserError
from pplfast.files import parse_object, read_json
from pplfast.storage.access import read_file
from pplfast.storage.places import is_remote, local_path
from pplfast.storage.retry import StorageError


def read_table(path: str) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no such file. UserError for what is none, or cannot be read."""
    if not is_remote(path):
        path = local_path(path)
        return read_json(path) if os.path.lexists(path) else None
    try:
        data = read_file(path)
    except StorageError as error:
        if error.gone:
            return None
        raise UserError(f"{path}: {error}") from None
    return parse_object(data, path)
