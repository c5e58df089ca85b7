"""`pplfast run`: the whole chain."""

import argparse
import dataclasses
import os
import shlex
import sys
from pathlib import Path

from pplfast.cli.train import (
    add_recipe_arguments,
    add_training_arguments,
    check_training_arguments,
    options_from_arguments,
    recipe_from_arguments,
)
from pplfast.data.dataset import DataConfig
from pplfast.data.options import add_data_arguments, config_from_arguments
from pplfast.errors import UserError
from pplfast.labels.background import check_background
from pplfast.labels.crf import check_crf
from pplfast.labels.pool import default_jobs
from pplfast.recipe import Recipe, recipe_from_dict, recipe_to_dict


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train, CAMs, CRF, labels, evaluation, report. Steps that are done are skipped: after an "
        "interruption the same command continues; after a change of settings it redoes what "
        "depends on them."
    )
    add_data_arguments(parser, with_list=False)
    parser.add_argument("--train-list", metavar="NAME", help="list to train on (default: train; all of a plain folder)")
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
    add_recipe_arguments(parser)
    parser.add_argument("--seeds", metavar="N,N", help="run each of them, into RUN/seed<N>, and print their mean")
    parser.add_argument("--variants", metavar="V,V", help="of plain, ppl, explicit (default: those of the recipe)")
    parser.add_argument("--out", required=True, metavar="RUN", help="folder of the run")
    parser.add_argument(
        "--jobs",
        type=int,
        default=default_jobs(),
        metavar="N",
        help="processes of the CRF (default: one per core, here %(default)s)",
    )
    add_training_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "`pplfast run` works in one process; under a launcher use `pplfast train`, then `pplfast cam`, "
            "`label` and `eval`"
        )
    check_training_arguments(args)
    recipe = _recipe(args)
    seeds = _seeds(args) if args.seeds is not None else None

    from pplfast.run import RunConfig, closing, run, run_seeds, seeds_closing, with_default_lists
    from pplfast.train.ranks import stop_ranks

    train, val = with_default_lists(config_from_arguments(args), args.train_list, args.val_list)
    config = RunConfig(
        train,
        val,
        recipe,
        recipe.variants,
        Path(args.out),
        args.jobs,
        options_from_arguments(args),
        command=shlex.join(["pplfast", *sys.argv[1:]]),
        test=_test_data(val, args.test_list),
    )
    try:
        if seeds is None:
            print(closing(run(config), config.out))
        else:
            print(seeds_closing(run_seeds(config, seeds), config.out))
    finally:
        stop_ranks()
    return 0


def _test_data(val: DataConfig, name: str | None) -> DataConfig | None:
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
    check_crf(recipe.label.crf)
    if recipe.label.background != "threshold" or recipe.label.value:  # threshold 0: the best of the sweep
        check_background(recipe.label.background, recipe.label.value)
    return recipe


def _seeds(args: argparse.Namespace) -> list[int]:
    if args.seed is not None:
        raise UserError(f"--seed {args.seed} and --seeds {args.seeds}: give one of them")
    try:
        seeds = [int(word) for word in args.seeds.split(",")]
    except ValueError:
        raise UserError(f"--seeds {args.seeds}: must be whole numbers, like 0,1,2") from None
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {args.seeds}: the same seed twice")
    return seeds
