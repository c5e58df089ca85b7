"""`pplfast export`: labels in the formats of other tools."""

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING

from pplfast.cli.machine import add_jobs_argument, check_machine_arguments, jobs_from_arguments
from pplfast.cli.parser import CommandParser
from pplfast.cli.run import ended_by_sigterm
from pplfast.data.options import BRIEF, add_data_arguments, config_from_arguments
from pplfast.errors import UserError
from pplfast.export.formats import FORMATS

if TYPE_CHECKING:
    from pplfast.data.dataset import DataConfig
    from pplfast.export.source import Source

# What reads each format; a test compares it with the list.
READERS = {
    "grey": "8-bit grey PNG, for OpenCV",
    "colour": "RGB PNG",
    "mmseg": "MMSegmentation",
    "yolo": "Ultralytics YOLO",
    "cvat": "CVAT and VOC",
    "coco": "COCO JSON with RLE masks",
    "coco-polygons": "with outlines",
    "label-studio": "Label Studio with RLE masks",
    "label-studio-polygons": "with outlines",
    "hugging-face": "Parquet for datasets",
    "fiftyone": "FiftyOne",
}


def configure(parser: CommandParser) -> None:
    parser.description = (
        "Hand labels on to other tools. Writes a new folder, checks every label against its image and its classes, "
        "leaves bad ones out by name (exit code 3), and says how the tool reads the folder."
    )
    parser.add_argument(
        "source", metavar="LABELS", help="a run, whose final labels are taken, or a folder of label PNGs, <id>.png"
    )
    output = parser.group("output")
    output.add_argument(
        "--format",
        required=True,
        choices=FORMATS,
        metavar="NAME",
        help="; ".join(f"{name}: {reader}" for name, reader in READERS.items()),
    )
    add_data_arguments(parser, shown=(), classes="those that the labels were made with")
    data = parser.option("--data")
    data.required, data.help = False, f"{BRIEF['--data']} (default: that of the run in which LABELS lies)"
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder for the export")
    output.add_argument(
        "--link-images",
        action="store_true",
        help="link the images where the format has any; without it they are copied",
    )
    add_jobs_argument(parser, "that convert")


def run(args: argparse.Namespace) -> int:
    from pplfast.data.folder import check_out_of_data
    from pplfast.export.formats import find_format
    from pplfast.export.run import export_labels
    from pplfast.export.source import find_source, open_labelled
    from pplfast.whole_folder import check_free

    check_machine_arguments(args)
    find_format(args.format)
    check_free(args.out)
    source = find_source(args.source)
    config = _config(args, source)
    check_out_of_data(args.out, config)
    if source.folder != args.source:
        print(f"labels: {source.folder}", file=sys.stderr)
    dataset = open_labelled(source, config)
    jobs = jobs_from_arguments(args)
    with ended_by_sigterm():
        done = export_labels(source.folder, args.format, args.out, dataset, args.link_images, jobs)
    print(done.summary())
    return done.exit_code


def _config(args: argparse.Namespace, source: "Source") -> "DataConfig":
    """The data set of the arguments, else the one that the run of the labels has recorded."""
    from pplfast.data.dataset import DataConfig

    given = config_from_arguments(args)
    if args.data:
        return given
    if source.data is None:
        raise UserError(
            f"{args.source}: lies in no run that says which images it labels; give --data, and --list if it is of one"
        )
    if dataclasses.replace(given, root="") != DataConfig(root=""):
        raise UserError(f"{args.source}: its run says of which data set it is; give --data with the other options, too")
    return source.data
