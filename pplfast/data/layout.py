"""Where the image labels of a data set are, and in which layout."""

import os
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pplfast.data import class_folders, yolo
from pplfast.data.class_folders import FolderLabels, first_folder, seem_parts, shown_names
from pplfast.data.classes import VOC, parse_classes, states_values
from pplfast.data.coco_labels import CocoLabels
from pplfast.data.csv_labels import CsvLabels
from pplfast.data.csv_rows import is_image, names_images, read_csv
from pplfast.data.folder import meant_root
from pplfast.data.labels import Labels
from pplfast.data.listing import Scan
from pplfast.data.npy_labels import NpyLabels
from pplfast.data.splits import is_holder, is_part, is_split
from pplfast.data.xml_labels import XmlLabels
from pplfast.data.yolo import YoloLabels
from pplfast.errors import UserError
from pplfast.reading import shortened

if TYPE_CHECKING:
    from pplfast.data.dataset import DataConfig

FOLDERS, YOLO, XML, NONE = "folders", "yolo", "xml", "none"
FILES = (".npy", ".csv", ".json")
_Found = tuple[str, Path]  # one of the above, and where it is
_ROWS = 100  # of a CSV, of which one has to be of an image that is there
_SHOWN = 3  # files that a message names


def open_labels(config: "DataConfig", scan: Scan) -> Labels | None:
    """The labels of a data set, before any image is looked up; None for `labels = "none"`. UserError where there are
    none, and for what does not hold labels."""
    kind, path = _find(config, scan)
    if kind == NONE:
        return None
    source = classes_source(config)
    classes = parse_classes(source, numbered=kind == YOLO and not config.classes) if source else None
    if kind == XML:
        return XmlLabels(scan, path, classes or VOC, config.difficult)
    if kind == ".npy":
        return NpyLabels(scan, path, classes or VOC)
    if kind == ".csv":
        return CsvLabels(scan, path, classes or (VOC if scan.is_voc else None))
    if kind == ".json":
        return CocoLabels(scan, path, classes, values=source is not None and states_values(source))
    return YoloLabels(scan, classes) if kind == YOLO else FolderLabels(scan, classes)


def classes_source(config: "DataConfig") -> str | Path | None:
    """What states the classes: --classes, else ROOT/classes.txt; None where the labels say them, or VOC's are meant."""
    own = Path(config.root) / "classes.txt"
    return config.classes or (own if own.is_file() else None)


def open_scan(config: "DataConfig") -> Scan:
    return Scan(Path(config.root), mask_folder(config))


def mask_folder(config: "DataConfig") -> Path | None:
    """That of --masks, in the data set or elsewhere, if it is there."""
    places = (Path(config.root) / config.masks, Path(config.masks)) if config.masks else ()
    return next((path for path in places if os.path.isdir(path)), None)


def describe_layout(config: "DataConfig") -> str:
    """Which labels a data set has, in words: "labels: folder per class, 3 classes". Raises as `open_labels`."""
    return described(open_labels(config, open_scan(config)))


def described(labels: Labels | None) -> str:
    """The same of labels that are open."""
    if labels is None:
        return "labels: none"
    count = len(labels.classes)
    return f"labels: {shortened(labels.layout)}, {count} class{'es' * (count != 1)}"


def _find(config: "DataConfig", scan: Scan) -> _Found:
    choice, annotations = config.labels, scan.root / "Annotations"
    if choice in (NONE, FOLDERS, YOLO):
        return choice, scan.root
    if choice == XML or (choice == "auto" and annotations.is_dir()):
        if not annotations.is_dir():
            raise UserError(f"{annotations}: no such folder; give --labels a cls_labels.npy or a CSV, or none")
        return XML, annotations
    if choice == "auto":
        return _auto(config, scan)
    path = Path(choice)
    if path.suffix.lower() not in FILES:
        raise UserError(
            f"--labels {choice}: must be auto, xml, none, folders, yolo, or a file that ends in .npy, .csv or .json"
        )
    return path.suffix.lower(), path


