"""Every export against the labels that it is made of: written, and read back by the tool that it is for.

    python -m pplfast.benchmarks.export_check runs/photos --formats grey,yolo

A row for each format: images, pixels that differ, the lowest IoU of the regions above 400 pixels, images/s of the
export, and the package that read it. Ends with 1 where pixels differ, or for outlines where an IoU is below 0.99; says
of which formats the tool is not installed.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from pplfast.arrays import BoolArray, UInt8Array
from pplfast.benchmarks import export_readers, export_readers_objects
from pplfast.benchmarks.results import write_figures
from pplfast.data.classes import BACKGROUND, IGNORE
from pplfast.data.dataset import Dataset
from pplfast.data.masks import read_mask
from pplfast.errors import UserError
from pplfast.export.formats import FORMATS, find_format
from pplfast.export.labels import find_labels
from pplfast.export.run import export_labels
from pplfast.export.source import Source, find_source, open_labelled

READERS = export_readers.READERS | export_readers_objects.READERS  # by format
TOOLS = export_readers.TOOLS | export_readers_objects.TOOLS  # the package of each
OUTLINES = ("yolo", "coco-polygons", "label-studio-polygons")  # held to an IoU; all others pixel for pixel
LARGE, LEAST = 400, 0.99  # pixels; IoU


@dataclass(frozen=True)
class Row:
    format: str
    images: int
    differing: int  # pixels
    iou: float  # the lowest of regions above LARGE pixels; 1 without any
    regions: int  # above LARGE pixels
    rate: float  # images/s
    tool: str

    @property
    def good(self) -> bool:
        return self.iou >= LEAST if self.format in OUTLINES else not self.differing

    def text(self) -> str:
        figures = f"{self.images:>7} {self.differing:>10} {self.iou:>10.4f} {self.regions:>8} {self.rate:>9.1f}"
        return f"{self.format:<22}{figures}  {self.tool}"


HEAD = f"{'format':<22}{'images':>7} {'differing':>10} {'lowest IoU':>10} {'regions':>8} {'images/s':>9}  read by"


def check_format(name: str, source: Source, dataset: Dataset, folder: Path, jobs: int | None) -> Row:
    """Export into `folder`, read it back, and compare. AssertionError where an image is missing or of another size."""
    done = export_labels(source.folder, name, folder, dataset, jobs=jobs)
    unsure = find_format(name).unsure
    truth = {item.id: item.label for item in find_labels(source.folder, dataset) if item.id not in done.bad}
    differing = regions = 0
    lowest = 1.0
    for image_id, found in READERS[name](folder):
        expected = read_mask(truth.pop(image_id))
        expected[(expected == IGNORE) & bool(unsure)] = BACKGROUND
        assert found.shape == expected.shape, f"{name}: {image_id}: {found.shape}, not {expected.shape}"
        differing += int((found != expected).sum())
        ious = region_ious(expected, found)
        regions, lowest = regions + len(ious), min([lowest, *ious])
    assert not truth, f"{name}: has no {', '.join(sorted(truth)[:3])}"
    return Row(name, done.images, differing, lowest, regions, done.images / done.seconds, _tool(TOOLS[name]))


def region_ious(expected: UInt8Array, found: UInt8Array) -> list[float]:
    """Of each region above LARGE pixels of `expected`: IoU with the regions of its class in `found` that touch it."""
    import cv2

    ious = []
    for value in sorted(set(np.unique(expected).tolist()) - {BACKGROUND, IGNORE}):
        count, numbers, figures, _ = cv2.connectedComponentsWithStats((expected == value).astype(np.uint8))
        _, theirs = cv2.connectedComponents((found == value).astype(np.uint8))
        for number in range(1, count):
            if figures[number, cv2.CC_STAT_AREA] > LARGE:
                own: BoolArray = numbers == number
                touching = np.unique(theirs[own])
                other = np.isin(theirs, touching[touching > 0])
                ious.append(float((own & other).sum() / (own | other).sum()))
    return ious


def _tool(package: str) -> str:
    for name in (package, package.removesuffix("-headless")):
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return package


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", metavar="LABELS_OR_RUN", help="label PNGs within a run, or a run")
    parser.add_argument("--formats", default="", help="like grey,yolo (default: all)")
    parser.add_argument("--jobs", type=int, help="processes that convert (default: one per core)")
    parser.add_argument("--out", metavar="FILE.json", help="write the rows there too (default: only printed)")
    args = parser.parse_args(arguments)
    names = args.formats.split(",") if args.formats else list(FORMATS)
    if unknown := [name for name in names if name not in FORMATS]:
        parser.error(f"--formats {unknown[0]}: no format; choose from {', '.join(FORMATS)}")
    try:
        source = find_source(args.labels)
        if source.data is None:
            parser.error(f"{args.labels}: lies in no run, which would say of which images it is")
        rows = _check(names, source, open_labelled(source, source.data), args.jobs)
        if args.out:
            write_figures(args.out, rows=[asdict(row) for row in rows])
        return 0 if all(row.good for row in rows) else 1
    except UserError as error:
        print(f"export_check: error: {error}", file=sys.stderr)
        return 2


def _check(names: Sequence[str], source: Source, dataset: Dataset, jobs: int | None) -> list[Row]:
    """Of the formats whose libraries are installed; of the others it is said."""
    print(HEAD)
    rows = []
    for name in names:
        try:
            find_format(name)
        except UserError as error:  # a library that writes it is missing
            print(f"{name:<22}not checked: {error}", flush=True)
            continue
        with tempfile.TemporaryDirectory() as place:
            try:
                row = check_format(name, source, dataset, Path(place) / name, jobs)
            except ImportError as error:
                print(f"{name:<22}not checked: {error}", flush=True)
                continue
        print(row.text(), flush=True)
        rows.append(row)
    return rows


if __name__ == "__main__":
    sys.exit(main())
