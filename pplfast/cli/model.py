"""--model: the network that a path means, and the data set with that network's classes. Without torch: errors come at
once."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pplfast.data.image_info import AUTO
from pplfast.data.options import dataset_from_arguments
from pplfast.errors import UserError
from pplfast.networks import BOUNDARY, SEGMENTATION, Kind, find_network

if TYPE_CHECKING:
    from pplfast.data.classes import ClassList
    from pplfast.data.dataset import Dataset
    from pplfast.files import StrPath


OF_NETWORK = "those that the network was trained for"  # default of --classes, in words


def find_model(path: "StrPath", kind: Kind) -> Path:
    """As `find_network`; says which one it is where the path is not its folder."""
    folder = find_network(path, kind)
    if folder not in (Path(path), Path(path).parent):
        _say(f"{kind.what}: {folder}")
    return folder


def _say(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr)


def model_classes(folder: Path, kind: Kind) -> "ClassList | None":
    """Those that `find_model`'s network was trained for; None for a boundary network whose file does not say."""
    from pplfast.described import described_classes
    from pplfast.files import read_json

    file = folder / f"{kind.name}.json"
    table = read_json(file)
    try:
        if kind is BOUNDARY and "class_names" not in table:
            return None
        return described_classes(table)
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{file}: does not say the network's classes; train again with `{kind.command}`") from None


def take_classes(args: argparse.Namespace, folder: Path, kind: Kind) -> None:
    """Let --classes be those of the network, where neither the option nor ROOT/classes.txt says others."""
    classes = model_classes(folder, kind)
    if classes is not None and not args.classes and not _own_list(args).is_file():
        args.classes = as_option(classes)


def take_range(args: argparse.Namespace, file: "StrPath") -> None:
    """Let --range be that of what comes before, unless the option says another: nothing is measured on other images
    than those of the training. file: the JSON beside a network, or the settings of a folder of CAMs."""
    from pplfast.data.value_range import range_text, recorded_range
    from pplfast.storage.tables import read_table

    table = read_table(os.fspath(file)) if args.range == AUTO else None
    if table is None:
        return
    try:
        args.range = range_text(recorded_range(table.get("range")))
    except (TypeError, ValueError, AttributeError):
        raise UserError(f"{file}: its range is not two numbers; make it again, or give --range") from None


def _own_list(args: argparse.Namespace) -> Path:
    """It may not be there."""
    from pplfast.data.options import config_from_arguments
    from pplfast.data.shard_places import classes_file, is_sharded

    own = Path(args.data) / "classes.txt"
    return (classes_file(args.data) or own) if is_sharded(config_from_arguments(args)) else own


def dataset_of_model(args: argparse.Namespace, folder: Path, kind: Kind) -> "Dataset":
    """The data set of the arguments, with the classes of the network as in `take_classes`. Raises UserError where
    others are said, with both lists."""
    take_classes(args, folder, kind)
    take_range(args, folder / f"{kind.name}.json")
    _check_classes(args, folder, kind)
    return dataset_from_arguments(args, args.out)


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