def _auto(config: "DataConfig", scan: Scan) -> _Found:
    """The first that a folder without Annotations has. UserError where it has none."""
    root = scan.root
    beside = [root / "cls_labels.npy", Path(config.list).parent / "cls_labels.npy" if config.list else root]
    if found := next((path for path in beside if path.is_file()), None):
        return ".npy", found
    if scan.is_voc:
        raise UserError(
            f"{root}: no image labels: neither Annotations/ nor cls_labels.npy; give --labels a cls_labels.npy or a "
            "CSV of image,label;label, or none where the command needs no labels"
        )
    if table := _table(root):
        return ".csv", table
    instances = _instances(root)
    if len(instances) == 1:
        return ".json", instances[0]
    if yolo.fits(scan):
        return YOLO, root
    source = classes_source(config)
    if class_folders.fits(scan, parse_classes(source) if source else None):
        return FOLDERS, root
    raise UserError(meant_root(root) or _nothing_fits(scan, instances, source is not None))


def _table(root: Path) -> Path | None:
    """labels.csv, or the only CSV, if it is one of images. UserError where such a one has faults."""
    path, tables = root / "labels.csv", _tables(root)
    if path in tables:
        return path
    if len(tables) != 1:
        return None
    try:
        rows = read_csv(tables[0], root).rows
    except UserError as error:
        if names_images(tables[0], root):
            raise UserError(f"{error}; if it holds no labels, say with --labels what does") from None
        return None
    return tables[0] if any(is_image(root, row.image) for row in islice(rows, _ROWS)) else None


def _tables(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("*.csv") if path.is_file())


def _instances(root: Path) -> list[Path]:
    """COCO files of the folder: Roboflow's, or COCO's own, for one of its parts that of the same name."""
    exported = root / "_annotations.coco.json"
    if exported.is_file():
        return [exported]
    folder = Path(os.path.abspath(root))
    name = folder.name
    while is_part(folder.name):
        folder = folder.parent
        if (of_part := folder / "annotations" / f"instances_{name}.json").is_file():
            return [of_part]
    return sorted(path for path in (root / "annotations").glob("instances_*.json") if path.is_file())


def _nothing_fits(scan: Scan, instances: list[Path], stated: bool) -> str:
    """What to say of a folder without labels, with what may be meant. stated: whether the classes are."""
    text = (
        f"{scan.root}: no image labels: neither Annotations/, cls_labels.npy, labels.csv, COCO's annotations, YOLO's "
        "text files nor a folder for each class"
    )
    folders = sorted({first_folder(entry.id) for entry in scan.listing.entries} - {""})
    if instances:
        return f"{text}; give --labels one of {_names(instances)}, and --data the folder of its images"
    if tables := _tables(scan.root):
        return f"{text}; if {_names(tables)} has them, give it as --labels"
    if folders and seem_parts(folders):
        also = _part(scan, folders)
    else:
        also = f", or --classes names of its folders: {shown_names(folders)}" if folders and stated else ""
    return (
        f"{text}; give --labels a cls_labels.npy, a CSV of image,label;label or a COCO .json, or none where the "
        f"command needs no labels{also}"
    )


def _part(scan: Scan, folders: list[str]) -> str:
    """The remedy for folders that seem to be parts of a data set."""
    classes = "" if all(map(is_part, folders)) else ", or --labels folders if each of its folders is a class"
    holder = next(filter(is_holder, folders), None)
    if holder is None:
        return f", or --data one of its folders, as {scan.root / next(filter(is_split, folders))}{classes}"
    masks = _masks_beside(scan, holder)
    return f", or --data {scan.root / holder}{f' and --masks {masks}' if masks else ''}{classes}"


def _masks_beside(scan: Scan, holder: str) -> Path | None:
    """The folder beside that of the images which holds PNGs of their names."""
    ids = (entry.id for entry in scan.listing.entries if first_folder(entry.id) == holder)
    names = [f"{id.partition('/')[2]}.png" for id in islice(ids, _ROWS)]
    beside = sorted(path for path in scan.root.iterdir() if path.name != holder and os.path.isdir(path))
    return next((path for path in beside if any(os.path.isfile(path / name) for name in names)), None)


def _names(paths: list[Path]) -> str:
    """The first with its folder, which is that of the others too."""
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return f"{', '.join([str(paths[0]), *(path.name for path in paths[1:_SHOWN])])}{more}"
