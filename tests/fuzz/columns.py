"""Damage within Parquet and Arrow files: the footer, the pages and their headers, metadata, values; at offsets and with
lengths that are right again."""

import base64
import copy
import io
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from fuzz import thrift
from fuzz.binary import bytes_of
from fuzz.mutate import INTEGERS, LARGEST, WORDS, Mutator
from fuzz.thrift import Field
from fuzz.trees import damaged_json

MAGIC = b"PAR1"
# Numbers of fields in the format's parquet.thrift.
ROW_GROUPS, COLUMNS, META, KEY_VALUES = 4, 1, 3, 5
COMPRESSED_SIZE, DATA_OFFSET, DICTIONARY_OFFSET = 7, 9, 11
PAGE_KIND, PAGE_SIZE, DICTIONARY = 1, 3, 2


@dataclass
class Page:
    header: list[Field]
    body: bytes


@dataclass
class Chunk:
    """Of one column in one row group. meta: its place in the footer."""

    meta: list[Field]
    pages: list[Page] = field(default_factory=list)


def read_parquet(data: bytes) -> tuple[list[Field], list[Chunk]]:
    size = int.from_bytes(data[-8:-4], "little")
    footer = thrift.Reader(data, len(data) - 8 - size).struct()
    chunks = []
    for group in thrift.get(footer, ROW_GROUPS).value:
        for column in thrift.get(group.value, COLUMNS).value:
            chunk = Chunk(thrift.get(column.value, META).value)
            numbers = {part.number: part.value for part in chunk.meta}
            at = numbers.get(DICTIONARY_OFFSET, numbers[DATA_OFFSET])
            end = at + numbers[COMPRESSED_SIZE]
            while at < end:
                reader = thrift.Reader(data, at)
                header = reader.struct()
                body = reader.take(thrift.get(header, PAGE_SIZE).value)
                chunk.pages.append(Page(header, body))
                at = reader.at
            chunks.append(chunk)
    return footer, chunks


def write_parquet(
    footer: list[Field], chunks: list[Chunk], damage: Callable[[list[Field]], None] = lambda footer: None
) -> bytes:
    """damage: called with the footer once its offsets are right."""
    data = MAGIC
    for chunk in chunks:
        begin, values = len(data), None
        for page in chunk.pages:
            kind = thrift.get(page.header, PAGE_KIND)
            if values is None and kind is not None and kind.value != DICTIONARY:
                values = len(data)
            data += thrift.write_struct(page.header) + page.body
        places = {DATA_OFFSET: values or begin, DICTIONARY_OFFSET: begin, COMPRESSED_SIZE: len(data) - begin}
        for number, value in places.items():
            if there := thrift.get(chunk.meta, number):
                there.value = value
    damage(footer)
    written = thrift.write_struct(footer)
    return data + written + len(written).to_bytes(4, "little") + MAGIC


def _damage_struct(rng: random.Random, fields: list[Field]) -> None:
    """One field of it, or of what is in it."""
    places = thrift.inside(fields)
    if not places:
        return
    within, place = rng.choice(places)
    one, action = within[place], rng.random()
    if action < 0.1:
        del within[place]
    elif action < 0.15:
        within.insert(place, copy.deepcopy(one))
    elif action < 0.2 and one.number:  # 0: of a list
        one.number = rng.choice((1, 2, 3, 5, 8, 9, 14, 100, 32767))
    elif one.kind in thrift.INTEGERS:
        own = one.value
        one.value = rng.choice((*range(-2, 12), *INTEGERS, -(2**31), -(2**63), own + 1, own - 1, own * 2))
    elif one.kind in (thrift.TRUE, thrift.FALSE):
        one.value = not one.value
    elif one.kind == thrift.BINARY:
        if rng.random() < 0.2:
            one.claimed = rng.choice(INTEGERS)
        else:
            word = rng.choice(WORDS).encode("utf-8", "surrogatepass")
            one.value = rng.choice((bytes_of(rng, one.value), bytes_of(rng, one.value), word))
    elif one.kind == thrift.LIST and rng.random() < 0.4:
        one.claimed = rng.choice(INTEGERS)
    elif one.kind == thrift.LIST and one.value:
        one.value[0:0] = [copy.deepcopy(one.value[-1]) for _ in range(rng.choice((1, 3, 200)))]
    elif one.kind == thrift.STRUCT:
        one.value = []


