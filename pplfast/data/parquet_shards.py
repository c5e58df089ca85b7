"""The samples of a Parquet file with the bytes of images, as Hugging Face's `datasets` writes them: a struct of bytes
and path for each image, and what the columns mean as JSON in the schema's metadata. Image bytes are not read.

The key of an image is its cell in the first of KEY_COLUMNS that has another name in each row, else the stem of the
image's path if those differ, else the number of the row. A dot in it becomes "_": WebDataset's keys, which what is
written of the image has, end at the first.
"""

import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa

from pplfast.data.names import SUFFIXES
from pplfast.data.parquet_pages import opened, read_footer
from pplfast.data.shard_labels import KEYS as LABEL_COLUMNS
from pplfast.data.shard_labels import label_texts
from pplfast.data.shard_rows import NONE, Rows, check_key, raw_shard, read_ahead
from pplfast.errors import UserError
from pplfast.reading import quoted, shortened
from pplfast.storage import Found, StorageError

IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "tif", "tiff")
MASK_COLUMNS = ("mask", "annotation", "segmentation", "seg", "label")
KEY_COLUMNS = ("__key__", "id", "image_id", "file_name")
OBJECTS = "objects"  # a column of objects in the image, with one of LABEL_COLUMNS
_DIGITS = 6  # of a row's number at least
_ROWS_READ = 64  # with their images, where only these tell which rows have one
_DAMAGED = (pa.ArrowException, OSError, ValueError, StorageError)


@dataclass(frozen=True)
class Columns:
    """Names of columns; "" for none. label: "objects.category" within a struct. classes: the names that integers in
    `label` are places in, () where the file does not say them."""

    image: str
    mask: str
    label: str
    classes: tuple[str, ...]


def parquet_columns(shard: Found) -> Columns:
    """UserError, which names the shard, where it cannot be read or has no column of images."""
    with _opened(shard) as file:
        return _columns(file.schema, shard)


def parquet_rows(shard: Found, columns: Columns) -> Rows:
    """columns: of the first shard; UserError where this one's are others, or it cannot be read."""
    with _opened(shard) as file:
        own = _columns(file.schema, shard)
        if own != columns:
            raise UserError(
                f"{shard.path}: has the columns {_words(own)}, and the first shard {_words(columns)}; make the shards "
                "alike, or an index of each kind"
            )
        return _rows(file, own, shard)


