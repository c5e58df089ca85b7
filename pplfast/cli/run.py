"""`pplfast run`: the whole chain."""

import argparse
import dataclasses
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pplfast.cli.machine import LARGE_IMAGES, add_jobs_argument, add_memory_argument, check_machine_arguments
from pplfast.cli.parser import CommandParser
from pplfast.cli.ranks import add_launch_arguments, launch_options
from pplfast.cli.suggestion import recorded_suggestion, suggestion_for
from pplfast.cli.train import (
    add_recipe_arguments,
    add_training_arguments,
    check_training_arguments,
    options_from_arguments,
    recipe_from_arguments,
)
from pplfast.cluster.launch import launch
from pplfast.data.folder import check_out_of_data, check_root
from pplfast.data.image_info import FULL
from pplfast.data.options import RARE, add_data_arguments, config_from_arguments
from pplfast.data.shard_places import is_sharded
from pplfast.data.voc import is_voc_layout
from pplfast.errors import Terminated, UserError, one_line
from pplfast.recipe import Recipe, recipe_from_dict, recipe_to_dict
from pplfast.recipe.ranges import RANGES
from pplfast.recipe.suggested import BASE

if TYPE_CHECKING:
    from pplfast.data.dataset import DataConfig
    from pplfast.run import RunConfig

MOST_SEEDS = 1000  # of one range


def configure(parser: CommandParser) -> None:
    parser.description = (
        "Train, CAMs, CRF, labels, evaluation, report. Steps that are done are skipped: after an "
        "interruption the same command continues; after a change of settings it redoes what "
        "depends on them."
    )
    add_lists_arguments(parser)
    add_recipe_arguments(parser)
    recipe = parser.option("--recipe")
    recipe.required = False
    recipe.help = f"{recipe.help} (default: one that fits the data, as `pplfast init` writes it)"
    parser.add_argument(
        "--seeds",
        metavar="N,N",
        help="run each of them, 0,1,2 or 0-2, into RUN/seed<N>, and print their mean (default: the one seed of --seed)",
    )
    parser.add_argument("--variants", metavar="V,V", help="of plain, ppl, explicit (default: those of the recipe)")
    parser.add_argument("--out", required=True, metavar="RUN", help="folder of the run, outside --data")
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything but the images, say what would be done, write nothing"
    )
    add_jobs_argument(parser, "of the CRF")
    add_memory_argument(parser, LARGE_IMAGES)
    add_training_arguments(parser)
    add_launch_arguments(parser)


def add_lists_arguments(parser: CommandParser) -> None:
    """The data set of a whole run."""
    add_data_arguments(parser, with_list=False, shown=RARE)
    parser.add_argument(
        "--train-list",
        metavar="NAME",
        help="list to train on; a --list of the single steps (default: train; all of a plain folder)",
    )
    parser.add_argument(
        "--val-list",
        metavar="NAME",
        help="list that gets CAMs and labels, scored where it has masks (default: val; all of a plain folder)",
    )
    parser.add_argument(
        "--test-list",
        metavar="NAME",
        help="list that the segmentation network is tested on, where the recipe has one (default: the "
        "list of --val-list; the field uses val)",
    )


def run(args: argparse.Namespace) -> int:
    options = launch_options(args)
    recipe, seeds = check_run(args)

    from pplfast.cluster.meeting import world_size  # torch comes along
    from pplfast.cluster.ranks import OtherRankError, stop_ranks

    launched = bool(os.environ.get("WORLD_SIZE"))
    if launched and not args.hostfile and args.ranks not in (0, world_size(os.environ)):
        raise UserError(f"--ranks {args.ranks}: the launcher has started {world_size(os.environ)}; leave --ranks away")
    if not (launched or args.dry_run) and (args.hostfile or args.restarts or _ranks(args) > 1):
        return launch(args.words, options, lambda text: print(f"pplfast run: {text}", file=sys.stderr, flush=True))

    from pplfast.run import closing, run, run_seeds, seeds_closing

    config = run_config(args, recipe)
    if args.dry_run:
        from pplfast.run.dry import dry_run

        print("\n".join(dry_run(config, seeds)))
        return 0
    try:
        with ended_by_sigterm():
            result = run(config) if seeds is None else run_seeds(config, seeds)
    except OtherRankError:
        return UserError.exit_code  # another rank prints the message
    finally:
        stop_ranks()
    if os.environ.get("RANK", "0") == "0":
        print((closing if seeds is None else seeds_closing)(result, config.out))
    return 0


