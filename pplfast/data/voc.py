"""Which images belong to a data set: VOC lists, list files, or a plain folder with a CSV."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pplfast.data.csv_rows import Row, read_csv
from pplfast.data.folder import IMAGES, meant_root
from pplfast.data.listing import ListEntry, Listing, Scan
from pplfast.data.names import OTHER_SUFFIXES, SUFFIXES, check_name, image_file, image_id, in_root
from pplfast.data.problems import Problem
from pplfast.errors import UserError
from pplfast.files import StrPath
from pplfast.reading import quoted

_SUFFIX = re.compile(rf"({'|'.join(map(re.escape, (*SUFFIXES, *OTHER_SUFFIXES)))})\s+", re.IGNORECASE)
_FLAGS = ("-1", "0", "1")  # whether an image of ImageSets/Main shows the list's class
_FORMS = "expected the name of one image, or an image and a mask path, or in a whole list an id and 1, 0 or -1"


@dataclass(frozen=True)
class ImageList:
    entries: list[ListEntry]
    name: str  # of the data set, for reports
    left_out: list[Problem]  # what else a plain folder holds


def is_voc_layout(root: StrPath) -> bool:
    """Whether lists are part of the data set: it has the folders of VOC's layout, or one of them."""
    return any(os.path.isdir(os.path.join(root, folder)) for folder in ("ImageSets", IMAGES))


def read_list(root: Path, name: str, labels: str) -> ImageList:
    """The images of a data set in the order of its list.

    `name` is a list by name or by path. A plain folder may go without: the rows of its CSV then are the list, and
    without a CSV every image in it, also in linked folders; the data set then has the folder's name. UserError for a
    list that is missing, empty, or names an image twice.
    """
    scan = Scan(root)
    if name:
        source = _find_list(root, name)
        found = _from_file(source, root, scan.images)
        listing = Listing(source, [entry for _, entry in found], [line for line, _ in found], [])
        return listed_images(scan, listing, source.stem)
    if scan.is_voc:
        raise UserError(f"{root}: has VOC layout and --list is not given; choose one: {_known_lists(root)}")
    if labels.lower().endswith(".csv"):
        path = Path(labels)
        return listed_images(scan, listing_of_rows(read_csv(path, root).rows, path, root))
    return listed_images(scan, scan.listing, with_labels=labels != "none")


def listed_images(scan: Scan, listing: Listing, title: str = "", with_labels: bool = True) -> ImageList:
    """A listing as the images of a data set. title: of its list. UserError as `read_list`, and where a data set in VOC
    layout next to the folder is meant."""
    listing.check()
    entries, root = listing.entries, scan.root
    if scan.is_voc:
        lost = False
    elif listing.source == root:
        lost = with_labels and any(IMAGES in entry.id.split("/") for entry in entries)
    else:
        lost = not any(os.path.isfile(entry.image) for entry in entries)
    if lost and (meant := meant_root(root)):
        raise UserError(meant)
    whole = root.resolve().name
    return ImageList(entries, f"{whole}/{title}" if title else whole, listing.left_out)


def listing_of_rows(rows: Sequence[Row], path: Path, folder: Path) -> Listing:
    """The images of a CSV. UserError for a name that can be no file's in the folder."""
    return Listing(path, [_from_row(row, path, folder) for row in rows], [row.line for row in rows], [])


def _find_list(root: Path, name: str) -> Path:
    if found := find_list_in(root, name):
        return found
    if os.path.isfile(name):
        return Path(name)
    remedy = "" if (root / IMAGES).is_dir() else meant_root(root)
    remedy = remedy or f"give a list file, or one of: {_known_lists(root)}"
    raise UserError(f"{root}: no list {quoted(name)}; {remedy}")


def find_list_in(root: Path, name: str) -> Path | None:
    """The list of that name in the data set's folder, which comes before any file of that path."""
    places = ("ImageSets/Segmentation/{}.txt", "ImageSets/Main/{}.txt", "{}.txt", "{}")
    candidates = (root / place.format(name) for place in places)
    # Unlike the path's own method, this one takes names that no file system takes.
    return next((path for path in candidates if os.path.isfile(path)), None)


def _known_lists(root: Path) -> str:
    files = [path for kind in ("Segmentation", "Main") for path in sorted((root / "ImageSets" / kind).glob("*.txt"))]
    return ", ".join(dict.fromkeys(path.stem for path in files)) or "(ImageSets holds none)"


def _from_file(path: Path, root: Path, folder: Path) -> list[tuple[int, ListEntry]]:
    try:
        content = path.read_text(encoding="utf-8-sig")  # Notepad writes a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable list of images ({error})") from None
    lines = {number: line.strip() for number, line in enumerate(content.splitlines(), 1) if line.strip()}
    flags = all(_has_flag(line) for line in lines.values())
    if flags and not any(os.path.isfile(image_file(folder, line)) for line in lines.values()):
        lines = {number: line.rsplit(maxsplit=1)[0] for number, line in lines.items()}
    return [(number, _entry(line, f"{path}, line {number}", root, folder)) for number, line in lines.items()]


def _has_flag(line: str) -> bool:
    """As all lines of ImageSets/Main have. A name with spaces may end so too: then a file has the whole of it."""
    return len(words := line.rsplit(maxsplit=1)) == 2 and words[1] in _FLAGS


def _entry(line: str, where: str, root: Path, folder: Path) -> ListEntry:
    """One line: the image by its id or file, or `/image.jpg /mask.png`, as published train_aug lists are written."""
    plain = image_file(folder, line)
    words = line.split()
    names_all = len(words) == 1 or os.path.isfile(plain)
    if not names_all and (pair := _pair(line)):
        check_name(pair[0], where)
        check_name(pair[1], where)
        id, image = _from_path(f"/{pair[0].lstrip('/')}", root, folder, where)
        return ListEntry(id, image, in_root(f"/{pair[1].lstrip('/')}", root, where)[0])
    check_name(line, where)
    if line.startswith("/"):
        return ListEntry(*_from_path(line, root, folder, where), None)
    parts = (words[0], line.rsplit(maxsplit=1)[0])
    if not names_all and any(os.path.isfile(image_file(folder, part)) for part in parts):
        raise UserError(f"{where}: no image {quoted(line)}; {_FORMS}")
    return ListEntry(image_id(line), plain, None)


def _pair(line: str) -> tuple[str, str] | None:
    """An image and its mask. Both may hold spaces where the image has its suffix."""
    words = line.split()
    if not line.lower().endswith(".png"):
        return None
    if len(words) == 2:
        return words[0], words[1]
    split = _SUFFIX.search(line)
    return (line[: split.end(1)], line[split.end() :]) if split else None


def _from_path(text: str, root: Path, folder: Path, where: str) -> tuple[str, Path]:
    """Id and file of an image by its path: one that begins at the root has no folder in its id."""
    image, absolute = in_root(text, root, where)
    inside = absolute and image.is_relative_to(folder)
    return image_id(str(image.relative_to(folder))) if inside else image.stem, image


def _from_row(row: Row, source: Path, folder: Path) -> ListEntry:
    where = f"{source}, line {row.line}"
    check_name(row.image, where)
    if row.image.startswith("/"):
        raise UserError(
            f"{where}: {quoted(row.image)} is an absolute path; write it relative to the data folder {folder}"
        )
    return ListEntry(image_id(row.image), image_file(folder, row.image), None)
