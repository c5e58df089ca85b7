"""Data sets in shards: tars and their label members, Parquet files, the index, list files; and outputs in shards."""

import dataclasses
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jobs_small import Mean
from label_jobs import jpeg
from PIL import Image

import fuzz.mutate as mutate
from fuzz import columns, tars
from fuzz.reader import Reader
from fuzz.trees import json_lines, json_tree
from pplfast.data.dataset import DataConfig, Dataset, open_dataset
from pplfast.data.images import BadImage, inspect_image
from pplfast.data.masks import read_mask
from pplfast.data.shard_index import INDEX
from pplfast.data.shard_rows import FIELDS, METADATA
from pplfast.data.shards import make_index
from pplfast.data.stored import ROW_GROUPS
from pplfast.errors import UserError
from pplfast.jobs.meter import Meter
from pplfast.jobs.output_shards import OutputShards
from pplfast.jobs.record import BAD, DONE
from pplfast.jobs.shard_outputs import ShardOutputs
from pplfast.jobs.shards import END
from pplfast.jobs.workers import Result
from pplfast.labels.camfile import Cam, encode_cam, load_cam, stored_size

SIZE = (8, 16)  # pixels: small files are held to little memory
NAMES = "cat,dog"

# ---- data sets


def small_jpeg(seed: int = 1) -> bytes:
    return jpeg(SIZE[1], SIZE[0], seed=seed, optimize=True)


