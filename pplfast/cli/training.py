"""What the commands that train a boundary or a segmentation network share with `pplfast train`."""

import argparse
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from pplfast.cli.train import (
    add_deepspeed_argument,
    add_recipe_arguments,
    add_training_arguments,
    check_training_arguments,
    deepspeed_from_arguments,
    options_from_arguments,
    recipe_from_arguments,
    report,
)
from pplfast.data.options import dataset_from_arguments
from pplfast.errors import UserError
from pplfast.recipe import Recipe

if TYPE_CHECKING:
    from pplfast.data.dataset import Dataset
    from pplfast.train import TrainOptions, TrainResult


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_arguments(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out at its last checkpoint")
    add_deepspeed_argument(parser)
    add_training_arguments(parser)


def run_training(
    args: argparse.Namespace, table: str, train: "Callable[[Recipe, Dataset, TrainOptions], TrainResult]"
) -> int:
    """table: the recipe's table for this network; UserError where it asks for none."""
    check_training_arguments(args)
    recipe = recipe_from_arguments(args)
    if not getattr(recipe, table).trained:
        raise UserError(
            f"{args.recipe}: has no [{table}] table with epochs or steps; add one, or --set {table}.steps=200"
        )
    dataset = dataset_from_arguments(args, args.out)
    recipe, extra = deepspeed_from_arguments(args, recipe, table)

    options = dataclasses.replace(options_from_arguments(args), deepspeed=extra)
    return report(lambda: train(recipe, dataset, options))
