"""Parquet files for Hugging Face's `datasets`."""

import html
import io
import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from pplfast.data.classes import BACKGROUND, IGNORE
from pplfast.data.masks import SUFFIX
from pplfast.errors import UserError
from pplfast.export.format import Format, LabelledImage, Target
from pplfast.export.images import suffix_of
from pplfast.export.indexed import CLASSES_FILE, write_classes
from pplfast.storage import StorageError

CARD_FILE = "README.md"
FOLDER, FILE = "data", "train-{:05}.parquet"
LARGEST_FILE = 500 * 10**6  # bytes of images and labels in a file, about
GROUP_IMAGES, GROUP_BYTES = 100, 64 * 2**20  # of a row group, at most; it is in memory until it is written

_IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
_FEATURES = {"id": {"dtype": "string", "_type": "Value"}, "image": {"_type": "Image"}, "label": {"_type": "Image"}}
SCHEMA = pa.schema(
    {"id": pa.string(), "image": _IMAGE, "label": _IMAGE},
    metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)

_CARD = """
# {name}

Pixel labels of {images} images, made from image labels with pplfast. They are pseudo labels: no person has drawn or
checked them.

Each row has an `id`, the `image`, and its `label`: an 8-bit grey PNG of the same size, whose pixels are

| value | class |
|---|---|
{rows}

The licence of this data set is that of its images: state it above, as `license:`.
"""


class HuggingFace(Format):
    """`data/train-00000.parquet` and on, with the columns id, image and label (https://huggingface.co/docs/datasets);
    `README.md`, the data set's card; `classes.json`: names and values.

    The images are their files' own bytes. The labels are 8-bit grey PNGs of the class values, 0 background, 255 unsure.
    """

    name = "hugging-face"
    tool = "Hugging Face datasets: Parquet files of images and labels, and a card"
    has_images = True
    read_with = "datasets.load_dataset('{out}', split='train')"

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        if target.link:
            raise UserError("--link-images: the images lie within the Parquet files of hugging-face; leave it out")

    def convert(self, item: LabelledImage) -> dict[str, Any]:
        """A row of the table."""
        if not _is_text(item.id):
            raise UserError(f"{item.image}: its name is not UTF-8, as Parquet has it; rename it")
        file = io.BytesIO()
        Image.fromarray(item.labels()).save(file, format="PNG")
        return {
            "id": item.id,
            "image": {"bytes": _bytes_of(item), "path": item.id + suffix_of(item)},
            "label": {"bytes": file.getvalue(), "path": item.id + SUFFIX},
        }

    def write(self, converted: Iterable[tuple[LabelledImage, dict[str, Any]]]) -> None:
        with _Files(self.target.out / FOLDER) as files:
            for _, row in converted:
                files.add(row)
        write_classes(self.target.out / CLASSES_FILE, self.target.classes)
        (self.target.out / CARD_FILE).write_text(self._card(files.images), "utf-8", "backslashreplace")

    def _card(self, images: int) -> str:
        head = {
            "pretty_name": self.target.name,
            "task_categories": ["image-segmentation"],
            "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": f"{FOLDER}/*.parquet"}]}],
        }
        classes = self.target.classes
        named = zip((BACKGROUND, *classes.ids, IGNORE), ("background", *classes.names, "unsure"), strict=True)
        rows = "\n".join(
            f"| {value} | {html.escape(name, quote=False).replace('|', '&#124;')} |" for value, name in named
        )
        text = yaml.safe_dump(head, allow_unicode=True, sort_keys=False)
        return f"---\n{text}---\n{_CARD.format(name=self.target.name, images=images, rows=rows)}"


def _is_text(name: str) -> bool:
    """Names of files may be any bytes, which Python has as halves of characters."""
    return not any("\ud800" <= mark <= "\udfff" for mark in name)


def _bytes_of(item: LabelledImage) -> bytes:
    try:
        return item.image.read_bytes() if isinstance(item.image, Path) else item.image.read()
    except StorageError as error:
        raise UserError(f"{item.image}: {error}") from None


class _Files:
    """Parquet files, of which one is open, in row groups. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder, self._number = folder, 0
        self._rows: list[dict[str, Any]] = []
        self._waiting = self._written = self.images = 0
        self._writer = self._open()

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        self._waiting += len(row["image"]["bytes"]) + len(row["label"]["bytes"])
        self.images += 1
        if len(self._rows) == GROUP_IMAGES or self._waiting >= GROUP_BYTES:
            self._write()

    def __enter__(self) -> "_Files":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._rows:
                self._write()
        finally:
            self._writer.close()

    def _write(self) -> None:
        if self._written and self._written + self._waiting > LARGEST_FILE:
            self._writer.close()
            self._number, self._written = self._number + 1, 0
            self._writer = self._open()
        self._writer.write_table(pa.Table.from_pylist(self._rows, SCHEMA))
        self._written += self._waiting
        self._rows, self._waiting = [], 0

    def _open(self) -> Any:
        # Images and PNGs are compressed already, and no two are alike.
        return pq.ParquetWriter(
            self._folder / FILE.format(self._number),
            SCHEMA,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
        )
