"""`pplfast init`: looks at a data set, writes a recipe that fits it, and says the command to run."""

import argparse
import shlex
from pathlib import Path

from pplfast.cli.suggestion import suggestion_for
from pplfast.data.image_info import AUTO
from pplfast.data.options import RARE, add_data_arguments, config_from_arguments
from pplfast.data.voc import is_voc_layout
from pplfast.errors import UserError, one_line
from pplfast.recipe import load_recipe
from pplfast.recipe.suggested import BASE
from pplfast.recipe.writing import recipe_to_toml


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Look at a data set, write a recipe that fits it, and say the command that trains and labels. It asks nothing; "
        "`pplfast run` without --recipe takes the same settings."
    )
    add_data_arguments(parser, shown=RARE)
    parser.add_argument("--out", metavar="FILE", help="the recipe, a new file (default: <name of the data>.toml)")


def run(args: argparse.Namespace) -> int:
    from pplfast.data.dataset import open_dataset
    from pplfast.data.remarks import class_remarks
    from pplfast.files import write_text

    voc = is_voc_layout(args.data)
    if voc and not args.list:
        args.list = "train"
    name = Path(args.data).resolve().name
    path = Path(args.out if args.out is not None else f"{name}.toml")
    dataset = open_dataset(config_from_arguments(args))
    found = suggestion_for(dataset)
    title = f"{dataset.name}: {len(dataset)} images, {dataset.labelled_by}"
    comments = (one_line(title), f"The preset {BASE}, and for this data set:", *found.reasons)
    text = recipe_to_toml(load_recipe(BASE, found.settings), comments)
    if path.exists() and path.read_bytes() != text.encode():
        raise UserError(f"{path}: is there already, and differs; give --out another file, or remove it")
    write_text(path, text)
    print(one_line(title))
    counts = [] if dataset.labels is None else dataset.labels.sum(axis=0, dtype=int).tolist()
    print(one_line(f"classes: {', '.join(f'{c} ({n})' for c, n in zip(dataset.classes.names, counts, strict=False))}"))
    for remark in class_remarks(dataset):
        print(one_line(f"warning: {remark}"))
    print("\n".join((f"recipe: {path}, from {BASE}", *(f"  {reason}" for reason in found.reasons))))
    print(f"check it:  {_command(args, 'data check', {'--sheet': f'{name}.html'})}")
    own = {"--recipe": str(path), "--out": f"runs/{name}"}
    print(f"then run:  {_command(args, 'run', own, '--train-list' if args.list else '')}")
    return 0


def _command(args: argparse.Namespace, words: str, more: dict[str, str], list_option: str = "--list") -> str:
    """Another command with the same data set and `more` options, as a shell takes it."""
    given = {
        "--data": args.data,
        list_option: args.list,
        "--labels": args.labels if args.labels != "auto" else "",
        "--classes": args.classes,
        "--masks": args.masks,
        "--range": args.range if args.range != AUTO else "",
    }
    options = [_option(option, value) for option, value in given.items() if option and value]
    flags = ["--skip-difficult"] if args.skip_difficult else []
    return " ".join(("pplfast", words, *options, *flags, *(_option(*pair) for pair in more.items())))


def _option(option: str, value: str) -> str:
    """With a "=" where the value alone would be taken for an option."""
    return f"{option}{'=' if value.startswith('-') else ' '}{shlex.quote(value)}"
