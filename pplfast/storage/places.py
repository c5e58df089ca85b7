"""Names of files and folders, local or remote, as plain strings."""

import os
import re

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # two letters at least: one is a disk of Windows
_LOCAL = ("file://", "local://")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")
GLOB = "*?["  # signs of a pattern that only a listing can answer
MOST_NAMES = 1_000_000  # that a pattern may stand for


def is_remote(path: str) -> bool:
    """Whether it is a URL of something else than a local file."""
    return _URL.match(path) is not None and not path.startswith(_LOCAL)


def local_path(path: str) -> str:
    """Without the scheme of local files."""
    return next((path.removeprefix(scheme) for scheme in _LOCAL if path.startswith(scheme)), path)


def join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else os.path.join(local_path(folder), name)


def last_part(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def parent(path: str) -> str:
    """ "." for a bare name."""
    folder = path.rstrip("/").rpartition("/")[0]
    return folder or ("/" if path.startswith("/") else ".")


def expanded(pattern: str) -> list[str]:
    """Braces as the shell and WebDataset write them: "a-{000..999}.tar", "{train,val}.tar"; without any, itself.

    Raises ValueError for a range that ends before it begins, and for more than MOST_NAMES names.
    """
    found = _BRACES.search(pattern)
    if found is None:
        return [pattern]
    words = found[1]
    if span := _RANGE.fullmatch(words):
        first, last = span.groups()
        count = int(last) - int(first) + 1
        if not 0 < count <= MOST_NAMES:
            raise ValueError(f"{{{words}}} is {'too long' if count > 0 else 'empty'}")
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        parts = [str(number).zfill(width) for number in range(int(first), int(last) + 1)]
    else:
        parts = words.split(",")
    rest = expanded(pattern[found.end() :])
    if len(parts) * len(rest) > MOST_NAMES:
        raise ValueError(f"stands for more than {MOST_NAMES} names")
    return [f"{pattern[: found.start()]}{part}{tail}" for part in parts for tail in rest]


def is_pattern(path: str) -> bool:
    return any(sign in path for sign in GLOB + "{")
