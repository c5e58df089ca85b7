"""From what a list or a table writes to the file of an image, and what to say where that file is not there."""

import os
import re
import unicodedata
from functools import lru_cache
from itertools import islice
from pathlib import Path, PurePosixPath

from pplfast.errors import UserError
from pplfast.reading import quoted

# Of images that are read, the usual ones first: an id without a suffix is looked for in this order.
SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".jp2", ".gif", ".jpe", ".jfif", ".j2k", ".jpx", ".j2c",
    ".ppm", ".pgm", ".pnm",
)  # fmt: skip
# Images that are recognised, not read.
OTHER_SUFFIXES = (
    ".heic", ".heif", ".avif", ".jxl", ".dng", ".nef", ".cr2", ".cr3", ".arw", ".exr", ".dcm", ".psd", ".svs", ".ndpi",
    ".czi", ".nd2", ".lif", ".fits", ".fit", ".fts", ".orf", ".raf", ".rw2", ".pef", ".srw", ".raw",
)  # fmt: skip
_SUFFIXES = {*SUFFIXES, *OTHER_SUFFIXES}
LONGEST_NAME = 255  # bytes, of every file system in use
LONGEST_PATH = 2048  # bytes below the data set's folder; Linux takes 4096 in all
_FOLDERS_LOOKED_AT = 32  # below that of a missing image
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")  # how its absolute paths begin


def check_name(text: str, where: str) -> None:
    """Raises UserError for what can be no file below the data set's folder."""
    parts = text.split("/")
    if ".." in parts or _WINDOWS.match(text):
        raise UserError(f"{where}: {quoted(text)} leaves the data folder; write it relative to that")
    longest, whole = max(len(_encoded(part)) for part in parts), len(_encoded(text))
    if "\0" in text or longest > LONGEST_NAME or whole > LONGEST_PATH or not text.strip("/."):
        raise UserError(f"{where}: {quoted(text)} can be no file's name; correct it, or take it off the list")


def image_id(text: str) -> str:
    """The id of an image named with or without its suffix; an id keeps dots that are not a known suffix."""
    path = str(PurePosixPath(_as_on_disk(text)))
    return os.path.splitext(path)[0] if _has_suffix(path) else path


def image_file(folder: Path, text: str) -> Path:
    """The file of an image named with or without its suffix; it may not be there."""
    text = _as_on_disk(text)
    if _has_suffix(text):
        return folder / text
    path = os.path.join(folder, text)
    spellings = (spelling for suffix in SUFFIXES for spelling in (suffix, suffix.upper()))
    return Path(path + next((suffix for suffix in spellings if os.path.isfile(path + suffix)), SUFFIXES[0]))


def _has_suffix(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _SUFFIXES


def _as_on_disk(text: str) -> str:
    """Text of a file, which is UTF-8, as Python writes file names: in an ASCII locale that is not the same."""
    return os.fsdecode(_encoded(text))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def in_root(text: str, root: Path, where: str) -> tuple[Path, bool]:
    """The file of a path with a leading slash, and whether that is its absolute path: other lists than published ones,
    whose paths begin at the root, hold absolute paths of files in it. UserError for a file elsewhere."""
    absolute = _as_on_disk(text)
    path = root / absolute.lstrip("/")
    if os.path.lexists(path):
        return path, False
    folder, name = os.path.split(absolute)
    targets = [(os.path.abspath(root), absolute)]
    if os.path.isdir(folder):  # seldom so for a path that begins at the root
        targets.append((os.path.realpath(root), os.path.join(os.path.realpath(folder), name)))
    for home, target in targets:
        if target.startswith(f"{home}/"):
            below = target.removeprefix(home).lstrip("/")
            check_name(below, where)
            return root / below, True
    if os.path.isfile(absolute):
        raise UserError(f"{where}: {quoted(text)} lies outside the data folder {root}; give --data a folder with it")
    return path, False


def instead(path: Path) -> str:
    """What to do about a file that is missing: often it is there under another name."""
    if os.path.islink(path):
        return f"it is a link to {os.path.realpath(path)}: restore that, or take the image off the list"
    other = _alike(path) or ("\\" in path.name and _alike(Path(str(path).replace("\\", "/"))))
    if not other or not _has_suffix(other.name):
        if below := _below(path):
            return f"{below} is there: write that folder too, or move the file"
        folder = "" if os.path.isdir(path.parent) else "its folder is not there: write paths relative to --data, or "
        return f"{folder}restore it, or take it off the list"
    name = other.name if other.parent == path.parent else str(other)
    if other.suffix.lower() in OTHER_SUFFIXES:
        return f"{name} is there: convert it to PNG or JPEG"
    same = unicodedata.normalize("NFC", str(other)) == unicodedata.normalize("NFC", str(path))
    form = " with its accents in another Unicode form" if same else ""
    return f"{name} is there{form}: write that name, or rename the file"


def _alike(path: Path) -> Path | None:
    """The image, or folder, of that name but for case, suffix and Unicode form, in the folder or in one alike."""
    if path.parent == path:
        return None
    folder = path.parent if os.path.isdir(path.parent) else _alike(path.parent)
    if folder is None:
        return None
    try:
        name = _names(os.fspath(folder), os.stat(folder).st_mtime_ns).get(_key(path.name))
    except (OSError, ValueError):
        return None
    return folder / name if name else None


def _below(path: Path) -> str:
    """The file of that name in one of the folders beside where it should be, if only one of them has it; else ""."""
    parent = os.fspath(path.parent)
    try:
        folders = _folders(parent, os.stat(parent).st_mtime_ns)
    except (OSError, ValueError):
        return ""
    found = [folder for folder in folders if os.path.isfile(os.path.join(parent, folder, path.name))]
    return f"{found[0]}/{path.name}" if len(found) == 1 else ""


@lru_cache(maxsize=8)
def _folders(folder: str, changed: int) -> tuple[str, ...]:
    """The folders in a folder, by their names; none where they are many. changed: as below."""
    with os.scandir(folder) as entries:
        some = tuple(islice((entry.name for entry in entries if entry.is_dir()), _FOLDERS_LOOKED_AT + 1))
    return some if len(some) <= _FOLDERS_LOOKED_AT else ()


@lru_cache(maxsize=8)  # a list may miss thousands of files of one folder
def _names(folder: str, changed: int) -> dict[str, str]:
    """What the folder holds, by key; images that are read before others. changed: its time, for the cache."""
    names = os.listdir(folder)
    names.sort(key=lambda name: (Path(name).suffix.lower() not in SUFFIXES, name), reverse=True)
    return {_key(name): name for name in names}


def _key(name: str) -> str:
    name = unicodedata.normalize("NFC", name)
    folded = unicodedata.normalize("NFC", image_id(name).casefold())
    return f"{folded}/" if _has_suffix(name) else folded  # an image is not like a folder
