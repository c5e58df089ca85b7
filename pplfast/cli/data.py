"""`pplfast data demo`, `check`, `masks` and `index`."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pplfast.cli.parser import CommandParser
from pplfast.data.demo_config import DemoConfig
from pplfast.data.options import RARE, add_data_arguments, config_from_arguments
from pplfast.data.problems import Problem
from pplfast.errors import UserError


def configure(parser: CommandParser) -> None:
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
    check.add_argument(
        "--sheet",
        metavar="FILE",
        help="write an HTML file with images of each class, their labels and names (default: none)",
    )

    check.add_argument(
        "--sample", type=int, metavar="N", help="look at about N images, evenly over the data set (default: all)"
    )

    index = actions.add_parser(
        "index",
        help="read shards through once, and write where their images are",
        description="Write the index of tar shards or Parquet files: where each image and mask is, and its labels. "
        "It is made once, and again when a shard has changed.",
    )
    add_data_arguments(index, shown=("--index",))

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

    masks = actions.add_parser(
        "masks",
        help="masks from the outlines in a COCO file",
        description="Write <id>.png for each image that the COCO file of --labels has, like instances_val2017.json: 0 "
        "background, the value of each category, 255 for crowds. These values are the categories' ids, or 1, 2, ... "
        "in their order where one is not from 1 to 254. --classes takes names or ids of categories, and leaves out "
        "the others. Exit code 3 when some images get no mask.",
    )
    add_data_arguments(masks, shown=(), classes="all of the file")
    labels = masks.option("--labels")
    labels.required, labels.help = True, "COCO file of instances, with polygons or RLE"
    masks.option("--classes").help = "these categories alone, by name or id, like cat,dog (default: all of the file)"
    masks.add_argument("--out", required=True, metavar="DIR", help="folder of the masks, for --masks")


def run(args: argparse.Namespace) -> int:
    return {"check": _check, "demo": _demo, "index": _index, "masks": _masks}[args.action](args)


def _check(args: argparse.Namespace) -> int:
    from pplfast.data.check import check_dataset
    from pplfast.data.check_text import format_report
    from pplfast.data.dataset import open_dataset
    from pplfast.files import write_json

    if args.sheet is not None:
        from pplfast.report.sheet import check_place, write_sheet

        check_place(Path(args.sheet))  # before what may take minutes
    if args.sample is not None and args.sample < 1:
        raise UserError(f"--sample {args.sample}: must be 1 or more")
    problems: list[Problem] = []
    dataset = open_dataset(config_from_arguments(args), problems)
    if args.sample is not None and args.sample < len(dataset):
        print(f"a sample of {dataset.name}'s {len(dataset)} images:")
        dataset = dataset.subset(dataset.some(args.sample))
    with _progress("checking", len(dataset)) as advance:
        report = check_dataset(dataset, problems, progress=advance)
    print(format_report(report))
    if args.json:
        write_json(args.json, report.to_dict())
    if args.sheet is not None:
        print(write_sheet(dataset, Path(args.sheet)))
    return 2 if report.errors else 0


def _index(args: argparse.Namespace) -> int:
    from pplfast.data.shard_places import find_shards, index_place, is_sharded
    from pplfast.data.shards import make_index

    config = config_from_arguments(args)
    if not is_sharded(config):
        raise UserError(f"{args.data}: holds no shards; give --data a folder or a pattern of .tar or .parquet files")
    with _progress("indexing", shards := len(find_shards(config.root).found)) as advance:
        made = make_index(config, lambda *_: advance())
    print(f"{index_place(config)}: index of {made.images} images in {shards} shards")
    if made.without_image:
        print(f"warning: {made.without_image} samples hold no image, and are left out")
    return 0


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


def _masks(args: argparse.Namespace) -> int:
    from pplfast.data.coco import read_coco
    from pplfast.data.coco_masks import write_coco_masks
    from pplfast.data.dataset import open_dataset
    from pplfast.data.folder import check_out_of_data
    from pplfast.errors import one_line
    from pplfast.jobs.options import EXIT_BAD, SHOWN
    from pplfast.lock import hold_folder

    config, out = config_from_arguments(args), Path(args.out)
    check_out_of_data(out, config)
    dataset = open_dataset(replace(config, labels="none", classes="", masks="", range="full"))
    file = read_coco(args.labels)
    columns = file.columns(args.classes)
    with hold_folder(out), _progress("drawing", len(dataset)) as advance:
        report = write_coco_masks(file, dataset, out, columns, advance)
    for fault in report.faults[:SHOWN]:
        print(one_line(fault), file=sys.stderr)
    if len(report.faults) > SHOWN:
        print(f"... and {len(report.faults) - SHOWN} more", file=sys.stderr)
    values = ",".join(f"{file.categories.names[column]}={file.categories.ids[column]}" for column in columns)
    parts = (
        (True, f"{args.out}: {report.written} masks of {args.labels}"),
        (report.absent, f"{report.absent} images are not in it"),
        (file.orphans, f"{file.orphans} of its annotations are of no image"),
        (report.faults, f"{len(report.faults)} images have no mask, for the reasons above"),
        (True, f"use --masks {args.out}{f' --classes {values}' if args.classes else ''}"),
    )
    print("; ".join(text for applies, text in parts if applies))
    return EXIT_BAD if report.faults else 0


@contextmanager
def _progress(text: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on a terminal's standard error; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(file=sys.stderr), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(text, total=total)
        yield lambda: bar.advance(task)
