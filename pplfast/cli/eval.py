"""`pplfast eval`: mIoU of CAMs (threshold sweep) or of label PNGs."""

import argparse
from typing import TYPE_CHECKING

from pplfast.cli.machine import add_jobs_argument, check_machine_arguments, jobs_from_arguments
from pplfast.cli.parser import CommandParser
from pplfast.data.options import add_data_arguments, dataset_from_arguments

if TYPE_CHECKING:
    from pplfast.data.dataset import Dataset
    from pplfast.evaluate import Scores


def configure(parser: CommandParser) -> None:
    add_data_arguments(
        parser, shown=("--masks",), labels="none"
    )  # its --labels names the image labels, hence --pngs here
    source = parser.group("input").add_mutually_exclusive_group(required=True)
    source.add_argument("--cams", metavar="DIR", help="folder of `pplfast cam`; thresholds 0.05 to 0.60 are tried")
    source.add_argument("--pngs", metavar="DIR", help="folder of label PNGs, <id>.png with the values of the masks")
    parser.add_argument(
        "--by-size",
        action="store_true",
        help="also for each third of the images by the size of their objects, CAMs at the threshold of the whole list",
    )
    parser.add_argument("--out", metavar="FILE.json", help="write the scores there too (default: only printed)")
    add_jobs_argument(parser, "that compare")


def run(args: argparse.Namespace) -> int:
    from pplfast.evaluate import CamScores
    from pplfast.evaluate.sizes import parts_by_size
    from pplfast.files import write_json

    check_machine_arguments(args)
    dataset = dataset_from_arguments(args)
    scores = _score(args, dataset)
    print(scores.table())
    result = scores.to_dict()
    if args.by_size:
        threshold = scores.threshold if isinstance(scores, CamScores) else None
        result["sizes"] = []
        for part in parts_by_size(dataset):
            of_part = _score(args, part.dataset, threshold)
            print(f"{part}: mIoU {of_part.miou:.1f} of {of_part.images} images")
            result["sizes"].append({"size": part.name, "least": part.least, "most": part.most, **of_part.to_dict()})
    if args.out:
        write_json(args.out, result)
    return 0


def _score(args: argparse.Namespace, dataset: "Dataset", threshold: float | None = None) -> "Scores":
    """threshold: of CAMs, where it is not to be found."""
    from pplfast.evaluate import evaluate_cams, evaluate_labels
    from pplfast.evaluate.cams import THRESHOLDS

    jobs = jobs_from_arguments(args)
    if args.cams:
        return evaluate_cams(args.cams, dataset, THRESHOLDS if threshold is None else (threshold,), jobs)
    return evaluate_labels(args.pngs, dataset, jobs)