def run_config(args: argparse.Namespace, recipe: Recipe) -> "RunConfig":
    """Imports torch: check the arguments first."""
    from pplfast.run import RunConfig, with_default_lists

    train, val = with_default_lists(config_from_arguments(args), args.train_list, args.val_list)
    return RunConfig(
        train,
        val,
        recipe,
        recipe.variants,
        Path(args.out),
        args.jobs,
        options_from_arguments(args),
        command=shlex.join(["pplfast", *args.words]),
        test=_test_data(val, args.test_list),
        suggested=args.suggested,
        memory=args.memory,
    )


def check_run(args: argparse.Namespace) -> tuple[Recipe, list[int] | None]:
    """Everything that is wrong with the options by themselves, found without torch; the recipe and the seeds."""
    check_training_arguments(args)
    check_machine_arguments(args)
    args.suggested = () if args.recipe is not None else _suggested(args)
    recipe = _recipe(args)
    seeds = parse_seeds(args.seeds, args.seed) if args.seeds is not None else None
    check_out_of_data(Path(args.out), config_from_arguments(args))
    return recipe, seeds


def _suggested(args: argparse.Namespace) -> tuple[str, ...]:
    """The settings for the data set, put before those of --set."""
    sharded = is_sharded(config_from_arguments(args))
    if not sharded:
        check_root(Path(args.data))
    settings, how = recorded_suggestion(args.out, args.data), "that of the run in --out"
    if not settings:
        from pplfast.data.dataset import open_dataset

        name = args.train_list if args.train_list is not None else "train" if is_voc_layout(args.data) else ""
        dataset = open_dataset(dataclasses.replace(config_from_arguments(args), list=name, range=FULL))
        found = suggestion_for(dataset)
        settings, how = (
            found.settings,
            "; ".join(("changed for the data" if found.reasons else "as it is", *found.reasons)),
        )
        if not os.environ.get("WORLD_SIZE"):
            print(one_line(f"{dataset.name}: {len(dataset)} images, {dataset.labelled_by}"), flush=True)
    args.recipe, args.overrides = BASE, [*settings, *args.overrides]
    if not os.environ.get("WORLD_SIZE"):
        print(f"recipe: {BASE}, {how} (`pplfast init` writes it to a file)", flush=True)
    return settings


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """As by Ctrl-C, where the part of the chain that is at work does not do better."""

    def end(number: int, frame: object) -> None:
        raise Terminated

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _ranks(args: argparse.Namespace) -> int:
    """How many this machine is to have: one per GPU where it is not said."""
    if args.ranks:
        return int(args.ranks)
    import torch

    return torch.cuda.device_count()


def _test_data(val: "DataConfig", name: str | None) -> "DataConfig | None":
    """Image labels are not needed for it, and often not there."""
    return None if name is None else dataclasses.replace(val, list=name, labels="none")


def _recipe(args: argparse.Namespace) -> Recipe:
    """The recipe with the options put in, and checked again."""
    recipe = recipe_from_arguments(args)
    if args.variants is not None:
        variants = tuple(dict.fromkeys(word for word in args.variants.split(",") if word))
        if not variants:
            raise UserError("--variants is empty; choose from plain,ppl,explicit")
        recipe = recipe_from_dict(recipe_to_dict(recipe) | {"variants": variants}, "--variants")
    return recipe


def parse_seeds(text: str, seed: int | None) -> list[int]:
    """ "0,1,2", "0-2" or "0-2,7" -> [0, 1, 2], ... seed: the --seed beside it, which excludes it."""
    if seed is not None:
        raise UserError(f"--seed {seed} and --seeds {text}: give one of them")
    seeds: list[int] = []
    most = RANGES[Recipe.__name__]["seed"]
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UserError(f"--seeds {text[:60]}: must be whole numbers, like 0,1,2 or 0-2")
        if max(len(first), len(last)) > 19 or not most.holds(int(last or first)) or not most.holds(int(first)):
            raise UserError(f"--seeds {text[:60]}: must be {most}")
        if dash and int(last) - int(first) >= MOST_SEEDS:
            raise UserError(f"--seeds {text}: {part.strip()} are more than {MOST_SEEDS} runs")
        if dash and int(last) < int(first):
            raise UserError(f"--seeds {text}: {part.strip()} ends before it begins; write {last}-{first}")
        seeds += range(int(first), int(last or first) + 1)
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {text}: the same seed twice")
    return seeds
