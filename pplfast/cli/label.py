"""`pplfast label`: pseudo labels (PNG) from CAMs, through the dense CRF."""

import argparse

from pplfast.data.options import add_data_arguments, dataset_from_arguments
from pplfast.errors import UserError
from pplfast.evaluate import evaluate_cams
from pplfast.labels import background, crf
from pplfast.labels.pool import default_jobs
from pplfast.labels.pseudo import generate_labels
from pplfast.recipe import LabelConfig


def configure(parser: argparse.ArgumentParser) -> None:
    defaults = LabelConfig()
    add_data_arguments(parser)
    parser.add_argument("--cams", required=True, metavar="DIR", help="folder of `pplfast cam`")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for <id>.png; those there are kept")
    parser.add_argument("--background", default=defaults.background, choices=background.KINDS,
                        help="threshold: a constant; alpha: (1 - max of the CAMs)^alpha (default: %(default)s)")
    parser.add_argument("--value", type=float, metavar="X",
                        help="the threshold (usual: 0.15 to 0.30) or alpha (usual: 4, 24, 32); without it, the "
                             "threshold with the best CAM mIoU, for a list that has masks")
    parser.add_argument("--crf", default=defaults.crf, choices=(*crf.PRESETS, crf.NONE),
                        help="preset of the dense CRF (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=default_jobs(), metavar="N",
                        help="processes (default: one per core, here %(default)s)")


def run(args: argparse.Namespace) -> int:
    dataset = dataset_from_arguments(args)
    value = args.value
    if value is None:
        if args.background == "alpha":
            raise UserError("--background alpha needs --value; usual: 4, 24, 32")
        if not any(dataset.masks):
            raise UserError(f"{dataset.name}: has no masks to find the best threshold on; give --value (usual: 0.15 "
                            "to 0.30)")
        value = evaluate_cams(args.cams, dataset, jobs=args.jobs).threshold
        print(f"threshold {value:g}: the best CAM mIoU on {dataset.name}")
    config = LabelConfig(background=args.background, value=value, crf=args.crf)
    print(generate_labels(args.cams, dataset, config, args.out, args.jobs).summary("labels", args.out))
    return 0
