"""What the benchmarks of jobs on shards share: commands, goals, and shards as others than pplfast read them."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pplfast.benchmarks.label_data import make_model
from pplfast.benchmarks.object_store import BUCKET
from pplfast.benchmarks.shard_files import CLASSES, DIFFERENT, Sample, tiny_samples, write_shards
from pplfast.data.shard_places import INDEX

LAST_LINES = 2000  # characters of a command's output that are shown where it failed
END_OF_TAR = bytes(2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True)
class Goal:
    """What a figure must be: below the limit, or exact: equal to it."""

    name: str
    value: float
    limit: float
    exact: bool = False

    @property
    def met(self) -> bool:
        return self.value == self.limit if self.exact else self.value < self.limit

    def __str__(self) -> str:
        wanted = "to be" if self.exact else "below"
        return f"{'ok' if self.met else 'FAILED'}: {self.name}: {number(self.value)}, {wanted} {number(self.limit)}"


@dataclass
class Part:
    """What came of one part of the benchmark. rows: figures that are too many to print."""

    figures: dict[str, Any]
    goals: list[Goal]
    rows: dict[str, list[Any]] = field(default_factory=dict)


def number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


# ---- commands


def label_words(data: str, model: Path, out: str) -> list[str]:
    """`pplfast label` as one process per rank and one scale, since the maps do not matter."""
    how = ["--scales", "1", "--no-flip", "--precision", "fp32", "--value", "0.4", "--crf", "none", "--jobs", "1"]
    return ["label", "--data", data, "--model", str(model), "--out", out, *how]


def make_network(folder: Path) -> Path:
    """A small classifier of random weights for the classes of the tiny pictures."""
    make_model(folder, classes=CLASSES)
    return folder


def command(words: Sequence[str], codes: Sequence[int] = (0,)) -> str:
    """What a pplfast command printed, run as one process with one thread. AssertionError for another exit code."""
    line = [sys.executable, "-m", "pplfast", *words]
    done = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode not in codes:
        raise AssertionError(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr[-LAST_LINES:]}")
    return done.stdout


def make_index(data: str) -> None:
    command(["data", "index", "--data", data])


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """For this process and those that it starts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# ---- shards as others read them


class Bucket:
    """Of the local object store, by fsspec alone. Names are those within it."""

    def __init__(self) -> None:
        import fsspec

        self._system = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Bytes of each object in a folder and below."""
        found: dict[str, Any] = self._system.find(f"{BUCKET}/{folder}".rstrip("/"), detail=True)
        return {path.partition("/")[2]: int(detail["size"]) for path, detail in found.items()}

    def read(self, name: str) -> bytes:
        return bytes(self._system.cat_file(f"{BUCKET}/{name}"))

    def unfinished_uploads(self) -> int:
        """Objects that were begun in parts, and neither ended nor given up."""
        return len(self._system.list_multipart_uploads(BUCKET))


def samples(tars: Iterable[str | Path]) -> Iterator[dict[str, Any]]:
    """Of tars on this machine, as the webdataset library reads them, in their order."""
    import webdataset

    yield from webdataset.WebDataset([str(tar) for tar in tars], shardshuffle=False)


def what_is_torn(tar: bytes) -> str:
    """In words, "" for a whole tar: of whole blocks, with its end, and every member of its size."""
    if len(tar) % tarfile.BLOCKSIZE or not tar.endswith(END_OF_TAR):
        return "without its end"
    try:
        with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as file:
            for member in file:
                content = file.extractfile(member)
                if content is None or len(content.read()) != member.size:
                    return f"{member.name} is not whole"
    except tarfile.TarError as error:
        return str(error)
    return ""


def keys_of_shards(images: int, per_shard: int, prefix: str = "images") -> dict[str, list[str]]:
    """The keys in each shard of the tiny pictures, by its name, in their order."""
    keys = [f"{place:07d}" for place in range(images)]
    starts = range(0, images, per_shard)
    return {f"{prefix}-{place:06d}": keys[start : start + per_shard] for place, start in enumerate(starts)}


def undisturbed_labels(folder: Path, model: Path, images: int) -> list[bytes]:
    """The PNG of each of the different pictures, from a run on this machine's disk that nothing happens to."""
    count = min(images, DIFFERENT)
    data, out = folder / "different", folder / "undisturbed"
    write_shards(str(data), tiny_samples(count), count)
    command(label_words(str(data), model, str(out)))
    return [sample["seg.png"] for sample in samples(out.glob("*.tar"))]


