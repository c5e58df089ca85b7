"""`pplfast report`."""

import argparse

IMAGES = 8  # pplfast.report.IMAGES, whose module imports matplotlib


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="the --out folder of `pplfast run`")
    parser.add_argument("--out", metavar="FILE", help="the HTML file (default: RUN/report.html)")
    parser.add_argument(
        "--images",
        type=int,
        default=IMAGES,
        metavar="N",
        help="images in the gallery, spread evenly over the list (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    from pplfast.report import write_report

    print(write_report(args.run, args.out, args.images))
    return 0
