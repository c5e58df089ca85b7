"""`pplfast eval`: mIoU of CAMs (threshold sweep) or of label PNGs."""

import argparse

from pplfast.cli.machine import add_jobs_argument, check_machine_arguments, jobs_from_arguments
from pplfast.cli.parser import CommandParser
from pplfast.data.options import add_data_arguments, dataset_from_arguments


def configure(parser: CommandParser) -> None:
    add_data_arguments(
        parser, shown=("--masks",), labels="none"
    )  # its --labels names the image labels, hence --pngs here
    source = parser.group("input").add_mutually_exclusive_group(required=True)
    source.add_argument("--cams", metavar="DIR", help="folder of `pplfast cam`; thresholds 0.05 to 0.60 are tried")
    source.add_argument("--pngs", metavar="DIR", help="folder of label PNGs, <id>.png with the values of the masks")
    parser.add_argument("--out", metavar="FILE.json", help="write the scores there too (default: only printed)")
    add_jobs_argument(parser, "that compare")


def run(args: argparse.Namespace) -> int:
    from pplfast.evaluate import evaluate_cams, evaluate_labels
    from pplfast.files import write_json

    check_machine_arguments(args)
    jobs = jobs_from_arguments(args)
    dataset = dataset_from_arguments(args)
    scores = (
        evaluate_cams(args.cams, dataset, jobs=jobs) if args.cams else evaluate_labels(args.pngs, dataset, jobs=jobs)
    )
    print(scores.table())
    if args.out:
        write_json(args.out, scores.to_dict())
    return 0
