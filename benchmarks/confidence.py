"""How well the confidence of labels orders them by their true IoU, for folders of label PNGs.

python -m pplfast.benchmarks.confidence --data ROOT --list NAME PNGS [PNGS ...]
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pplfast.arrays import Float64Array, UInt8Array
from pplfast.benchmarks.results import write_figures
from pplfast.cli.parser import CommandParser
from pplfast.data.classes import IGNORE
from pplfast.data.dataset import Dataset
from pplfast.data.masks import read_mask
from pplfast.data.options import add_data_arguments, dataset_from_arguments
from pplfast.errors import UserError
from pplfast.jobs.manifest import read_manifest
from pplfast.labels.confidence import image_confidence

SHARE = 5  # the least sure fifth is what a person would look at first


def image_iou(labels: UInt8Array, mask: UInt8Array) -> float:
    """Mean over the classes that either shows, the background as one of them, of one image; pixels of 255 in the mask
    out. NaN where that is all of it."""
    counted = mask != IGNORE
    said, true = labels[counted], mask[counted]
    values = np.union1d(said, true)
    if not len(values):
        return math.nan
    return float(np.mean([((said == v) & (true == v)).sum() / ((said == v) | (true == v)).sum() for v in values]))


def rank_correlation(first: Float64Array, second: Float64Array) -> float:
    """Spearman's: the correlation of the ranks, equal values sharing theirs."""
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def _ranks(values: Float64Array) -> Float64Array:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Float64Array = (counts.cumsum() - (counts - 1) / 2)[place]
    return ranks


def compare(labels: Path, dataset: Dataset) -> dict[str, Any]:
    """labels: a folder of a job that says how sure it is. IoU in percent."""
    records = read_manifest(labels)
    pairs = [
        (sure, image_iou(read_mask(labels / f"{name}.png"), read_mask(mask)))
        for name, mask in zip(dataset.ids, dataset.masks, strict=True)
        if mask is not None and (sure := image_confidence(records.get(name, {}))) is not None
    ]
    pairs = [(sure, iou) for sure, iou in pairs if not math.isnan(iou)]
    if len(pairs) < 2 * SHARE:
        raise UserError(f"{labels}: {len(pairs)} of its images have a mask and a confidence; make the labels again")
    sure, iou = np.array(pairs).T
    order = sure.argsort(kind="stable")
    fifth = len(order) // SHARE
    return {
        "images": len(pairs),
        "spearman": rank_correlation(sure, iou),
        "mean_iou": 100 * float(iou.mean()),
        "least_sure_fifth": 100 * float(iou[order[:fifth]].mean()),
        "surest_fifth": 100 * float(iou[order[-fifth:]].mean()),
    }


def main(words: Sequence[str] | None = None) -> int:
    parser = CommandParser(prog="python -m pplfast.benchmarks.confidence", description=__doc__.partition("\n")[0])
    add_data_arguments(parser, shown=("--masks",), labels="none")
    parser.add_argument("pngs", nargs="+", metavar="PNGS", help="folders of label PNGs, with their manifest.jsonl")
    parser.add_argument("--out", metavar="FILE.json", help="write the figures there too (default: only printed)")
    args = parser.parse_args(words)
    dataset = dataset_from_arguments(args)
    rows = []
    print(f"{'labels':<32} images  Spearman  mean IoU  least sure fifth  surest fifth")
    for pngs in args.pngs:
        row = compare(Path(pngs), dataset)
        name = "/".join(Path(pngs).absolute().parts[-2:])
        rows.append({"labels": name, **row})
        print(
            f"{name:<32} {row['images']:>6} {row['spearman']:>9.2f} {row['mean_iou']:>9.1f} "
            f"{row['least_sure_fifth']:>17.1f} {row['surest_fifth']:>13.1f}"
        )
    if args.out:
        write_figures(args.out, data=dataset.name, rows=rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
