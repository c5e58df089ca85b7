"""`pplfast eval`: mIoU of CAMs (threshold sweep) or of label PNGs."""

import argparse

from pplfast.data.options import add_data_arguments, dataset_from_arguments
from pplfast.evaluate import Scores, evaluate_cams, evaluate_labels
from pplfast.files import write_json
from pplfast.labels.pool import default_jobs


def configure(parser: argparse.ArgumentParser) -> None:
    add_data_arguments(parser)  # its --labels names the image labels, hence --pngs here
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--cams", metavar="DIR", help="folder of `pplfast cam`; thresholds 0.05 to 0.60 are tried")
    source.add_argument("--pngs", metavar="DIR", help="folder of label PNGs, <id>.png with the values of the masks")
    parser.add_argument("--out", metavar="FILE", help="write the scores as JSON")
    parser.add_argument(
        "--jobs",
        type=int,
        default=default_jobs(),
        metavar="N",
        help="processes (default: one per core, here %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    dataset = dataset_from_arguments(args)
    if args.cams:
        scores: Scores = evaluate_cams(args.cams, dataset, jobs=args.jobs)
    else:
        scores = evaluate_labels(args.pngs, dataset, jobs=args.jobs)
    print(scores.table())
    if args.out:
        write_json(args.out, scores.to_dict())
    return 0
