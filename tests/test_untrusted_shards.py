"""Shards, their index and label shards of other people: what is damaged is refused by name, before it takes memory or
ends the process. `make test-fuzz` reads thousands of others."""

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzz import tars, thrift
from fuzz.columns import read_parquet, write_parquet
from fuzz.readers_shards import go_on, labelled, mend, small_jpeg, tar_of
from untrusted import refused, write

from pplfast.data.dataset import DataConfig, open_dataset
from pplfast.data.shard_index import INDEX
from pplfast.errors import UserError
from pplfast.jobs.output_shards import OutputShards
from pplfast.storage import StorageError

# ---- Parquet


def parquet(**options) -> bytes:
    images = [{"bytes": small_jpeg(seed), "path": f"{seed}.jpg"} for seed in range(3)]
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": images, "label": ["cat", "dog", "cat"]}), buffer, **options)
    return buffer.getvalue()


def damaged(part: str, *path: int, value: int) -> bytes:
    """With another number in the footer ("file"), in what it says of the column `label`, or in the header of that
    column's "dictionary" or of its page of "values". path: numbers of fields in the format's parquet.thrift."""
    footer, chunks = read_parquet(parquet())
    label = chunks[2]
    fields = {
        "file": footer,
        "column": label.meta,
        "dictionary": label.pages[0].header,
        "values": label.pages[1].header,
    }

    def put(_) -> None:
        *steps, last = path
        within = fields[part]
        for step in steps:
            within = thrift.get(within, step).value
            within = within[0].value if within and not within[0].number else within  # the first of a list
        thrift.get(within, last).value = value

    if part in ("file", "column"):  # once its offsets are right
        return write_parquet(footer, chunks, put)
    put(footer)
    return write_parquet(footer, chunks)


@pytest.mark.parametrize(
    "part, path, value, words",
    [
        ("file", (3,), 10**9, "another number of rows"),
        ("file", (4, 3), 10**9, "another number of rows"),
        ("column", (5,), 10**9, "its column label lies outside of it"),
        ("column", (7,), 2**40, "its column label lies outside of it"),
        ("column", (9,), -1, "its column label lies outside of it"),
        ("dictionary", (7, 1), 2**31 - 1, "more values than the file bytes"),
        ("values", (5, 1), 2**31 - 1, "more values than the file bytes"),
        ("values", (3,), 10**6, "a page lies outside of its column"),
        ("values", (2,), 2**31 - 1, "unpacks to 2147483"),
        ("values", (5, 2), 6, "the encoding DELTA_LENGTH_BYTE_ARRAY is not read"),
    ],
)
def test_numbers_in_parquet_that_cannot_be(tmp_path, part, path, value, words):
    file = write(tmp_path / "a.parquet", damaged(part, *path, value=value))
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(UserError, match=words) as caught:
        open_dataset(DataConfig(str(tmp_path)))
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)
    assert pa.default_memory_pool().max_memory() - before < 10**6


def test_another_row_group_than_the_files_columns(tmp_path):
    footer, chunks = read_parquet(parquet())
    group = thrift.get(footer, 4).value[0].value

    def drop(_) -> None:
        del thrift.get(group, 1).value[2]

    write(tmp_path / "a.parquet", write_parquet(footer, chunks, drop))
    assert "other columns than the file" in refused(root=tmp_path)


