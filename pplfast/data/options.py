"""The command-line options that describe a data set, the same for every command. No numpy before they are used."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pplfast.data.image_info import AUTO
from pplfast.errors import one_line

if TYPE_CHECKING:
    from pplfast.data.dataset import DataConfig, Dataset

IN_FULL = "pplfast data check --help"  # the one place that explains them at length
OWN_CLASSES = "ROOT/classes.txt, else those that the labels name, else the 20 of VOC"
RARE = ("--masks", "--skip-difficult", "--range", "--index")


def add_data_arguments(
    parser: argparse.ArgumentParser,
    with_list: bool = True,
    shown: Sequence[str] = ("--skip-difficult", "--range"),
    classes: str = OWN_CLASSES,
    labels: str = "auto",
    full: bool = False,
) -> None:
    """with_list: False for a command that names its lists itself. labels: their default. classes: theirs, in words.

    shown: those of RARE that the command makes use of. The others are taken too, so that one set of options describes
    a data set to all commands, but left out of the help.
    full: explain everything, for IN_FULL; else one line for each.
    """
    parser.set_defaults(list="")
    helps = _FULL if full else BRIEF
    group = parser.add_argument_group(
        "data set", None if full else f"Explained by `{IN_FULL}`; its options are all taken here."
    )
    group.add_argument("--data", required=True, metavar="ROOT", help=helps["--data"])
    if with_list:
        group.add_argument("--list", default="", metavar="NAME", help=helps["--list"])
    group.add_argument(
        "--labels", default=labels, metavar="FILE", help=helps["--labels"].format(default=_WORDS[labels])
    )
    group.add_argument("--classes", default="", metavar="NAMES", help=helps["--classes"].format(default=classes))
    rare = {option: helps[option] if option in shown else argparse.SUPPRESS for option in RARE}
    group.add_argument("--masks", default="", metavar="DIR", help=rare["--masks"])
    group.add_argument("--skip-difficult", action="store_true", help=rare["--skip-difficult"])
    group.add_argument("--range", default=AUTO, metavar="LOW,HIGH", help=rare["--range"])
    group.add_argument("--index", default="", metavar="FILE", help=rare["--index"])


_WORDS = {"auto": "auto, which takes those that it finds in ROOT", "none": "none"}
BRIEF = {
    "--data": "folder in VOC layout, a plain folder of images, or shards, also at a URL",
    "--list": "list by name or file (default: all of a plain folder)",
    "--labels": "image labels: xml, folders, yolo, FILE.csv, FILE.json (COCO), FILE.npy or none (default: {default})",
    "--classes": "like cat,dog (default: {default})",
    "--masks": "true masks, <id>.png (default: those in ROOT, if any)",
    "--skip-difficult": "leave out objects that the XML marks as difficult",
    "--range": "black and white of images of more than 8 bits (default: measured, or the network's)",
    "--index": "index of shards (default: beside them)",
}
_FULL = {
    "--data": "a folder in VOC layout (JPEGImages, ImageSets, ...), or a plain folder of images, as with a folder for "
    "each class, or of COCO or YOLO; or tar shards (WebDataset) or Parquet files (Hugging Face): a folder of them, a "
    "pattern like 's3://bucket/train-{000..999}.tar', or a .txt with one a line; paths, or URLs of s3://, gs:// or hf://",
    "--list": "a list of ImageSets/Segmentation or ImageSets/Main by name, or a list file (default: in a plain folder "
    "the images of the CSV or of the COCO file, or without one all; a VOC layout needs it); of shards those whose "
    "names begin with it, as train-00000.tar does with train. `pplfast run` takes "
    "several lists instead: --train-list, --val-list, --test-list",
    "--labels": "image labels: xml (Annotations/*.xml), a cls_labels.npy, a CSV of image,label;label or with a column "
    "of 0 and 1 for each class, a COCO .json, yolo (labels/*.txt for images/*.jpg, or text beside the images), folders "
    "(ROOT/cat/1.jpg shows a cat, ROOT/background/2.jpg none of the classes), or none (default: {default}, in this "
    "order: Annotations, cls_labels.npy, labels.csv or the only CSV, _annotations.coco.json or "
    "annotations/instances_*.json, YOLO's, folders)",
    "--classes": "cat,dog or bus=6,car=7 (value in masks), or a file with one per line; names that are all VOC's keep "
    "VOC's values, those of a COCO file the ids of its categories, others count from 1 (default: {default}; of "
    "commands with --model those of the network)",
    "--masks": "folder of true masks, <id>.png (default: those the list names, else ROOT/SegmentationClass)",
    "--skip-difficult": "leave out objects that the XML marks as difficult (default: they count, as in the field)",
    "--range": "of images deeper than 8 bits, the values that become black and white: LOW,HIGH, full (all that their "
    "whole numbers can be) or auto (percentiles 0.1 and 99.9 of up to 200 images, set once for the list and recorded) "
    "(default: auto; of commands with --model that of the network)",
    "--index": "file or URL of the index of shards, which `pplfast data index` makes, or the first command that needs "
    "it (default: pplfast-index.arrow beside the shards)",
}


def config_from_arguments(args: argparse.Namespace) -> "DataConfig":
    from pplfast.data.dataset import DataConfig

    return DataConfig(
        root=args.data,
        list=args.list,
        labels=args.labels,
        classes=args.classes,
        masks=args.masks,
        difficult=not args.skip_difficult,
        range=args.range,
        index=args.index,
    )


def dataset_from_arguments(args: argparse.Namespace, out: str | None = None) -> "Dataset":
    """The data set of `add_data_arguments`; UserError where it cannot be opened, and for an output folder `out` that
    lies in it. Says what of a folder is left out."""
    from pplfast.data.dataset import open_dataset
    from pplfast.data.folder import check_out_of_data

    config = config_from_arguments(args)
    if out is not None:
        check_out_of_data(out, config)
    dataset = open_dataset(config)
    if dataset.left_out and os.environ.get("RANK", "0") == "0":
        some = ", ".join(problem.id for problem in dataset.left_out[:3])
        more = ", ..." if len(dataset.left_out) > 3 else ""
        text = f"note: {args.data}: {len(dataset.left_out)} files or folders in it are not used ({some}{more}); "
        print(one_line(f"{text}`pplfast data check` says why"), file=sys.stderr)
    return dataset
