"""The images of a list file as rows of an index."""

import posixpath
from collections.abc import Sequence

from pplfast.data.list_files import BLOCK, Line
from pplfast.data.shard_names import below_one_folder
from pplfast.data.shard_rows import NONE, Rows, check_key
from pplfast.errors import UserError
from pplfast.reading import quoted


def list_rows(file: str, lines: Sequence[Line]) -> tuple[str, list[Rows]]:
    """The folder that all images are below, and the rows of each block: keys are what names an image below it, without
    its suffix. UserError for two of one key, and for what can be no output's name."""
    folder, relative = below_one_folder([line.path for line in lines])
    if not folder:
        raise UserError(f"{file}: its images are not below one folder or bucket; write a list for each")
    blocks = []
    for at in range(0, len(lines), BLOCK):
        rows, seen = Rows(), dict[str, int]()
        for line, path in zip(lines[at : at + BLOCK], relative[at : at + BLOCK], strict=True):
            stem, suffix = posixpath.splitext(path)
            key = _key(stem)
            check_key(key, suffix, f"{file}, line {line.number}")
            if (first := seen.setdefault(key, line.number)) != line.number:
                raise UserError(
                    f"{file}, lines {first} and {line.number}: two images are called {quoted(stem)}; rename one, or "
                    "take it off the list"
                )
            rows.rows.append((key, suffix, 0, 0, NONE, NONE, line.labels))
        blocks.append(rows)
    return folder, blocks


def _key(stem: str) -> str:
    """WebDataset's keys end at the first dot of the last component."""
    folder, slash, name = stem.rpartition("/")
    return folder + slash + name.replace("%", "%25").replace(".", "%2E")


def path_of(key: str, suffix: str) -> str:
    """Below the folder of `list_rows`."""
    folder, slash, name = key.rpartition("/")
    return f"{folder}{slash}{name.replace('%2E', '.').replace('%25', '%')}{suffix}"
