"""`pplfast recipes`: the presets of --recipe, and the text of one of them."""

import argparse
from importlib import resources
from pathlib import Path

from pplfast.data.folder import check_root
from pplfast.data.voc import is_voc_layout
from pplfast.errors import UserError, did_you_mean
from pplfast.recipe import load_recipe, preset_names

FOR_FOLDERS = "own-images"  # what `pplfast run` takes for a plain folder


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "List the recipes that --recipe takes by name, or print one: to read it, or to change a copy of it and give "
        "--recipe that file."
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="print this recipe as TOML (default: list all)")


def run(args: argparse.Namespace) -> int:
    names = preset_names()
    if args.name is None:
        for name in names:
            print(f"{name:<{max(map(len, names))}}  {load_recipe(name).description}")
        return 0
    if args.name not in names:
        raise UserError(
            f"{args.name}: no such recipe{did_you_mean(args.name, names)}; `pplfast recipes` lists {', '.join(names)}"
        )
    print(resources.files("pplfast.recipes").joinpath(f"{args.name}.toml").read_text(encoding="utf-8"), end="")
    return 0


def default_recipe(root: str) -> str:
    """The preset for a data set without --recipe. Raises UserError for a VOC layout: which one suits it depends on the
    machine and the data, not on the layout."""
    folder = Path(root)
    check_root(folder)
    if is_voc_layout(folder):
        raise UserError(
            f"{folder}: has VOC layout, for which there is no default recipe; give --recipe demo for the demo data "
            "set, --recipe voc-lite0-seg for PASCAL VOC on a small machine, or another one of `pplfast recipes`"
        )
    return FOR_FOLDERS
