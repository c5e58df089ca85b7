"""`pplfast report`."""

import argparse

IMAGES = 8  # pplfast.report.IMAGES, whose module imports matplotlib


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="the --out folder of `pplfast run`")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="the HTML file (default: RUN/report.html); pages of all images go into a folder beside it",
    )
    parser.add_argument(
        "--images",
        type=int,
        default=IMAGES,
        metavar="N",
        help="images whose maps and labels of every step are shown, spread evenly over the list (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    from pplfast.report import write_report

    print(write_report(args.run, args.out, args.images))
    return 0
