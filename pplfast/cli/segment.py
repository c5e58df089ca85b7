"""`pplfast segment`: train a segmentation network on label PNGs, and label images with it."""

import argparse
from typing import TYPE_CHECKING

from pplfast.cli.machine import job_options, say_outcome
from pplfast.cli.model import OF_NETWORK, dataset_of_model, find_model
from pplfast.cli.segmenting import add_segmenting_arguments, load_segmenting, segmenting_changes
from pplfast.cli.training import add_network_arguments, run_training
from pplfast.data.options import add_data_arguments
from pplfast.networks import SEGMENTATION
from pplfast.recipe import Recipe

if TYPE_CHECKING:
    from pplfast.data.dataset import Dataset
    from pplfast.train import TrainOptions, TrainResult


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "By single steps what `pplfast run` does for a recipe with a [segmentation] table."
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    train = actions.add_parser(
        "train",
        help="train the network, alone or under the deepspeed launcher",
        description="Train the recipe's [segmentation] on label PNGs; 255 is ignored.",
    )
    add_data_arguments(train, shown=())
    train.add_argument("--pngs", required=True, metavar="DIR", help="folder of label PNGs to train on, <id>.png")
    add_network_arguments(train)
    test = actions.add_parser(
        "test",
        help="label images: scales, flips, CRF",
        description="Label images with a trained network. Writes <id>.png; `pplfast eval --pngs` scores them. With "
        "--labels a pixel gets only classes that its image is said to have.",
    )
    add_data_arguments(test, shown=(), classes=OF_NETWORK, labels="none")
    test.add_argument("--out", required=True, metavar="DIR", help="folder for <id>.png; those there are kept")
    add_segmenting_arguments(test, "of the CRF")


def run(args: argparse.Namespace) -> int:
    return _train(args) if args.action == "train" else _test(args)


def _train(args: argparse.Namespace) -> int:
    def train(recipe: Recipe, dataset: "Dataset", options: "TrainOptions") -> "TrainResult":
        from pplfast.train.segmentation import train_segmentation

        return train_segmentation(recipe.segmentation, dataset, args.pngs, args.out, recipe.seed, args.resume, options)

    return run_training(args, "segmentation", train)


def _test(args: argparse.Namespace) -> int:
    changes = segmenting_changes(args)
    folder = find_model(args.model, SEGMENTATION)
    dataset = dataset_of_model(args, folder, SEGMENTATION)

    from pplfast.labels.segment import segment_images

    model, classes, config = load_segmenting(folder, changes)
    options, told = job_options(args, dataset), args.labels != "none"
    outcome = segment_images(model, classes, dataset, config, args.out, options, told)
    return say_outcome(outcome, "labels", args.out)