def parquet(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Headers of pages, their contents, a page too many, or the footer."""
    footer, chunks = read_parquet(rng.choice(seeds))
    pages = [page for chunk in chunks for page in chunk.pages]
    action, times = rng.random(), rng.choice((1, 1, 2, 3))
    for _ in range(times):
        page = rng.choice(pages)
        if action < 0.35:
            _damage_struct(rng, page.header)
        elif action < 0.6:
            page.body = bytes_of(rng, page.body)
            if rng.random() < 0.8:
                thrift.get(page.header, PAGE_SIZE).value = len(page.body)
        elif action < 0.65:
            rng.choice(chunks).pages.insert(0, copy.deepcopy(page))

    def damage(footer: list[Field]) -> None:
        for _ in range(times if action >= 0.65 else 0):
            if rng.random() < 0.3:
                _damage_metadata(rng, footer)
            else:  # what is said of one column, which is a small part of the footer, as often as all of it
                _damage_struct(rng, rng.choice(chunks).meta if rng.random() < 0.5 else footer)

    return write_parquet(footer, chunks, damage)[:LARGEST]


def _damage_metadata(rng: random.Random, footer: list[Field]) -> None:
    """What `datasets` says of the columns, or Arrow's own schema."""
    pairs = thrift.get(footer, KEY_VALUES)
    for pair in pairs.value if pairs else ():
        key, value = thrift.get(pair.value, 1), thrift.get(pair.value, 2)
        if not key or not value or rng.random() < 0.3:
            continue
        if key.value == b"huggingface":
            value.value = damaged_json(rng, value.value.decode("utf-8", "replace")).encode("utf-8", "surrogatepass")
        elif key.value == b"ARROW:schema":
            value.value = base64.b64encode(bytes_of(rng, base64.b64decode(value.value + b"==")))


# ---- the index

NUMBERS = (*INTEGERS, -1, -2, -(2**63), -(2**31), 512, 513, 1536, 10240)
KEYS = ("../a", "/a", "a/../b", "a/./b", "./a", "a//b", ".jpg", "x/one", "two", "%2E", "a/", "%25", *WORDS)
LABELS = ([], ["0"], ["999999999"], ["cat"], [None], ["\u00b2"], ["-1"], ["cat"] * 300)


def index(metadata: bytes, fields: Sequence[tuple[str, pa.DataType]]) -> Mutator:
    """Metadata, columns and values of an index of shards, written again by Arrow. metadata: its key in the schema."""

    def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
        table = pa.ipc.open_file(rng.choice(seeds)).read_all()
        said, action = table.schema.metadata[metadata].decode(), rng.random()
        columns = {name: (kind, table.column(name).to_pylist()) for name, kind in fields}
        if action < 0.3:
            said = damaged_json(rng, said)
        elif action < 0.5:  # path, name, size or stamp of a shard
            tree = json.loads(said)
            shard, place = rng.choice(tree["shards"]), rng.randrange(4)
            shard[place] = rng.choice(("../x.tar", "/etc/passwd", "b.tar", *WORDS) if place < 2 else NUMBERS)
            said = json.dumps(tree)
        else:
            for _ in range(rng.choice((1, 1, 2, 5))):
                kind, values = rng.choice(list(columns.values()))
                values[rng.randrange(len(values))] = _odd(rng, kind)
        if rng.random() < 0.05:
            del columns[rng.choice(list(columns))]
        elif rng.random() < 0.1:
            name = rng.choice(list(columns))
            columns[name] = pa.string(), [None if value is None else str(value) for value in columns[name][1]]
        data = _written(rng, columns, {metadata: said.encode("utf-8", "surrogatepass")})
        return (bytes_of(rng, data) if rng.random() < 0.1 else data)[:LARGEST]

    return mutate


def _odd(rng: random.Random, kind: pa.DataType) -> object:
    if rng.random() < 0.1:
        return None
    if kind == pa.string():
        return rng.choice(KEYS)
    if kind in (pa.int32(), pa.int64()):
        most = 2 ** (kind.bit_width - 1)
        return rng.choice([number for number in NUMBERS if -most <= number < most])
    return rng.choice((*LABELS, [rng.choice(WORDS)]))


def _written(rng: random.Random, columns: dict[str, tuple[pa.DataType, list]], metadata: dict[bytes, bytes]) -> bytes:
    schema = pa.schema([(name, kind) for name, (kind, _) in columns.items()], metadata)
    batch = pa.RecordBatch.from_arrays([pa.array(values, kind) for kind, values in columns.values()], schema=schema)
    size = rng.choice((1, 2, 100))
    batches = [batch.slice(at, size) for at in range(0, batch.num_rows, size)]
    buffer = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression="zstd" if rng.random() < 0.05 else None)
    with pa.ipc.new_file(buffer, schema, options=options) as writer:
        for part in [*batches, rng.choice(batches)] if rng.random() < 0.1 else batches:
            writer.write_batch(part)
    return buffer.getvalue()
