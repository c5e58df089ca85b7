"""`pplfast segment`: train a segmentation network on label PNGs, and label images with it."""

import argparse
import dataclasses
from typing import TYPE_CHECKING

from pplfast.cli.recorded import say_settings, scale_changes, scales_text
from pplfast.cli.training import add_network_arguments, run_training
from pplfast.data.dataset import Dataset
from pplfast.data.options import add_data_arguments, dataset_from_arguments
from pplfast.labels.crf import NONE, PRESETS, check_crf
from pplfast.labels.pool import default_jobs
from pplfast.recipe import Recipe, SegmentationConfig

if TYPE_CHECKING:
    from pplfast.train import TrainOptions, TrainResult


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "By single steps what `pplfast run` does for a recipe with a [segmentation] table."
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    train = actions.add_parser(
        "train",
        help="train the network, alone or under the deepspeed launcher",
        description="Train the recipe's [segmentation] on label PNGs; 255 is ignored.",
    )
    add_data_arguments(train)
    train.add_argument("--pngs", required=True, metavar="DIR", help="labels to train on, <id>.png")
    add_network_arguments(train)
    test = actions.add_parser(
        "test",
        help="label images: scales, flips, CRF",
        description="Write <id>.png; `pplfast eval --pngs` scores them.",
    )
    add_data_arguments(test)
    test.set_defaults(labels="none")
    test.add_argument("--model", required=True, metavar="DIR", help="folder of a finished `pplfast segment train`")
    test.add_argument("--out", required=True, metavar="DIR", help="folder for <id>.png; those there are kept")
    test.add_argument(
        "--scales", metavar="S,S", help="image sizes relative to the original (default: those of the network's recipe)"
    )
    test.add_argument("--no-flip", action="store_true", help="leave out the mirrored images")
    test.add_argument(
        "--crf", metavar="CRF", help=f"preset of the dense CRF: {', '.join(PRESETS)}, {NONE} (default: the recipe's)"
    )
    test.add_argument(
        "--jobs",
        type=int,
        default=default_jobs(),
        metavar="N",
        help="processes of the CRF (default: one per core, here %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    return _train(args) if args.action == "train" else _test(args)


def _train(args: argparse.Namespace) -> int:
    def train(recipe: Recipe, dataset: Dataset, options: "TrainOptions") -> "TrainResult":
        from pplfast.train.segmentation import train_segmentation

        return train_segmentation(recipe.segmentation, dataset, args.pngs, args.out, recipe.seed, args.resume, options)

    return run_training(args, "segmentation", train)


def _test(args: argparse.Namespace) -> int:
    changes = scale_changes(args)
    if args.crf is not None:
        check_crf(args.crf)
        changes["crf"] = args.crf
    dataset = dataset_from_arguments(args)

    import torch

    from pplfast.labels.segment import check_classes, segment_images
    from pplfast.train.network_file import read_settings
    from pplfast.train.segmentation import NAME, load_segmentation

    config = dataclasses.replace(read_settings(args.model, NAME, SegmentationConfig), **changes)
    say_settings(f"{scales_text(config.scales, config.flip)}, CRF {config.crf}", bool(changes))
    model, classes = load_segmentation(args.model)
    check_classes(classes, dataset)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    outcome = segment_images(model, classes, dataset, config, args.out, args.jobs)
    print(outcome.summary("labels", args.out))
    return outcome.exit_code