def test_a_footer_of_lists_in_lists(tmp_path):
    footer = b"\x19" * 5000
    write(tmp_path / "a.parquet", b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    assert "nested too deep" in refused(root=tmp_path)


def test_a_page_of_an_image_that_cannot_be_is_a_bad_image(tmp_path):
    footer, chunks = read_parquet(parquet())
    thrift.get(chunks[0].pages[0].header, 3).value = 10**6
    write(tmp_path / "a.parquet", write_parquet(footer, chunks))
    with pytest.raises(StorageError, match=r"cannot be read as Parquet \(a page lies outside of its column"):
        open_dataset(DataConfig(str(tmp_path))).images[0].read()


def test_a_column_of_another_type_than_the_schemas(tmp_path):
    """Whose statistics pyarrow ends the process for."""
    footer, chunks = read_parquet(parquet())
    thrift.get(chunks[0].meta, 1).value = 99
    write(tmp_path / "a.parquet", write_parquet(footer, chunks))
    assert open_dataset(DataConfig(str(tmp_path))).images[1].read() == small_jpeg(1)


# ---- the index


def test_rows_that_unpack_to_more_memory(tmp_path):
    write(tmp_path / "a.tar", tar_of({"a.jpg": small_jpeg(), "a.txt": b"cat"}))
    open_dataset(DataConfig(str(tmp_path)))
    rows = pa.ipc.open_file((tmp_path / INDEX).read_bytes()).read_all()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(str(tmp_path / INDEX), rows.schema, options=options) as writer:
        writer.write_table(rows)
    assert f"{INDEX}: is no index of shards (its rows are no plain batches)" in refused(root=tmp_path)


def test_a_message_that_is_no_schema(tmp_path):
    write(tmp_path / "a.tar", tar_of({"a.jpg": small_jpeg(), "a.txt": b"cat"}))
    open_dataset(DataConfig(str(tmp_path)))
    content = (tmp_path / INDEX).read_bytes()
    kind = content.index(b"\x01", content.index(b"\xff\xff\xff\xff") + 8 + 20)  # of the union of headers: 1, a schema
    for number in (0, 2, 3, 17):
        (tmp_path / INDEX).write_bytes(content[:kind] + bytes((number,)) + content[kind + 1 :])
        assert "is no index of shards" in refused(root=tmp_path)


# ---- tars


def sparse() -> bytes:
    """A header of GNU's sparse files that says more follows, and nothing does."""
    header = tars.put(tars.entry(b"S", b"a.jpg", b"").header, "magic", b"ustar  \0")
    return tars.summed(header[:482] + b"\1" + header[483:])


@pytest.mark.parametrize("content", [tars.headers_in_headers(500), sparse()], ids=["headers in headers", "sparse"])
def test_headers_that_tarfile_itself_fails_at(tmp_path, content):
    file = write(tmp_path / "a.tar", content)
    assert f"{file}: cannot be read as a tar" in refused(root=tmp_path)


@pytest.mark.parametrize(
    "member, data, words",
    [
        ("a.json", b'"\\ud800"', "a.json: labels are"),
        ("a.cls", b"999999999", "a label is the class 999999999 from 0, and masks have room for 254"),
    ],
)
def test_labels_that_cannot_be(tmp_path, member, data, words):
    write(tmp_path / "a.tar", tar_of({"a.jpg": small_jpeg(), member: data}))
    with pytest.raises(UserError, match=words):
        open_dataset(DataConfig(str(tmp_path)))


@pytest.mark.parametrize("name", ["²", "٣", "9" * 5000])
def test_digits_that_are_no_place_in_a_list_are_names(tmp_path, name):
    write(tmp_path / "a.tar", tar_of({"a.jpg": small_jpeg(), "a.cls": name.encode()}))
    assert open_dataset(DataConfig(str(tmp_path))).classes.names == (name,)


def test_a_pattern_in_a_list_of_shards(tmp_path):
    write(tmp_path / "list.txt", b"{000..999999}*.tar\n")
    assert "list.txt, line 1: " in (message := refused(root=tmp_path / "list.txt")) and "is a pattern" in message


# ---- label shards


def records_of(folder):
    path = folder / "labels/manifest/a.jsonl"
    return path, [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    "change",
    [
        lambda records: records.reverse(),
        lambda records: records[0].pop("files"),
        lambda records: records[0]["files"].pop(0),
        lambda records: records[0]["files"][0].update(member="x/a0../../b.png"),
        lambda records: records[0]["files"][0].pop("member"),
        lambda records: records[2].update(id="a/x/a0"),
    ],
)
def test_records_of_other_images_are_not_written_again(tmp_path, change):
    labelled(tmp_path)
    path, records = records_of(tmp_path)
    change(records)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    mend(tmp_path / "labels")
    before = (tmp_path / "labels/a.tar").read_bytes()
    with pytest.raises(UserError, match=r"a\.jsonl: holds no records of a job \(others than those of its images\)"):
        go_on(tmp_path, "labels")
    assert (tmp_path / "labels/a.tar").read_bytes() == before
    (tmp_path / "labels/manifest/a.json").unlink()
    go_on(tmp_path, "labels")
    with tarfile.open(tmp_path / "labels/a.tar") as tar:
        assert tar.getnames()[0] == "x/a0.seg.png"


def test_a_place_behind_the_end_of_a_label_shard_takes_no_memory(tmp_path):
    labelled(tmp_path)
    path, records = records_of(tmp_path)
    records[0]["files"][0]["bytes"] = 2**52
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    mend(tmp_path / "labels", bytes=2**53)
    dataset = open_dataset(DataConfig(str(tmp_path / "data"), labels="none", classes="bus,cat,person"))
    part = OutputShards(tmp_path / "labels", dataset, "pplfast label").part(0, ".png")
    with pytest.raises(StorageError, match="ends before byte"):
        part.read()
