"""What a command line names, as one data set without labels: files, folders, patterns, lists, or shards."""

import glob
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pplfast.data.classes import ClassList
from pplfast.data.dataset import DataConfig, Dataset, open_dataset
from pplfast.data.folder import IMAGES, check_out_of_data, find_images
from pplfast.data.list_files import LIST, are_images, read_list_file
from pplfast.data.names import SUFFIXES as IMAGE_SUFFIXES
from pplfast.data.names import image_id
from pplfast.data.shard_places import SUFFIXES as SHARDS
from pplfast.data.shard_places import is_sharded, naming_store
from pplfast.data.value_range import parse_range
from pplfast.errors import UserError, one_line
from pplfast.files import StrPath
from pplfast.reading import quoted
from pplfast.storage import is_remote, last_part
from pplfast.storage.places import is_pattern, local_path


@dataclass(frozen=True)
class _Image:
    """id: its name below the folder that was named, or without it its stem. folder: the name of that folder, or of the
    file's own, which tells it from another image of the same id."""

    id: str
    path: Path
    folder: str


def open_images(words: Sequence[StrPath], classes: ClassList, range: str, out: StrPath) -> Dataset:
    """The images that the words name, in their order, as a data set without labels. A file that is named twice is in it
    once.

    Ids are the stems of files, and names below a folder. Of images that would have one id each gets the name of its
    folder before it. range: of images deeper than 8 bits, as `DataConfig` has it. Says what of a folder is left out.
    UserError for what is not there, holds no image, would have one id all the same, or where the labels of `out` would
    be taken for images.
    """
    paths = [os.fspath(word) for word in words]
    if (config := sharded(paths, classes, range)) is not None:
        check_out_of_data(out, config)
        return open_dataset(config)
    found = [image for path in paths for image in _images(path, out)]
    if len(paths) > 1:
        found = list({os.path.abspath(image.path): image for image in reversed(found)}.values())[::-1]
    ids = _ids(found)
    name = Path(os.path.abspath(paths[0])).name if len(paths) == 1 else f"{len(found)} images"
    images = tuple(image.path for image in found)
    return Dataset(name, ids, images, classes, None, (None,) * len(ids), values=parse_range(range))


def sharded(words: Sequence[StrPath], classes: ClassList, range: str) -> DataConfig | None:
    """The data set of shards, or of a list of images in a store, that is named; None for files and folders. UserError
    for one of several words, and for an image at a URL."""
    paths = [os.fspath(word) for word in words]
    places = [path for path in paths if _in_shards(path)]
    if not places:
        return None
    if len(paths) > 1:
        raise UserError(
            f"{places[0]}: a data set in shards is named alone; name a folder, a pattern in quotes like "
            "'shards/*.tar', or a .txt with one a line, and predict other images by themselves"
        )
    if is_remote(places[0]) and places[0].lower().endswith(IMAGE_SUFFIXES):
        raise UserError(f"{places[0]}: an image at a URL; name it in a .txt with one URL a line, and give that")
    values = ",".join(f"{name}={value}" for name, value in zip(classes.names, classes.ids, strict=True))
    return DataConfig(root=places[0], labels="none", classes=values, range=range)


def _in_shards(path: str) -> bool:
    if not path.lower().endswith(LIST) or is_remote(path) or os.path.isdir(local_path(path)):
        return _may_be_shards(path) and is_sharded(DataConfig(root=path))
    if not os.path.isfile(local_path(path)):
        raise UserError(f"{path}: no such list; give a .txt with an image or a shard in each line")
    return _local_images(path) is None


def _may_be_shards(path: str) -> bool:
    """A pattern is one of images unless it says otherwise."""
    local = local_path(path)
    return is_remote(path) or os.path.exists(local) or local.lower().endswith(SHARDS)


def _local_images(file: str) -> list[Path] | None:
    """Of a list; None for a list of shards, or of images in a store."""
    with naming_store(file):
        lines = read_list_file(file)
    if not are_images(file, lines, SHARDS) or any(is_remote(line.path) for line in lines):
        return None
    return [Path(local_path(line.path)) for line in lines]


def _images(word: str, out: StrPath) -> Iterator[_Image]:
    """Those of a word. What it matches comes in the order of its names."""
    path = local_path(word)
    if os.path.isdir(path):
        yield from _in_folder(Path(path), out)
    elif os.path.isfile(path) and path.lower().endswith(LIST):
        yield from _files(_local_images(word) or (), out)
    elif os.path.exists(path):
        yield from _files([Path(path)], out)
    elif is_pattern(path):
        matches = sorted(glob.glob(path, recursive=True))
        if not matches:
            raise UserError(f"{word}: matches no file; check the pattern, in which ** stands for any folders")
        for match in matches:
            yield from _images(match, out)
    else:
        raise UserError(f"{word}: no such file or folder; name an image, a folder of images, or a list (.txt) of them")


def _files(paths: Iterable[Path], out: StrPath) -> Iterator[_Image]:
    target = None if is_remote(os.fspath(out)) else os.path.realpath(out)
    for path in paths:
        folder = os.path.dirname(os.path.abspath(path))
        if os.path.realpath(folder) == target:
            raise UserError(
                f"--out {out}: {path.name} lies there, and the labels would be taken for images; give another folder, "
                f"like {os.path.join(out, 'labels')}"
            )
        yield _Image(image_id(path.name), path, last_part(folder))


def _in_folder(root: Path, out: StrPath) -> Iterator[_Image]:
    """All images below it; of VOC's layout those of JPEGImages."""
    check_out_of_data(out, DataConfig(root=str(root)))
    home = root / IMAGES if (root / IMAGES).is_dir() else root
    images, left_out = find_images(home)
    if not images:
        others = f" ({left_out[0].id}: {left_out[0].message})" if left_out else ""
        raise UserError(f"{root}: holds no image that is read{others}; PNG, JPEG, TIFF, WebP and others are")
    if left_out and os.environ.get("RANK", "0") == "0":
        some = ", ".join(problem.id for problem in left_out[:3]) + (", ..." if len(left_out) > 3 else "")
        text = f"note: {root}: {len(left_out)} files or folders in it are not used ({some}); "
        print(one_line(f"{text}`pplfast data check --data {root} --labels none` says why"), file=sys.stderr)
    name = Path(os.path.abspath(root)).name
    for path in images:
        yield _Image(image_id(str(path.relative_to(home))), path, name)


def _ids(images: Sequence[_Image]) -> tuple[str, ...]:
    """Unique ones. UserError, which names two images, where their folders do not tell them apart."""
    counts = Counter(image.id for image in images)
    ids = tuple(image.id if counts[image.id] == 1 else f"{image.folder}/{image.id}" for image in images)
    first: dict[str, Path] = {}
    for id, image in zip(ids, images, strict=True):
        if (other := first.setdefault(id, image.path)) is not image.path:
            raise UserError(
                f"{other} and {image.path}: both would be labelled as {quoted(f'{id}.png')}; rename one, give the "
                "folder that holds both, or predict them into two folders"
            )
    return ids
