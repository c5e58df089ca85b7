"""The same photos in many forms of file, and with their labels in every layout: what pplfast makes of each.

    python -m pplfast.benchmarks.formats --data ROOT --list NAME --model RUN [--classes NAMES] [--out FILE.json]
    python -m pplfast.benchmarks.formats --data ROOT --list NAME --layouts [--classes NAMES] [--out FILE.json]

ROOT is in VOC's layout, with XML. Each photo is rewritten in a temporary folder, in each form, which takes some 10 MB a
photo, and a trained classifier makes class activation maps of each. What is lossless must have equal pixels and equal
maps, and each layout equal labels: else the exit code is 1.
"""

# The processes that decode import this module: the rest is imported when it is run.
import argparse
import shlex
import sys
from pathlib import Path

from pplfast.errors import UserError
from pplfast.networks import CLASSIFIER

PROGRAM = "python -m pplfast.benchmarks.formats"


def main(arguments: list[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, metavar="ROOT", help="folder in VOC's layout, with XML")
    parser.add_argument("--list", required=True, metavar="NAME", help="list by name or file")
    parser.add_argument("--classes", default="", metavar="NAMES", help="like cat,dog (default: the classifier's)")
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--model", metavar="PATH", help=CLASSIFIER.help)
    group.add_argument("--layouts", action="store_true", help="the layouts alone, without a classifier")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the results there (default: only printed)")
    args = parser.parse_args(words)
    try:
        from pplfast.benchmarks.format_report import report

        return report(args.data, args.list, args.classes, args.model, args.out, shlex.join([*PROGRAM.split(), *words]))
    except UserError as error:
        print(f"formats: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
