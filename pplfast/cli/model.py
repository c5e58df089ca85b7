"""--model: the network that a path means, and the data set with that network's classes. Without torch: errors come at
once."""

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pplfast.data.options import dataset_from_arguments
from pplfast.errors import UserError

if TYPE_CHECKING:
    from pplfast.data.classes import ClassList
    from pplfast.data.dataset import Dataset


@dataclass(frozen=True)
class Kind:
    """A kind of trained network, by the files that it is: `<name>.json` beside `<name>.safetensors`."""

    name: str
    what: str
    folder: str  # its name within a variant of a run
    command: str  # that trains it

    @property
    def help(self) -> str:
        return f"trained {self.what}: its folder, or that of a run or variant with only one"


CLASSIFIER = Kind("classifier", "classifier", "train", "pplfast train")
BOUNDARY = Kind("boundary", "boundary network", "boundary", "pplfast refine train")
SEGMENTATION = Kind("segmentation", "segmentation network", "segmentation", "pplfast segment train")
KINDS = (CLASSIFIER, BOUNDARY, SEGMENTATION)
DEPTHS = ("", "*", "*/*")  # of the folder that holds `Kind.folder`: a variant, a run, a run of several seeds
OF_NETWORK = "those that the network was trained for"  # default of --classes, in words


def find_model(path: str | os.PathLike[str], kind: Kind) -> Path:
    """The folder of the network of that kind which `path` means: that folder, one of its files, or a folder of a run
    that holds exactly one. Raises UserError where there is none or a choice; it names what there is."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such folder; give --model the folder of a finished `{kind.command}`")
    if path.name in (f"{kind.name}.json", f"{kind.name}.safetensors"):
        path = path.parent
    if _holds(path, kind):
        return path
    found = list(_inside(path, kind))
    if len(found) == 1:
        _say(f"{kind.what}: {found[0]}")
        return found[0]
    if found:
        raise UserError(f"{path}: holds {len(found)} {kind.what}s; give --model one of {_names(found)}")
    raise UserError(f"{path}: holds no {kind.name}.json; {_instead(path, kind)}")


def _holds(path: Path, kind: Kind) -> bool:
    return (path / f"{kind.name}.json").is_file()


def _inside(path: Path, kind: Kind) -> Iterator[Path]:
    for depth in DEPTHS:
        pattern = "/".join(part for part in (depth, kind.folder, f"{kind.name}.json") if part)
        yield from (file.parent for file in sorted(path.glob(pattern)))


def _instead(path: Path, kind: Kind) -> str:
    """What to give instead: the network beside the one of another kind that is there, or what makes one."""
    other = next((other for other in KINDS if _holds(path, other)), None)
    if other is None:
        return f"give the folder of a finished `{kind.command}`"
    beside = path.parent / kind.folder
    remedy = f"give {beside}" if _holds(beside, kind) else f"make one with `{kind.command}`"
    return f"it is a {other.what}, and a {kind.what} is needed: {remedy}"


def _names(paths: list[Path]) -> str:
    shown = ", ".join(map(str, paths[:8]))
    return f"{shown}, ..." if len(paths) > 8 else shown


def _say(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr)


def model_classes(folder: Path, kind: Kind) -> "ClassList | None":
    """Those that `find_model`'s network was trained for; None for a boundary network whose file does not say."""
    from pplfast.data.classes import ClassList
    from pplfast.files import read_json

    file = folder / f"{kind.name}.json"
    table = read_json(file)
    try:
        if kind is BOUNDARY and "class_names" not in table:
            return None
        return ClassList(tuple(table["class_names"]), tuple(table["class_ids"]))
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{file}: does not say the network's classes; train again with `{kind.command}`") from None


def take_classes(args: argparse.Namespace, folder: Path, kind: Kind) -> None:
    """Let --classes be those of the network, where neither the option nor ROOT/classes.txt says others."""
    classes = model_classes(folder, kind)
    if classes is not None and not args.classes and not _own_list(args).is_file():
        args.classes = as_option(classes)


def _own_list(args: argparse.Namespace) -> Path:
    return Path(args.data) / "classes.txt"


def dataset_of_model(args: argparse.Namespace, folder: Path, kind: Kind) -> "Dataset":
    """The data set of the arguments, with the classes of the network as in `take_classes`. Raises UserError where
    others are said, with both lists."""
    take_classes(args, folder, kind)
    _check_classes(args, folder, kind)
    return dataset_from_arguments(args)


def _check_classes(args: argparse.Namespace, folder: Path, kind: Kind) -> None:
    """A segmentation network also decides the values in masks, since it writes them. Those of a classifier may be
    chosen anew: its labels get the values of --classes."""
    from pplfast.data.classes import parse_classes

    classes, own = model_classes(folder, kind), _own_list(args)
    if classes is None:
        return
    said = parse_classes(args.classes or own)
    if said != classes if kind is SEGMENTATION else said.names != classes.names:
        remedy = f"give --classes '{as_option(classes)}'" if own.is_file() else "leave --classes out"
        raise UserError(
            f"{folder}: the {kind.what} was trained for the classes {as_option(classes)}, but "
            f"{'--classes' if args.classes else own} says {as_option(said)}; {remedy}"
        )


def as_option(classes: "ClassList") -> str:
    """As --classes takes it: "cat=1,dog=2"."""
    return ",".join(f"{name}={value}" for name, value in zip(classes.names, classes.ids, strict=True))