def _mask() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full(SIZE, 1, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def tar_of(members: Mapping[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    """Without the padding to ten kilobytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        size = tar.offset
    return buffer.getvalue()[:size] + END


LONG = "folder/" + "é" * 100 + "/picture"
TAR = {
    "x/one.cls": b"1",
    "x/one.jpg": small_jpeg(),
    "x/one.seg.png": _mask(),
    "two.json": b'{"caption": "a", "label": ["dog", 0]}',
    "two.png": _mask(),
    "three.txt": b"cat; dog\r\nbackground\n",
    "three.jpg": small_jpeg(),
}
LONG_TAR = {
    f"{LONG}.jpg": small_jpeg(),
    f"{LONG}.cls": b"cat",
    "two.jpg": small_jpeg(),
    "two.txt": b"1",
    "only.txt": b"without an image",
}
MORE_TARS = (tar_of(LONG_TAR), tar_of(LONG_TAR, tarfile.GNU_FORMAT), tar_of(TAR, tarfile.USTAR_FORMAT))


def _config(folder: Path, root: str = "data") -> DataConfig:
    return DataConfig(str(folder / root), classes=NAMES)


def _open(folder: Path, root: str = "data") -> Dataset:
    """As the first command on it does, which makes the index: with the classes that the labels name, then with some."""
    open_dataset(dataclasses.replace(_config(folder, root), classes=""))
    return open_dataset(_config(folder, root))


def _read_all(dataset: Dataset) -> None:
    assert all(ident and "\0" not in ident and ".." not in ident.split("/") for ident in dataset.ids)
    assert dataset.shards is not None and dataset.shards.units(None)[0].size == len(dataset)
    ROW_GROUPS._kept.clear()  # of the input before this one, where both were written at one time
    for image in dataset.images:
        try:
            inspect_image(image)
        except BadImage as error:
            raise UserError(f"{image}: {error}") from error
    for mask in dataset.masks:
        if mask is not None:
            read_mask(mask)


def _read_set(folder: Path) -> None:
    _read_all(_open(folder))


def _tars(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data/a.tar").write_bytes(tar_of(TAR))


LABELS = {
    ".json": (
        b'{"caption": "a", "label": ["dog", 0]}', b"1", b'"cat"', b'{"categories": [1]}',
        b'{"width": 3, "class": "cat"}',
    ),
    ".txt": (b"cat; dog\r\nbackground\n", b"1", b"", b"\xef\xbb\xbfdog\n"),
}  # fmt: skip


def _one_label(suffix: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        (folder / "data").mkdir()
        (folder / f"label{suffix}").write_bytes(LABELS[suffix][0])

    return prepare


def _read_label(suffix: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        members = {"one.jpg": small_jpeg(), f"one{suffix}": (folder / f"label{suffix}").read_bytes()}
        (folder / "data/a.tar").write_bytes(tar_of(members))
        _read_set(folder)

    return read


# ---- Parquet

CELLS = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CLASS_LABEL = {"names": ["cat", "dog"], "_type": "ClassLabel"}


def parquet_of(table: Mapping[str, Any], features: Mapping[str, Any], **options: Any) -> bytes:
    """As `datasets` writes it."""
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    buffer = io.BytesIO()
    pq.write_table(pa.table(table).replace_schema_metadata(metadata), buffer, row_group_size=2, **options)
    return buffer.getvalue()


def cells(*cells: tuple[bytes | None, str | None]) -> pa.Array:
    return pa.array([{"bytes": data, "path": path} for data, path in cells], CELLS)


def parquets() -> tuple[bytes, ...]:
    """With all that is read: labels, lists of them, objects, keys, masks, rows without an image; in each encoding."""
    images = cells((small_jpeg(1), "a.jpg"), (_mask(), "b.png"), (None, None))
    said = {"image": {"_type": "Image"}, "label": CLASS_LABEL}
    lists = {"labels": {"feature": CLASS_LABEL, "_type": "Sequence"}}
    objects = {"objects": {"feature": {"category": CLASS_LABEL}, "_type": "Sequence"}}
    plain = {"use_dictionary": False, "compression": "NONE"}
    return (
        parquet_of({"image": images, "label": [0, 1, -1]}, said, write_page_index=True),
        parquet_of({"image": images, "labels": [[0, 1], [], [1]], "id": [7, 8, 9]}, lists, **plain),
        parquet_of(
            {"image": images, "objects": [{"category": [1, 1]}, {"category": []}, None]}, objects, compression="zstd"
        ),
        parquet_of(
            {
                "jpg": [small_jpeg()] * 3,
                "mask": cells((_mask(), None), (None, None), (_mask(), None)),
                "label": ["cat"] * 3,
            },
            {"jpg": {"_type": "Image"}},
            data_page_version="2.0",
            compression="NONE",
        ),
        parquet_of(
            {"image": images, "label": [0, 1, -1], "file_name": ["p/a", "p/b", "p/c"]},
            said,
            column_encoding={
                "label": "DELTA_BINARY_PACKED",
            },
            **plain,
        ),
    )


def _parquet_set(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data/train-0.parquet").write_bytes(parquets()[0])


def _indexed(prepare: Callable[[Path], None], root: str = "data") -> Callable[[Path], None]:
    def prepare_index(folder: Path) -> None:
        prepare(folder)
        make_index(_config(folder, root))

    return prepare_index


# ---- lists


def _lists(folder: Path) -> None:
    """With an image and a shard in a folder below."""
    (folder / "sub").mkdir()
    (folder / "a.jpg").write_bytes(small_jpeg(1))
    (folder / "sub/b.png").write_bytes(_mask())
    for name in ("a", "sub/b"):
        (folder / f"{name}.tar").write_bytes(tar_of({"x.jpg": small_jpeg(1), "x.cls": b"0"}))
    (folder / "shards.txt").write_bytes(SHARDS[0])
    (folder / "images.txt").write_bytes(IMAGES[0])


SHARDS = (b"# all\na.tar\nsub/b.tar\n", b"\xef\xbb\xbf./a.tar\r\n\r\n", b"sub/../sub/b.tar")
IMAGES = (b"a.jpg\tcat;dog\nsub/b.png\t\n", b"\xef\xbb\xbfsub/b.png\t1\n", b"./a.jpg\tnone\n")
LIST_WORDS = ("a.tar", "sub", "b", ".tar", ".jpg", "a.jpg", "\t", ";", "cat", "{a,b}", "{0..99}", "{000..999999}", "*",
    "?", "[", "{", "}", "file://", "xyz://b/", "..", "%2E", "#", ".parquet", "none", "{1..2}{3..4}" * 9)  # fmt: skip


def _read_list(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        _read_all(_open(folder, name))

    return read


# ---- outputs in shards


def labelled(folder: Path) -> None:
    """Two shards with label shards; the second image of the first is bad, and is tried again."""
    (folder / "data").mkdir()
    for name, count in (("a", 3), ("b", 1)):
        members = {f"x/{name}{place}.jpg": small_jpeg(place) for place in range(count)}
        (folder / f"data/{name}.tar").write_bytes(tar_of(members))
    make_index(_outputs_config(folder))
    for out in ("labels", "cams"):
        go_on(folder, out)


def _outputs_config(folder: Path) -> DataConfig:
    return DataConfig(str(folder / "data"), labels="none", classes="bus,cat,person")


def _job(folder: Path, out: str) -> Mean:
    return Mean(open_dataset(_outputs_config(folder)), suffixes=(".png",) if out == "labels" else (".npz",))


def go_on(folder: Path, out: str, verify: bool = False) -> None:
    """As a rank that is alone: what is left, with results that no network has made."""
    job = _job(folder, out)
    outputs = ShardOutputs(job, str(folder / out), 0, Meter({}))
    with ExitStack() as held:
        _, found = outputs.begin({}, 1, held)
        pending, *_, bad = outputs.plan([outputs.left(found, 0, 1, verify)])
        for position in outputs.open(pending, 0, 1).tolist():
            _take(outputs, job, position)
        outputs.close()
        outputs.conclude(bad)


def _take(outputs: ShardOutputs, job: Mean, position: int) -> None:
    said = {"id": job.dataset.ids[position]}
    known = {"source": job.dataset.images[position].state, "inputs": {}, "rank": 0, "time": 1.5}
    if position == 1:
        outputs.take(position, {**said, **known, "state": BAD, "kind": "failed", "reason": "x"}, said, Result())
        return
    cam = Cam(np.array([0, 2]), np.ones((2, *stored_size(*SIZE))), SIZE)
    sample = {".png": _mask(), ".npz": encode_cam(cam)}
    outputs.take(
        position, {**said, **known, "state": DONE, "height": SIZE[0], "width": SIZE[1]}, said, Result([], sample)
    )


def _continue(verify: bool = False) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        go_on(folder, "labels", verify)
        with tarfile.open(folder / "labels/a.tar") as tar:
            names = tar.getnames()
        keys = [f"x/a{place}" for place in range(3)]
        expected = [f"{key}.seg.{kind}" for key in keys for kind in ("png", "json")]
        expected.remove("x/a1.seg.png")
        assert names == expected, names

    return read


def _read_outputs(out: str, suffix: str, read_part: Callable[[Any], object]) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        dataset = open_dataset(_outputs_config(folder))
        outputs = OutputShards(folder / out, dataset, "pplfast label")
        for position in range(len(dataset)):
            if outputs.bad[position]:
                outputs.reason(position)
            else:
                read_part(outputs.part(position, suffix))

    return read


def _mended(read: Callable[[Path], None], **claimed: int) -> Callable[[Path], None]:
    """With a mark that agrees with what is there. claimed: of the tar."""

    def mend_and_read(folder: Path) -> None:
        mend(folder / "labels", **claimed)
        read(folder)

    return mend_and_read


def mend(out: Path, **claimed: int) -> None:
    mark = out / "manifest/a.json"
    table = json.loads(mark.read_text())
    for key, path in (("tar", out / "a.tar"), ("records", out / "manifest/a.jsonl")):
        data = path.read_bytes()
        table[key] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    table["tar"] |= claimed
    mark.write_text(json.dumps(table))


def readers() -> list[Reader]:
    tar, parquet = mutate.mixed(tars.tar, tars.tar), mutate.mixed(columns.parquet)
    arrow = mutate.mixed(columns.index(METADATA, FIELDS))
    objects, lines = mutate.mixed(json_tree, json_tree), mutate.mixed(json_lines, json_lines)
    text = mutate.mixed(mutate.text("cat", "dog", ";", ",", "0", "1", "999999999", "none"))
    names = mutate.mixed(mutate.text(*LIST_WORDS))
    masks, cams = _read_outputs("labels", ".png", read_mask), _read_outputs("cams", ".npz", load_cam)
    sets = [
        Reader("tar_shard", "data/a.tar", _tars, tar, _read_set, MORE_TARS, (tars.headers_in_headers(500),)),
        Reader("tar_json", "label.json", _one_label(".json"), objects, _read_label(".json"), LABELS[".json"][1:]),
        Reader("tar_text", "label.txt", _one_label(".txt"), text, _read_label(".txt"), LABELS[".txt"][1:]),
        Reader("parquet_shard", "data/train-0.parquet", _parquet_set, parquet, _read_set, parquets()[1:]),
        Reader("shard_index", f"data/{INDEX}", _indexed(_tars), arrow, _read_set),
        Reader("shard_index_parquet", f"data/{INDEX}", _indexed(_parquet_set), arrow, _read_set),
        Reader("list_shards", "shards.txt", _lists, names, _read_list("shards.txt"), SHARDS[1:]),
        Reader("list_images", "images.txt", _lists, names, _read_list("images.txt"), IMAGES[1:]),
    ]
    outputs = [
        Reader("label_mark", "labels/manifest/a.json", labelled, objects, masks),
        Reader("label_records", "labels/manifest/a.jsonl", labelled, lines, _mended(masks, bytes=2**53)),
        Reader("label_tar", "labels/a.tar", labelled, tar, masks),
        Reader("cam_tar", "cams/a.tar", labelled, tar, cams),
        Reader("label_plan", "labels/manifest/a.json", labelled, objects, _continue()),
        Reader("label_plan_records", "labels/manifest/a.jsonl", labelled, lines, _mended(_continue())),
        Reader("label_plan_tar", "labels/a.tar", labelled, tar, _mended(_continue())),
        Reader("label_plan_verify", "labels/a.tar", labelled, tar, _continue(verify=True)),
    ]
    # What is wrong with a label names the data set or the shard, with a list what it names, with one of the three files
    # of a shard of outputs another of them.
    named = [dataclasses.replace(reader, named=("/" if "list" in reader.name else "/data",)) for reader in sets]
    named += [dataclasses.replace(reader, named=("a.tar", "a.json")) for reader in outputs]
    return [dataclasses.replace(reader, writes=True) for reader in named]
