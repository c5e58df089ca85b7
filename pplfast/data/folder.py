"""A folder of images: what it holds, what of that is left out, and where a data set in VOC's layout is."""

import errno
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pplfast.data.names import OTHER_SUFFIXES, SUFFIXES
from pplfast.data.problems import WARNING, Problem
from pplfast.errors import UserError, explain_os_error
from pplfast.files import StrPath
from pplfast.storage import is_remote
from pplfast.storage.places import local_path

if TYPE_CHECKING:
    from pplfast.data.dataset import DataConfig

IMAGES = "JPEGImages"
_PARTS = (IMAGES, "Annotations", "ImageSets")  # of VOC's layout, beside the folders of masks
_MASKS = "SegmentationClass"  # and SegmentationClassAug
# Their PNGs would be taken for images. The second ones may be those of a class as well: of faces with a mask.
MASK_FOLDERS = frozenset({_MASKS, "SegmentationClassAug", "SegmentationObject"})
_OF_MASK = re.compile(r"[ _.-]*(mask|label|seg|segmentation|gt)$", re.IGNORECASE)
MAYBE_MASK_FOLDERS = frozenset({"masks", "Masks", "mask", "Mask"})


def check_root(root: Path) -> None:
    """Raises UserError where the data set's folder does not exist."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give --data a VOC root or a folder of images")


def check_out_of_data(out: StrPath, data: "DataConfig") -> None:
    """Raises UserError for an output folder that is the data set's, or lies where its images, labels or masks do: what
    is written there would be taken for data by the next command, or stand for true masks."""
    from pplfast.data.shard_places import home as home_of
    from pplfast.data.shard_places import is_sharded

    if is_sharded(data):
        _check_out_of_shards(_whole(str(out)), _whole(home_of(str(data.root))), home_of(str(data.root)) == data.root)
        return
    if is_remote(str(out)):
        return
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


def _check_out_of_shards(out: str, home: str, folder: bool) -> None:
    """folder: whether the data set is all of the folder; else some of the shards in it."""
    if out == home or (folder and out.startswith(f"{home}/")):
        raise UserError(f"--out {out}: lies among the data set's files in {home}; give one outside it")


def _whole(path: str) -> str:
    return path.rstrip("/") if is_remote(path) else os.path.realpath(local_path(path))


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
    maybe_masks: set[Path] = set()
    for path in _walk(root, left_out, maybe_masks):
        suffix = path.suffix.lower()
        if suffix in SUFFIXES:
            images.append(path)
        elif suffix in OTHER_SUFFIXES:
            left_out.append(_left_out(root, path, "other-format", "is not used; convert it to PNG or JPEG"))
        elif os.path.islink(path) and not os.path.exists(path):
            reason = f"a link that leads nowhere ({os.path.realpath(path)}); mend it, or remove it"
            left_out.append(_left_out(root, path, "left-out", reason))
    if maybe_masks:
        others = [problem.file for problem in left_out if problem.kind == "other-format"]
        masks = _mask_folders(maybe_masks, [*images, *others])
        within = {
            folder for folder in {path.parent for path in images} if not masks.isdisjoint((folder, *folder.parents))
        }
        images = [path for path in images if path.parent not in within]
        left_out += [_left_out_masks(root, folder) for folder in masks]
        left_out = [problem for problem in left_out if masks.isdisjoint(problem.file.parents)]
    return sorted(images), sorted(left_out, key=lambda problem: str(problem.path))


def _mask_folders(maybe: set[Path], images: list[Path]) -> set[Path]:
    """Those of the folders that hold nothing but PNGs, of which one is named as an image elsewhere."""
    inside: dict[Path, list[Path]] = defaultdict(list)
    for path in images:
        inside[path.parent].append(path)
    above = {folder: maybe.intersection((folder, *folder.parents)) for folder in inside}
    of_others = (folder for folder, paths in inside.items() if any(path.suffix.lower() != ".png" for path in paths))
    of_pngs = maybe.difference(*(above[folder] for folder in of_others))
    within = {folder for folder in inside if not of_pngs.isdisjoint(above[folder])}
    elsewhere = {path.stem for folder, paths in inside.items() if folder not in within for path in paths}
    alike = (folder for folder in within if any(_image_of(path.stem) in elsewhere for path in inside[folder]))
    return of_pngs.intersection(mask for folder in alike for mask in above[folder])


def _image_of(stem: str) -> str:
    """What the image of a mask is called: a for a_mask."""
    return _OF_MASK.sub("", stem)


def _walk(root: Path, left_out: list[Problem], maybe_masks: set[Path]) -> Iterator[Path]:
    """All that is no folder, and lies in none of MASK_FOLDERS. Each folder is entered once, by its own name rather than
    through a link: so a link into the folder itself neither loops nor doubles an image. To maybe_masks are added those
    of MAYBE_MASK_FOLDERS."""
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
                left_out.append(_left_out_masks(root, path))
                continue
            if entry.name in MAYBE_MASK_FOLDERS and os.path.isdir(path):
                maybe_masks.add(path)
            if entry.is_dir(follow_symlinks=False):
                waiting.append(path)
            elif not (entry.is_symlink() and os.path.isdir(path)):
                yield path
            elif above.is_relative_to(os.path.realpath(path)):
                reason = "a link to a folder that holds this one, which is not entered; remove it"
                left_out.append(_left_out(root, path, "left-out", reason))
            else:
                links.append(path)


def _left_out_masks(root: Path, path: Path) -> Problem:
    reason = "a folder of masks by its name: name it with --masks to score by it, or rename it if it is not"
    return _left_out(root, path, "left-out", reason)


def _left_out(root: Path, path: Path, kind: str, message: str) -> Problem:
    return Problem(str(path.relative_to(root)), path, kind, WARNING, message)
