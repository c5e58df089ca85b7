"""`pplfast submit`: the archive for the PASCAL VOC evaluation server."""

import argparse

from pplfast.cli.parser import CommandParser
from pplfast.data.options import add_data_arguments, dataset_from_arguments


def configure(parser: CommandParser) -> None:
    parser.description = (
        "Write results/VOC2012/Segmentation/comp6_test_cls/*.png into a tar.gz, after checking "
        "names, count, sizes and values; the archive is read back and checked as well."
    )
    add_data_arguments(parser, shown=(), labels="none")
    parser.set_defaults(list="test")
    parser.option("--list").help = "list by name or file (default: test)"
    parser.add_argument(
        "--pngs", required=True, metavar="DIR", help="folder of label PNGs of the list, <id>.png with VOC's values"
    )
    parser.add_argument("--out", required=True, metavar="FILE.tar.gz", help="the archive to write")


def run(args: argparse.Namespace) -> int:
    from pplfast.evaluate.submission import FOLDER, write_submission

    dataset = dataset_from_arguments(args)
    count = write_submission(args.pngs, dataset, args.out)
    print(f"{args.out}: {count} images of {dataset.name} in {FOLDER}, checked")
    return 0
