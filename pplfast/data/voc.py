"""Which images belong to a data set: VOC lists, list files, or a plain folder with a CSV."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pplfast.data.csv_labels import Row, read_csv
from pplfast.errors import UserError
from pplfast.reading import quoted

JPEG_SUFFIXES = (".jpg", ".jpeg")
LONGEST_NAME = 255  # bytes, of every file system in use
LONGEST_PATH = 2048  # bytes below the data set's folder; Linux takes 4096 in all
OTHER_SUFFIXES = (".png", ".PNG", ".webp", ".tif", ".tiff", ".bmp", ".gif")  # images that are recognised, not read


@dataclass(frozen=True)
class ListEntry:
    id: str
    image: Path  # where it should be; it may be missing
    mask: Path | None  # where the list says its mask is, if it does


def check_root(root: Path) -> None:
    """Raises UserError where the data set's folder does not exist."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give --data a VOC root or a folder of images")


def read_list(root: Path, name: str, labels: str, classes: Collection[str] = ()) -> tuple[list[ListEntry], str]:
    """The images of a data set in the order of its list, and the data set's name for reports.

    `name` is a list by name or by path. A plain folder may go without: the rows of its CSV then are the list, and
    without a CSV every JPEG in it; the data set then has the folder's name. `classes`: their names, which tell the
    header of a CSV from a row. UserError for a list that is missing,
    empty, or names an image twice.
    """
    images = root / "JPEGImages"
    is_voc = images.is_dir()
    folder = images if is_voc else root
    if name:
        path = _find_list(root, name)
        entries = _from_file(path, root, folder)
        source, title = path, path.stem
    elif is_voc:
        raise UserError(f"{root}: has VOC layout and --list is not given; choose one: {_known_lists(root)}")
    elif labels.lower().endswith(".csv"):
        source, title = Path(labels), ""
        entries = [(row.line, _from_row(row, source, folder)) for row in read_csv(source, root, classes)]
    else:
        source, title = root, ""
        entries = [(0, ListEntry(str(path.relative_to(root).with_suffix("")), path, None)) for path in _jpegs(root)]
        if not entries and (others := _others(root)):
            raise UserError(
                f"{root}: holds no JPEG, but {len(others)} images in other formats, as {others[0].name}; convert them"
            )
    _check(entries, source)
    return [entry for _, entry in entries], f"{root.resolve().name}/{title}" if title else root.resolve().name


def _find_list(root: Path, name: str) -> Path:
    candidates = [
        root / "ImageSets" / "Segmentation" / f"{name}.txt",
        root / "ImageSets" / "Main" / f"{name}.txt",
        root / f"{name}.txt",
        root / name,
        Path(name),
    ]
    for path in candidates:
        if os.path.isfile(path):  # unlike the path's own method, also for names that no file system takes
            return path
    raise UserError(f"{root}: no list {quoted(name)}; give a list file, or one of: {_known_lists(root)}")


def _known_lists(root: Path) -> str:
    files = [path for kind in ("Segmentation", "Main") for path in sorted((root / "ImageSets" / kind).glob("*.txt"))]
    return ", ".join(dict.fromkeys(path.stem for path in files)) or "(ImageSets holds none)"


def _from_file(path: Path, root: Path, folder: Path) -> list[tuple[int, ListEntry]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # Notepad writes a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable list of images ({error})") from None
    return [(number, _entry(line, path, number, root, folder)) for number, line in enumerate(lines, 1) if line.strip()]


def _entry(line: str, path: Path, number: int, root: Path, folder: Path) -> ListEntry:
    """One line: `id`, `id 1` (the lists of ImageSets/Main; -1 and 0 count too), or `/image.jpg /mask.png`.

    Paths of the last kind start at the root; that leading slash is how published train_aug lists are written.
    """
    words = line.split()
    if len(words) > 2:
        raise UserError(f"{path}, line {number}: {quoted(line.strip())}: expected an id, or an image and a mask path")
    first = words[0]
    for word in words:
        _check_name(word, f"{path}, line {number}")
    mask = root / words[1].lstrip("/") if len(words) == 2 and words[1].lower().endswith(".png") else None
    if first.startswith("/") or mask is not None:
        image = root / first.lstrip("/")
        return ListEntry(image.stem, image, mask)
    return ListEntry(image_id(first), _resolve(folder, first), mask)


def _from_row(row: Row, source: Path, folder: Path) -> ListEntry:
    _check_name(row.image, f"{source}, line {row.line}")
    return ListEntry(image_id(row.image), _resolve(folder, row.image), None)


def _check_name(text: str, where: str) -> None:
    """Raises UserError for what can be no file below the data set's folder."""
    parts = text.split("/")
    if ".." in parts:
        raise UserError(f"{where}: {quoted(text)} leaves the data folder; write it relative to that")
    longest, whole = max(len(part.encode()) for part in parts), len(text.encode())
    if "\0" in text or longest > LONGEST_NAME or whole > LONGEST_PATH or not text.strip("/."):
        raise UserError(f"{where}: {quoted(text)} can be no file's name; correct it, or take it off the list")


def image_id(text: str) -> str:
    """The id of an image named with or without its suffix; an id keeps dots that are not a known suffix."""
    path = PurePosixPath(text)
    known = (*JPEG_SUFFIXES, *OTHER_SUFFIXES)
    return str(path.with_suffix("")) if path.suffix.lower() in known else str(path)


def _resolve(folder: Path, text: str) -> Path:
    if image_id(text) != str(PurePosixPath(text)):
        return folder / text
    for suffix in (".jpg", ".jpeg", ".JPG", ".JPEG"):
        if os.path.isfile(folder / f"{text}{suffix}"):
            return folder / f"{text}{suffix}"
    return folder / f"{text}.jpg"


def _jpegs(root: Path) -> Iterator[Path]:
    return (path for path in sorted(root.rglob("*")) if path.suffix.lower() in JPEG_SUFFIXES and path.is_file())


def _others(root: Path) -> list[Path]:
    return [path for path in sorted(root.rglob("*")) if path.suffix.lower() in OTHER_SUFFIXES and path.is_file()]


def _check(entries: list[tuple[int, ListEntry]], source: Path) -> None:
    if not entries:
        raise UserError(f"{source}: names no image; give a list with one id per line, or a folder with JPEG images")
    seen: dict[str, int] = {}
    for line, entry in entries:
        if entry.id.startswith("/"):
            raise UserError(
                f"{source}, line {line}: {quoted(entry.id)} leaves the data folder; write it relative to that"
            )
        if entry.id in seen:
            raise UserError(
                f"{source}, line {line}: {quoted(entry.id)} is there already in line {seen[entry.id]}; remove one of "
                "them"
            )
        seen[entry.id] = line
