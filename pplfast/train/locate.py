"""Where a trained network lies, from a path that names its folder, its run's variant, or its run."""

from pathlib import Path

from pplfast.errors import UserError
from pplfast.files import StrPath


def find_network(path: StrPath, file: str, step: str) -> Path | None:
    """The folder that holds `file`: `path` itself, else `path/<step>`, else `path/<variant>/<step>` of a run.

    None where there is none. Raises UserError where several variants of the run have one.
    """
    path = Path(path)
    for folder in (path, path / step):
        if (folder / file).is_file():
            return folder
    found = sorted(place.parent for place in path.glob(f"*/{step}/{file}"))
    if len(found) > 1:
        raise UserError(f"{path}: holds {len(found)} trained networks; name one: {', '.join(map(str, found))}")
    return found[0] if found else None
