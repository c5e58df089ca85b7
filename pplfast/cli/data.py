"""`pplfast data demo` and `pplfast data check`."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pplfast.data.demo_config import DemoConfig
from pplfast.data.options import RARE, add_data_arguments, config_from_arguments
from pplfast.data.problems import Problem


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "Make a demo data set, or look at one of your own before anything is trained on it."
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    check = actions.add_parser(
        "check",
        help="counts per class, and everything that is wrong with the files",
        description="Decode every image and mask. Exit code 2 when there are errors, 0 when "
        "there are at most warnings.",
    )
    add_data_arguments(check, shown=RARE, full=True)
    check.add_argument("--json", metavar="FILE", help="write the report there too (default: only printed)")

    demo = actions.add_parser(
        "demo",
        help="make a data set of rendered objects, in VOC layout",
        description="Five classes of rendered objects with exact masks. The same arguments give "
        "the same bytes; lists: train, val.",
    )
    default = DemoConfig()
    demo.add_argument("--out", required=True, metavar="DIR", help="new or empty folder")
    demo.add_argument(
        "--seed", type=int, default=default.seed, metavar="N", help="of the scenes (default: %(default)s)"
    )
    demo.add_argument(
        "--train", type=int, default=default.train, metavar="N", help="training images (default: %(default)s)"
    )
    demo.add_argument(
        "--val", type=int, default=default.val, metavar="N", help="validation images (default: %(default)s)"
    )
    demo.add_argument(
        "--size",
        type=int,
        default=default.size,
        metavar="PIXELS",
        help="long side of the images (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    return _check(args) if args.action == "check" else _demo(args)


def _check(args: argparse.Namespace) -> int:
    from pplfast.data.check import check_dataset, format_report
    from pplfast.data.dataset import open_dataset
    from pplfast.files import write_json

    problems: list[Problem] = []
    dataset = open_dataset(config_from_arguments(args), problems)
    with _progress("checking", len(dataset)) as advance:
        report = check_dataset(dataset, problems, progress=advance)
    print(format_report(report))
    if args.json:
        write_json(args.json, report.to_dict())
    return 2 if report.errors else 0


def _demo(args: argparse.Namespace) -> int:
    from pplfast.data.demo import make_demo

    config = DemoConfig(seed=args.seed, train=args.train, val=args.val, size=args.size)
    with _progress("rendering", config.train + config.val) as advance:
        made = make_demo(Path(args.out), config, advance)
    print(
        f"{args.out}: {config.train} training and {config.val} validation images"
        f"{'' if made else ' (already there)'}; use --data {args.out} --list train or --list val"
    )
    return 0


@contextmanager
def _progress(text: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on a terminal's standard error; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(file=sys.stderr), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(text, total=total)
        yield lambda: bar.advance(task)
