"""Labels in the layouts of plain folders: tables without a class list, YOLO's text and its data.yaml, COCO's JSON."""

from collections.abc import Callable
from pathlib import Path

import layout_sets

import fuzz.mutate as mutate
from fuzz.reader import Reader
from fuzz.trees import json_tree
from pplfast.data.dataset import DataConfig, open_dataset

YAML_WORDS = (
    "names:", "- ", "  0: ", "{0: ant}", "[ant, bee]", "&a", "*a", "<<: *a", "!!python/object/apply:os.system [x]",
    "!!binary", "---", "...", "%YAML 9.9\n", "|\n", ">\n", "? ", ": ", "'", '"\\x00"', "@", "[" * 3000, "? " * 3000,
    "- " * 3000, "1:" * 3000 + "1", "0x1F", "~", "2021-01-01",
)  # fmt: skip


def _read(labels: str, classes: str = "") -> Callable[[Path], object]:
    """With the faults of single images noted first, then raised."""

    def read(folder: Path) -> object:
        file = folder / labels
        config = DataConfig(str(folder), labels=str(file) if file.suffix else labels, classes=classes)
        open_dataset(config, problems=[])
        return open_dataset(config)

    return read


def readers() -> list[Reader]:
    cells = mutate.mixed(mutate.text("ant", "bee", ";", "|", ",", "\t", '"', "a1.jpg", "none", "image,label", "0", "1"))
    return [
        Reader(
            "csv_names",
            "labels.csv",
            layout_sets.table,
            cells,
            _read("labels.csv"),
            more=(b"a1.jpg\tant|bee\nb1.jpg\tnone\n", b"image;label\na1.jpg;ant\n"),
        ),
        Reader(
            "csv_columns",
            "labels.csv",
            layout_sets.columns,
            cells,
            _read("labels.csv"),
            more=(b"image,crack\na1,1\nb1,0\n", b",ant,bee\na1,True,False\n"),
        ),
        Reader(
            "yolo_txt",
            "labels/a1.txt",
            layout_sets.yolo,
            mutate.mixed(mutate.text("0", "2", "3", "0.5", "1e-3", "cow", "\r")),
            _read("yolo"),
            more=(b"", b"1\n\n", b"2 0.1 0.1 0.2 0.1 0.2 0.2\r\n"),
        ),
        Reader(
            "yolo_yaml",
            "data.yaml",
            layout_sets.yolo,
            mutate.mixed(mutate.text(*YAML_WORDS)),
            _read("yolo"),
            more=(b"names:\n  0: ant\n  1: bee\n  2: cow\n", b"names:\n- ant\n- bee\n- cow\n- 'a dog'\n"),
            named=("nothing names the classes",),
        ),
        Reader(
            "yolo_names",
            "obj.names",
            _with_names,
            mutate.mixed(mutate.text("=", "#", "ant", "background")),
            _read("yolo"),
            named=("nothing names the classes",),
        ),
        Reader("coco_labels", "_annotations.coco.json", layout_sets.coco, json_tree, _read("_annotations.coco.json")),
    ]


def _with_names(folder: Path) -> None:
    (layout_sets.yolo(folder) / "data.yaml").unlink()
    (folder / "obj.names").write_text("ant\nbee\ncow\n")
