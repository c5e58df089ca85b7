"""`pplfast refine`: a boundary network on confident labels, and the random walk of CAMs within its boundaries."""

import argparse
import dataclasses
from typing import TYPE_CHECKING

from pplfast.cli.machine import (
    LARGE_IMAGES,
    add_job_arguments,
    add_memory_argument,
    add_threads_argument,
    check_machine_arguments,
    job_options,
    say_outcome,
)
from pplfast.cli.model import OF_NETWORK, dataset_of_model, find_model, take_classes, take_range
from pplfast.cli.recorded import say_settings
from pplfast.cli.training import add_network_arguments, run_training
from pplfast.data.options import add_data_arguments
from pplfast.errors import UserError
from pplfast.networks import BOUNDARY, CLASSIFIER
from pplfast.recipe import AffinityConfig, Recipe, WalkConfig
from pplfast.recipe.ranges import RANGES

if TYPE_CHECKING:
    from pplfast.data.dataset import Dataset
    from pplfast.train import TrainOptions, TrainResult


RECIPE = "the network's recipe, affinity.walk"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "By single steps what `pplfast run` does for a recipe with an [affinity] table."
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    boundary = actions.add_parser(
        "train",
        help="train the boundary network, alone or under the deepspeed launcher",
        description="Train the recipe's [affinity] on the backbone of a trained classifier.",
    )
    add_data_arguments(boundary, shown=(), classes=OF_NETWORK)
    boundary.add_argument("--model", required=True, metavar="PATH", help=CLASSIFIER.help)
    boundary.add_argument(
        "--pngs",
        required=True,
        metavar="DIR",
        help="folder of confident label PNGs: `pplfast label --model PATH --unsure 0.05,0.30 --crf labels`",
    )
    add_network_arguments(boundary)
    walk = actions.add_parser(
        "walk",
        help="refine CAM files",
        description="Random walk of CAMs within the boundaries. Writes CAM files like those of `pplfast cam`; "
        "`pplfast eval --cams` scores them and `pplfast label --cams` makes labels of them.",
    )
    add_data_arguments(walk, shown=(), classes=OF_NETWORK, labels="none")
    walk.add_argument("--model", required=True, metavar="PATH", help=BOUNDARY.help)
    walk.add_argument("--cams", required=True, metavar="DIR", help="folder of `pplfast cam`")
    walk.add_argument("--out", required=True, metavar="DIR", help="folder for <id>.npz; those there are kept")
    walk.add_argument(
        "--radius",
        type=int,
        metavar="N",
        help=f"of a step, in pixels at stride 4 (default: {RECIPE}.radius)",
    )
    walk.add_argument("--beta", type=float, metavar="X", help=f"exponent of the affinities (default: {RECIPE}.beta)")
    walk.add_argument("--steps", type=int, metavar="N", help=f"of the walk (default: {RECIPE}.steps)")
    add_memory_argument(walk, LARGE_IMAGES)
    add_threads_argument(walk)
    add_job_arguments(walk)


def run(args: argparse.Namespace) -> int:
    return _train(args) if args.action == "train" else _walk(args)


def _train(args: argparse.Namespace) -> int:
    folder = find_model(args.model, CLASSIFIER)
    take_classes(args, folder, CLASSIFIER)
    take_range(args, folder / f"{CLASSIFIER.name}.json")

    def train(recipe: Recipe, dataset: "Dataset", options: "TrainOptions") -> "TrainResult":
        from pplfast.train import load_classifier
        from pplfast.train.affinity import train_boundaries

        return train_boundaries(
            recipe.affinity, load_classifier(folder), dataset, args.pngs, args.out, recipe.seed, args.resume, options
        )

    return run_training(args, "affinity", train)


def _walk(args: argparse.Namespace) -> int:
    changes = {name: value for name in ("radius", "beta", "steps") if (value := getattr(args, name)) is not None}
    for name, value in changes.items():
        if not (allowed := RANGES[WalkConfig.__name__][name]).holds(value):
            raise UserError(f"--{name} {value:g}: must be {allowed}")
    check_machine_arguments(args)
    folder = find_model(args.model, BOUNDARY)
    dataset = dataset_of_model(args, folder, BOUNDARY)

    from pplfast.labels.walk import walk_cams
    from pplfast.train.affinity import NAME, load_boundaries
    from pplfast.train.network_file import read_settings

    config = dataclasses.replace(read_settings(folder, NAME, AffinityConfig).walk, **changes)
    say_settings(f"random walk of {config.steps} steps, radius {config.radius}, beta {config.beta:g}", bool(changes))
    outcome = walk_cams(load_boundaries(folder), args.cams, dataset, config, args.out, job_options(args, dataset))
    return say_outcome(outcome, "CAMs", args.out)