@dataclass
class Labels:
    """In a bucket. correct: labels that equal those of the undisturbed run, each at its place. bad: (id, reason) of
    images without. wrong: what is not as it should be, in words. torn: objects that are not whole. other, missing:
    names of objects."""

    correct: int = 0
    bad: list[tuple[str, str]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def show(self) -> None:
        for what, names in (("wrong", self.wrong), ("torn", self.torn), ("not of the job", self.other)):
            for name in names[:5]:
                print(f"{what}: {name}")
        for name in self.missing[:5]:
            print(f"missing: {name}")


def check_labels(
    bucket: Bucket, keys: dict[str, list[str]], expected: Sequence[bytes], folder: Path, images: str, out: str
) -> Labels:
    """Everything that is in the bucket, read object by object.

    keys: of each shard of images. expected: label of each different picture. images, out: the folders in the bucket.
    """
    found, names = Labels(), set(bucket.sizes())
    wanted = {f"{out}/settings.json", f"{images}/{INDEX}"}
    for name, own in keys.items():
        parts = tar, records, mark = [
            f"{out}/{name}.tar",
            f"{out}/manifest/{name}.jsonl",
            f"{out}/manifest/{name}.json",
        ]
        wanted |= {f"{images}/{name}.tar", *parts}
        if names.issuperset(parts):
            data = bucket.read(tar)
            if problem := what_is_torn(data):
                found.torn.append(f"{tar}: {problem}")
                continue
            path = folder / "checked.tar"
            path.write_bytes(data)
            lines = [json.loads(line) for line in bucket.read(records).splitlines()]
            _check_shard(found, name, own, data, list(samples([path])), lines, expected)
            said, text = json.loads(bucket.read(mark)), bucket.read(records)
            if said["tar"] != {"bytes": len(data), "sha256": _digest(data)}:
                found.wrong.append(f"{mark}: is the mark of another tar")
            if said["records"] != {"bytes": len(text), "sha256": _digest(text)}:
                found.wrong.append(f"{mark}: is the mark of other records")
    found.other, found.missing = sorted(names - wanted), sorted(wanted - names)
    return found


def _check_shard(
    found: Labels,
    shard: str,
    keys: list[str],
    tar: bytes,
    made: list[dict[str, Any]],
    records: list[dict[str, Any]],
    expected: Sequence[bytes],
) -> None:
    if [sample["__key__"] for sample in made] != keys:
        found.wrong.append(f"{shard}: the keys are not those of its images, each once and in their order")
    elif [record["id"] for record in records] != [f"{shard}/{key}" for key in keys]:
        found.wrong.append(f"{shard}: the manifest does not have each image once and in its order")
    else:
        for sample, record in zip(made, records, strict=True):
            label = sample.get("seg.png")
            if label is None:
                found.bad.append((record["id"], record["reason"]))
            elif label != expected[int(sample["__key__"]) % DIFFERENT] or record["state"] != "done":
                found.wrong.append(f"{record['id']}: another label than without a disturbance")
            elif not any(_holds(tar, file, label) for file in record["files"]):
                found.wrong.append(f"{record['id']}: its record is of another label")
            else:
                found.correct += 1


def _holds(tar: bytes, file: dict[str, Any], label: bytes) -> bool:
    """Whether a file of a record says where the label lies in the tar, and what it is."""
    start, size = file["offset"], file["bytes"]
    return tar[start : start + size] == label and file["sha256"] == _digest(label)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def with_broken(made: Iterable[Sample], broken: int) -> Iterator[Sample]:
    """The samples, where one's picture is none."""
    for place, (key, contents) in enumerate(made):
        yield key, {**contents, ".jpg": b"no picture"} if place == broken else contents
