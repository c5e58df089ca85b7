"""`pplfast launch`: a command on all GPUs of one machine or of several hosts, started again after a failure."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pplfast.cli.ranks import add_launch_arguments, launch_options
from pplfast.cluster.launch import launch
from pplfast.errors import UserError
from pplfast.networks import BOUNDARY, CLASSIFIER, SEGMENTATION, Kind

# Those that share their work among ranks, and the kind of network that --model names to each.
COMMANDS = {
    "run": None,
    "train": None,
    "cam": CLASSIFIER,
    "label": CLASSIFIER,
    "predict": SEGMENTATION,
    "refine train": CLASSIFIER,
    "refine walk": BOUNDARY,
    "segment train": None,
    "segment test": SEGMENTATION,
}


def configure(parser: argparse.ArgumentParser) -> None:
    add_launch_arguments(parser)
    parser.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        metavar="COMMAND ...",
        help=f"one of {', '.join(COMMANDS)}, and its options",
    )


def check_command(words: Sequence[str], kind: Kind | None, here: bool) -> None:
    """Find what is wrong with the command before ranks are started, each of which would say it again: options and
    recipe, and for a launch on this machine (`here`) the network (of this kind) and the lists. Ends the process where
    the options are wrong, and raises UserError for the rest."""
    from pplfast.cli import build_parser
    from pplfast.cli.model import find_model
    from pplfast.cli.predict import check_sources
    from pplfast.cli.run import check_run
    from pplfast.cli.train import check_training_arguments, recipe_from_arguments
    from pplfast.data.folder import check_root
    from pplfast.data.options import config_from_arguments
    from pplfast.data.shard_places import check_index, is_sharded
    from pplfast.data.voc import read_list

    args = build_parser(words[0]).parse_args(words)
    if words[0] == "predict":
        if here:
            check_sources(args)
        return
    if words[0] == "run":
        check_run(args)
    elif hasattr(args, "recipe"):
        check_training_arguments(args)
        recipe_from_arguments(args)
    sharded = is_sharded(config_from_arguments(args))
    if here and not sharded:
        check_root(Path(args.data))
        if kind is not None and args.model:
            find_model(args.model, kind)
    if here and sharded:
        check_index(config_from_arguments(args))
    elif here:
        of_run = [name for name in ("train_list", "val_list") if getattr(args, name, None)]
        for name in of_run or ([] if words[0] == "run" else ["list"]):
            read_list(Path(args.data), getattr(args, name), args.labels)


def run(args: argparse.Namespace) -> int:
    command = next((name for name in COMMANDS if args.arguments[: name.count(" ") + 1] == name.split()), None)
    if command is None:
        raise UserError(f"name the command to run on all ranks, after the options of launch: {', '.join(COMMANDS)}")
    options = launch_options(args)
    check_command(args.arguments, COMMANDS[command], here=args.hostfile is None)
    return launch(args.arguments, options, lambda text: print(f"pplfast launch: {text}", file=sys.stderr, flush=True))
