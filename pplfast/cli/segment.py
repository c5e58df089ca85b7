"""`pplfast segment`: train a segmentation network on label PNGs, and label images with it."""

import argparse
import dataclasses
from typing import TYPE_CHECKING

from pplfast.cli.machine import (
    LARGE_IMAGES,
    add_job_arguments,
    add_jobs_argument,
    add_memory_argument,
    add_threads_argument,
    check_machine_arguments,
    job_options,
    say_outcome,
)
from pplfast.cli.model import OF_NETWORK, dataset_of_model, find_model
from pplfast.cli.recorded import add_scale_arguments, say_settings, scale_changes, scales_text
from pplfast.cli.training import add_network_arguments, run_training
from pplfast.data.options import add_data_arguments
from pplfast.networks import SEGMENTATION
from pplfast.recipe import Recipe, SegmentationConfig
from pplfast.recipe.crf_presets import NONE, PRESETS, check_crf

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
    test.add_argument("--model", required=True, metavar="PATH", help=SEGMENTATION.help)
    test.add_argument("--out", required=True, metavar="DIR", help="folder for <id>.png; those there are kept")
    add_scale_arguments(test, "segmentation")
    test.add_argument(
        "--crf",
        metavar="CRF",
        help=f"preset of the dense CRF: {', '.join(PRESETS)}, {NONE} "
        "(default: segmentation.crf of the network's recipe)",
    )
    add_jobs_argument(test, "of the CRF")
    add_memory_argument(test, LARGE_IMAGES)
    add_threads_argument(test)
    add_job_arguments(test)


def run(args: argparse.Namespace) -> int:
    return _train(args) if args.action == "train" else _test(args)


def _train(args: argparse.Namespace) -> int:
    def train(recipe: Recipe, dataset: "Dataset", options: "TrainOptions") -> "TrainResult":
        from pplfast.train.segmentation import train_segmentation

        return train_segmentation(recipe.segmentation, dataset, args.pngs, args.out, recipe.seed, args.resume, options)

    return run_training(args, "segmentation", train)


def _test(args: argparse.Namespace) -> int:
    changes = scale_changes(args)
    if args.crf is not None:
        check_crf(args.crf)
        changes["crf"] = args.crf
    check_machine_arguments(args)
    folder = find_model(args.model, SEGMENTATION)
    dataset = dataset_of_model(args, folder, SEGMENTATION)

    from pplfast.labels.segment import segment_images
    from pplfast.train.network_file import read_settings
    from pplfast.train.segmentation import NAME, load_segmentation

    config = dataclasses.replace(read_settings(folder, NAME, SegmentationConfig), **changes)
    say_settings(f"{scales_text(config.scales, config.flip)}, CRF {config.crf}", bool(changes))
    model, classes = load_segmentation(folder)
    options, told = job_options(args, dataset), args.labels != "none"
    outcome = segment_images(model, classes, dataset, config, args.out, options, told)
    return say_outcome(outcome, "labels", args.out)
