"""The command-line options that describe a data set, the same for every command."""

import argparse

from pplfast.data.dataset import DataConfig, Dataset, open_dataset


def add_data_arguments(parser: argparse.ArgumentParser, with_list: bool = True) -> None:
    """with_list: False for a command that names its lists itself."""
    parser.set_defaults(list="")
    group = parser.add_argument_group("data set")
    group.add_argument(
        "--data",
        required=True,
        metavar="ROOT",
        help="a folder in VOC layout (JPEGImages, ImageSets, ...), or a plain folder of JPEG images",
    )
    if with_list:
        group.add_argument(
            "--list",
            default="",
            metavar="NAME",
            help="a list of ImageSets/Segmentation or ImageSets/Main by name, or a list file; "
            "a plain folder needs none",
        )
    group.add_argument(
        "--labels",
        default="auto",
        metavar="FILE",
        help="image labels: xml (Annotations/*.xml), a cls_labels.npy, a CSV of image,label;label, or "
        "none; auto (default) takes Annotations, else a cls_labels.npy beside",
    )
    group.add_argument(
        "--classes",
        default="",
        metavar="NAMES",
        help="cat,dog or bus=6,car=7 (value in masks), or a file with one per line; "
        "default: ROOT/classes.txt where it exists, else the 20 classes of VOC",
    )
    group.add_argument(
        "--masks",
        default="",
        metavar="DIR",
        help="folder of true masks, <id>.png; default: those the list names, else ROOT/SegmentationClass",
    )
    group.add_argument(
        "--skip-difficult", action="store_true", help="leave out objects that the XML marks as difficult"
    )


def config_from_arguments(args: argparse.Namespace) -> DataConfig:
    return DataConfig(
        root=args.data,
        list=args.list,
        labels=args.labels,
        classes=args.classes,
        masks=args.masks,
        difficult=not args.skip_difficult,
    )


def dataset_from_arguments(args: argparse.Namespace) -> Dataset:
    """The data set of `add_data_arguments`; UserError where it cannot be opened."""
    return open_dataset(config_from_arguments(args))
