"""`pplfast export-model`: a trained segmentation network as a file that runs without pplfast."""

import argparse
import sys
from typing import cast

from pplfast.cli.model import find_model
from pplfast.cli.parser import CommandParser
from pplfast.cli.run import ended_by_sigterm
from pplfast.networks import SEGMENTATION

FORMATS = ("onnx", "torch")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write the segmentation network of a run as one file that runs without pplfast, and a model card, README.md. "
        "The network takes uint8 RGB images (N, H, W, 3) of any size, normalises them itself, and gives probabilities "
        "and labels at the image's size: at one scale, without mirror images and without CRF. The file is checked "
        "against pplfast before it gets its name: one whose probabilities differ by more than 1e-4 is not kept."
    )
    parser.add_argument("--model", required=True, metavar="PATH", help=SEGMENTATION.help)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the files, new or empty")
    cast(CommandParser, parser).group("output").add_argument(
        "--format",
        choices=FORMATS,
        default="onnx",
        help="onnx: model.onnx for onnxruntime, needs pip install 'pplfast[onnx]'; torch: model.pt2 for "
        "torch.export.load (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    folder = find_model(args.model, SEGMENTATION)

    from pplfast.deploy.export import export_model

    with ended_by_sigterm():
        exported = export_model(folder, args.out, args.format)
    if exported.difference is None:
        print("not checked: onnxruntime is not installed (pip install onnxruntime)", file=sys.stderr)
    else:
        print(f"checked on other sizes: probabilities within {exported.difference:.1e} of pplfast's", file=sys.stderr)
    print(exported.file)
    return 0
