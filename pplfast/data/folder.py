"""A folder of images: what it holds, what of that is left out, and where a data set in VOC's layout is."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pplfast.data.names import OTHER_SUFFIXES, SUFFIXES
from pplfast.data.problems import WARNING, Problem
from pplfast.errors import UserError, explain_os_error

if TYPE_CHECKING:
    from pplfast.data.dataset import DataConfig

IMAGES = "JPEGImages"
_PARTS = (IMAGES, "Annotations", "ImageSets")  # of VOC's layout, beside the folders of masks
_MASKS = "SegmentationClass"  # and SegmentationClassAug
# Their PNGs would be taken for images.
MASK_FOLDERS = frozenset({_MASKS, "SegmentationClassAug", "SegmentationObject", "masks", "Masks", "mask", "Mask"})


def check_root(root: Path) -> None:
    """Raises UserError where the data set's folder does not exist."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give --data a VOC root or a folder of images")


def check_out_of_data(out: Path, data: "DataConfig") -> None:
    """Raises UserError for an output folder that is the data set's, or lies where its images, labels or masks do: what
    is written there would be taken for data by the next command, or stand for true masks."""
    root = Path(data.root)
    home, target = Path(os.path.realpath(root)), Path(os.path.realpath(out))
    taken = [home]
    if (root / IMAGES).is_dir():
        first = target.relative_to(home).parts[:1] if target.is_relative_to(home) else ()
        among = not first or first[0] in _PARTS or first[0].startswith(_MASKS)
        taken = [home] if among else []
    if data.masks:
        taken += [Path(os.path.realpath(folder)) for folder in (root / data.masks, data.masks)]
    if any(target.is_relative_to(folder) for folder in taken):
        outside = home.parent / "runs" / home.name
        raise UserError(f"--out {out}: lies among the data set's files in {root}; give one outside it, like {outside}")


def meant_root(root: Path) -> str:
    """What to say of a folder without VOC layout that lies above or below one with it; "" where none is near."""
    below = [*sorted(root.glob(f"*/{IMAGES}")), *sorted(root.glob(f"*/*/{IMAGES}"))]
    found = [path.parent for path in (*below, root.parent / IMAGES) if path.is_dir()]
    if not found:
        return ""
    one = f"give --data {found[0]}" if len(found) == 1 else "give --data one of them"
    return f"{' and '.join(map(str, found[:3]))} {'has' if len(found) == 1 else 'have'} VOC layout; {one}"


def find_images(root: Path) -> tuple[list[Path], list[Problem]]:
    """All image files below a folder by their names, sorted, and what else should be known of: images of formats that
    are not read, folders of masks, and links and folders that cannot be followed. Linked folders count; what is hidden,
    and what a Mac puts beside each file of an archive, does not."""
    images: list[Path] = []
    left_out: list[Problem] = []
    for path in _walk(root, left_out):
        suffix = path.suffix.lower()
        if suffix in SUFFIXES:
            images.append(path)
        elif suffix in OTHER_SUFFIXES:
            left_out.append(_left_out(root, path, "other-format", "is not used; convert it to PNG or JPEG"))
        elif os.path.islink(path) and not os.path.exists(path):
            reason = f"a link that leads nowhere ({os.path.realpath(path)}); mend it, or remove it"
            left_out.append(_left_out(root, path, "left-out", reason))
    return sorted(images), sorted(left_out, key=lambda problem: str(problem.path))


def _walk(root: Path, left_out: list[Problem]) -> Iterator[Path]:
    """All that is no folder. Each folder is entered once, by its own name rather than through a link: so a link into
    the folder itself neither loops nor doubles an image."""
    entered: set[tuple[int, int]] = set()
    above = Path(os.path.realpath(root)).parent
    waiting, links = [root], list[Path]()
    while waiting or links:
        links.sort(reverse=True)
        folder = waiting.pop() if waiting else links.pop()
        try:
            state = os.stat(folder)
            if (state.st_dev, state.st_ino) in entered:
                continue
            entered.add((state.st_dev, state.st_ino))
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            if folder == root or error.errno not in (errno.EACCES, errno.EPERM):
                raise explain_os_error(error, folder, reading=True) from None
            left_out.append(_left_out(root, folder, "left-out", f"may not be read ({error.strerror}); allow it"))
            continue
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith((".", "__MACOSX")):
                continue
            if entry.name in MASK_FOLDERS and os.path.isdir(path):
                reason = "a folder of masks by its name: name it with --masks to score by it, or rename it if it is not"
                left_out.append(_left_out(root, path, "left-out", reason))
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(path)
            elif not (entry.is_symlink() and os.path.isdir(path)):
                yield path
            elif above.is_relative_to(os.path.realpath(path)):
                reason = "a link to a folder that holds this one, which is not entered; remove it"
                left_out.append(_left_out(root, path, "left-out", reason))
            else:
                links.append(path)


def _left_out(root: Path, path: Path, kind: str, message: str) -> Problem:
    return Problem(str(path.relative_to(root)), path, kind, WARNING, message)
