"""`pplfast predict`: label new images, of which nothing is known, with a trained segmentation network."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pplfast.cli.machine import job_options, say_outcome
from pplfast.cli.model import find_model, model_classes, take_range
from pplfast.cli.segmenting import add_segmenting_arguments, load_segmenting, segmenting_changes
from pplfast.data.image_info import AUTO
from pplfast.networks import SEGMENTATION

if TYPE_CHECKING:
    from pplfast.data.classes import ClassList
    from pplfast.data.dataset import Dataset


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Label images of which nothing but the pixels is known with the segmentation network of a run. Writes "
        "DIR/<id>.png, label PNGs of the network's classes, and DIR/classes.txt with their values. <id> is the name of "
        "a file without its suffix, below a folder with the folders in it. What is there already is kept, so the same "
        "command goes on after an end; an image that cannot be read is named, and the rest is labelled (exit code 3). "
        "Labels are for the pixels as stored: an orientation in EXIF does not turn them."
    )
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="files, folders, patterns in quotes like 'photos/**/*.png', .txt lists of files; or alone a data set in "
        "shards: a folder or pattern of .tar or .parquet files, also at a URL",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the labels; of shards also a URL")
    parser.add_argument(
        "--overlay",
        action="store_true",
        help="also draw the labels over each image, <id>.overlay.jpg, and a page of all drawings, overlays.html",
    )
    add_segmenting_arguments(parser, "of the CRF and the drawings")
    parser.set_defaults(range=AUTO)  # until `take_range` knows that of the network


def check_sources(args: argparse.Namespace) -> None:
    """For whoever starts ranks on this machine. UserError for a network or images that are not there, and for shards
    without an index, which every rank would lack."""
    from pplfast.data.shard_places import check_index
    from pplfast.prediction.sources import sharded

    _, classes = _network(args)
    config = sharded(args.images, classes, args.range)
    if config is not None:
        check_index(config)
    else:
        _open(args, classes)


def run(args: argparse.Namespace) -> int:
    changes = segmenting_changes(args)
    folder, classes = _network(args)
    dataset = _open(args, classes)

    from pplfast.jobs.options import EXIT_BAD
    from pplfast.prediction.folder import predict_images
    from pplfast.prediction.page import NAME as PAGE

    model, classes, config = load_segmenting(folder, changes)
    options = job_options(args, dataset)
    outcome = predict_images(model, classes, dataset, config, args.out, options, args.overlay)
    code = say_outcome(outcome, "labels", args.out)
    if args.overlay and os.environ.get("RANK", "0") == "0" and code in (0, EXIT_BAD):
        print(f"drawings: {Path(args.out) / PAGE}")
    return code


def _network(args: argparse.Namespace) -> "tuple[Path, ClassList]":
    """Its folder and classes; lets the range of deep images be that of its training."""
    from pplfast.prediction.network import find_segmentation

    find_segmentation(args.model)  # which says more of a run without one
    folder = find_model(args.model, SEGMENTATION)
    classes = model_classes(folder, SEGMENTATION)
    assert classes is not None, "only boundary networks may not say them"
    take_range(args, folder / f"{SEGMENTATION.name}.json")
    return folder, classes


def _open(args: argparse.Namespace, classes: "ClassList") -> "Dataset":
    from pplfast.prediction.sources import open_images

    return open_images(args.images, classes, args.range, args.out)