class _File:
    """What is read of a Parquet file. rows: of each row group."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self.footer = read_footer(self._read, size)
        self.rows = self.footer.rows
        self.schema: pa.Schema = opened(self.footer, self._read, [], []).schema_arrow

    def cells(self, column: str) -> list[Any]:
        """Of all rows. column: also one below another, as image.path, whose cells are then those of image."""
        values = opened(self.footer, self._read, range(len(self.rows)), [column]).read([column]).column(0).to_pylist()
        if len(values) != sum(self.rows):
            raise ValueError(f"{len(values)} rows in the column {column}, of {sum(self.rows)}")
        return list(values)

    def batches(self, column: str, group: int) -> Iterator[pa.RecordBatch]:
        yield from opened(self.footer, self._read, [group], [column]).iter_batches(_ROWS_READ, [group], [column])

    def _read(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(size)


class _opened:
    """A file while it is read; what is found wrong with it becomes a UserError."""

    def __init__(self, shard: Found) -> None:
        self._shard = shard

    def __enter__(self) -> _File:
        try:
            self._file = io.BufferedReader(raw_shard(self._shard), read_ahead(self._shard))
            return _File(self._file, self._shard.size)
        except _DAMAGED as error:
            raise self._damaged(error) from None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._file.close()
        if isinstance(error, _DAMAGED):
            raise self._damaged(error) from None

    def _damaged(self, error: BaseException) -> UserError:
        return UserError(f"{self._shard.path}: cannot be read as Parquet ({shortened(str(error))}); restore it")


def _words(columns: Columns) -> str:
    names = ", ".join(filter(None, (columns.image, columns.mask, columns.label)))
    return f"{names} with {len(columns.classes)} classes" if columns.classes else names


# ---- which column is what


def _columns(schema: pa.Schema, shard: Found) -> Columns:
    features = _features(schema)
    images = [field.name for field in schema if _holds_images(field, features)]
    named = [name for name in images if name in IMAGE_COLUMNS] or [name for name in images if name not in MASK_COLUMNS]
    if not named:
        raise UserError(
            f"{shard.path}: has no column of image bytes; name one 'image', binary or a struct of bytes and path (it "
            f"has {shortened(', '.join(schema.names))})"
        )
    image = min(named, key=lambda name: IMAGE_COLUMNS.index(name) if name in IMAGE_COLUMNS else len(IMAGE_COLUMNS))
    mask = next((name for name in MASK_COLUMNS if name in images and name != image), "")
    label = next((name for name in LABEL_COLUMNS if name in schema.names and name != mask), "")
    if not label and OBJECTS in schema.names:
        inner = _struct_of(schema.field(OBJECTS).type)
        label = next((f"{OBJECTS}.{name}" for name in LABEL_COLUMNS if inner and inner.get_field_index(name) >= 0), "")
    return Columns(image, mask, label, _class_names(features, label.split(".")) if label else ())


def _features(schema: pa.Schema) -> dict[str, Any]:
    """What `datasets` says of the columns; nothing for other files."""
    try:
        said = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = said.get("info", {}).get("features", {})
    except (ValueError, AttributeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _holds_images(field: pa.Field, features: dict[str, Any]) -> bool:
    kind, said = field.type, features.get(field.name)
    if isinstance(kind, pa.StructType) and (place := kind.get_field_index("bytes")) >= 0:
        return _is_binary(kind.field(place).type)
    named = field.name in IMAGE_COLUMNS or field.name in MASK_COLUMNS
    return _is_binary(kind) and (named or (isinstance(said, dict) and said.get("_type") == "Image"))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _struct_of(kind: pa.DataType) -> pa.StructType | None:
    """Of a struct of lists, or of a list of structs."""
    while hasattr(kind, "value_type"):
        kind = kind.value_type
    return kind if isinstance(kind, pa.StructType) else None


def _class_names(features: Any, path: Sequence[str]) -> tuple[str, ...]:
    """Of the ClassLabel at a path of columns, itself in any number of lists."""
    while isinstance(features, list) or (isinstance(features, dict) and "feature" in features and "_type" in features):
        features = features["feature"] if isinstance(features, dict) else (features or [None])[0]
    if path:
        return _class_names(features.get(path[0]), path[1:]) if isinstance(features, dict) else ()
    if not isinstance(features, dict) or features.get("_type") != "ClassLabel":
        return ()
    names = features.get("names")
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


# ---- rows


def _rows(file: _File, columns: Columns, shard: Found) -> Rows:
    images = _present(file, columns.image)
    masks = _present(file, columns.mask) if columns.mask else [False] * len(images)
    if images and not any(images):
        raise UserError(f"{shard.path}: holds the paths of its images alone; write their bytes into it")
    paths = _paths(file, columns.image)
    keys = _keys(file, paths, len(images), shard)
    labels = _labels(file, columns, len(images), shard)
    rows, place = Rows(without_image=images.count(False)), 0
    for group, count in enumerate(file.rows):
        for row in range(count):
            if images[place]:
                mask = (0, 0) if masks[place] else (NONE, NONE)
                rows.rows.append((keys[place], _suffix(paths[place]), group, row, *mask, labels[place]))
            place += 1
    return rows


def _present(file: _File, column: str) -> list[bool]:
    """Which rows have bytes in a column: by the counts in the footer, where these tell."""
    present: list[bool] = []
    for group, rows in enumerate(file.rows):
        nulls = file.footer.nulls(group, (column, f"{column}.bytes"))
        found = [nulls == 0] * rows if nulls in (0, rows) else list(_present_by_reading(file, group, column))
        if len(found) != rows:
            raise ValueError(f"{len(found)} rows in a row group of {rows}")
        present += found
    return present


def _present_by_reading(file: _File, group: int, column: str) -> Iterator[bool]:
    leaf = f"{column}.bytes" if isinstance(file.schema.field(column).type, pa.StructType) else column
    for batch in file.batches(leaf, group):
        for value in batch.column(0):
            data = value["bytes"] if isinstance(value, pa.StructScalar) and value.is_valid else value
            yield bool(data.is_valid)


def _paths(file: _File, column: str) -> list[str]:
    """What the struct of each image has for its path; "" for none."""
    kind = file.schema.field(column).type
    if not isinstance(kind, pa.StructType) or kind.get_field_index("path") < 0:
        return [""] * sum(file.rows)
    cells = file.cells(f"{column}.path")
    paths = [cell.get("path") if cell else None for cell in cells]
    return [path if isinstance(path, str) else "" for path in paths]


def _suffix(path: str) -> str:
    suffix = os.path.splitext(path)[1]
    return suffix if suffix.lower() in SUFFIXES else ""


def _keys(file: _File, paths: Sequence[str], rows: int, shard: Found) -> list[str]:
    for name in KEY_COLUMNS:
        if name in file.schema.names:
            values = file.cells(name)
            if all(isinstance(value, str | int) and not isinstance(value, bool) for value in values):
                keys = [_key(str(value)) for value in values]
                if _can_be_keys(keys, shard):
                    return keys
    stems = [_key(os.path.basename(path)) for path in paths]
    if _can_be_keys(stems, shard):
        return stems
    width = max(_DIGITS, len(str(rows - 1)))
    return [str(row).zfill(width) for row in range(rows)]


def _key(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return folder + slash + (last if last in (".", "..") else last.removesuffix(_suffix(last)).replace(".", "_"))


def _can_be_keys(keys: Sequence[str], shard: Found) -> bool:
    if len(set(keys)) < len(keys):
        return False
    try:
        for key in keys:
            check_key(key, "", shard.path)
    except UserError:
        return False
    return not any(key.startswith("./") for key in keys)


def _labels(file: _File, columns: Columns, rows: int, shard: Found) -> Sequence[list[str] | None]:
    if not columns.label:
        return [None] * rows
    column, _, inner = columns.label.partition(".")
    cells = file.cells(column)
    return [_cell_labels(cell, inner, f"{shard.path}, row {row}") for row, cell in enumerate(cells)]


def _cell_labels(cell: Any, inner: str, where: str) -> list[str] | None:
    if inner and isinstance(cell, list):
        cell = [part[inner] for part in cell if part is not None]
    elif inner and isinstance(cell, dict):
        cell = cell[inner]
    if cell is None or cell == -1:  # -1: the class of test images, as `datasets` has it
        return None
    try:
        return label_texts(cell, where)
    except UserError:
        raise UserError(f"{where}: labels are {quoted(repr(cell))}; store names, integers or lists of these") from None
