"""The threshold that is chosen without masks against the best that the masks find, for folders of CAMs.

python -m pplfast.benchmarks.thresholds --data ROOT --list NAME CAMS [CAMS ...]
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pplfast.benchmarks.results import write_figures
from pplfast.cli.parser import CommandParser
from pplfast.data.dataset import Dataset
from pplfast.data.options import add_data_arguments, dataset_from_arguments
from pplfast.evaluate import choose_threshold, evaluate_cams
from pplfast.recipe.crf_presets import DEFAULT_THRESHOLD


def compare(cams: str, dataset: Dataset) -> dict[str, float]:
    """mIoU in percent at the chosen threshold, at the best one and at the constant of `label --model`."""
    chosen, scores = choose_threshold(cams, dataset), evaluate_cams(cams, dataset)
    thresholds, mious = zip(*scores.sweep, strict=True)
    at = {
        name: float(np.interp(value, thresholds, mious))
        for name, value in (("chosen", chosen.threshold), ("constant", DEFAULT_THRESHOLD))
    }
    return {
        "threshold": chosen.threshold,
        "best_threshold": scores.threshold,
        "miou": at["chosen"],
        "best_miou": scores.miou,
        "lost": scores.miou - at["chosen"],
        "lost_by_constant": scores.miou - at["constant"],
    }


def main(words: Sequence[str] | None = None) -> int:
    parser = CommandParser(prog="python -m pplfast.benchmarks.thresholds", description=__doc__.partition("\n")[0])
    add_data_arguments(parser, shown=("--masks",), labels="none")
    parser.add_argument("cams", nargs="+", metavar="CAMS", help="folders of `pplfast cam` or `pplfast refine walk`")
    parser.add_argument("--out", metavar="FILE.json", help="write the figures there too (default: only printed)")
    args = parser.parse_args(words)
    dataset = dataset_from_arguments(args)
    rows = []
    print(f"{'CAMs':<32} chosen   mIoU     best   mIoU   lost   lost by {DEFAULT_THRESHOLD:g}")
    for cams in args.cams:
        row = compare(cams, dataset)
        name = "/".join(Path(cams).absolute().parts[-2:])
        rows.append({"cams": name, **row})
        print(
            f"{name:<32} {row['threshold']:>6.2f} {row['miou']:>6.2f} {row['best_threshold']:>8.2f} "
            f"{row['best_miou']:>6.2f} {row['lost']:>6.2f} {row['lost_by_constant']:>14.2f}"
        )
    if args.out:
        write_figures(args.out, data=dataset.name, images=len(dataset), rows=rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
