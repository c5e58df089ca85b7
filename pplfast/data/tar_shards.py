"""The samples of a tar shard, as WebDataset defines them: successive members that are alike up to the first dot of
their last component; what follows that dot is the suffix, and says what a member is.

An image has one of `names.SUFFIXES`, its mask MASK_SUFFIX, its labels one of `shard_labels.LABEL_SUFFIXES`; other
members are passed over. Links and devices with such a suffix are refused: a link's bytes lie elsewhere.
"""

import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field

from pplfast.data.names import SUFFIXES
from pplfast.data.shard_labels import LABEL_SUFFIXES, LARGEST_MEMBER, member_labels
from pplfast.data.shard_rows import NONE, Rows, check_key, raw_shard, read_ahead
from pplfast.errors import UserError
from pplfast.reading import quoted, shortened
from pplfast.storage import Found, StorageError

MASK_SUFFIX = ".seg.png"
_USED = {*SUFFIXES, *LABEL_SUFFIXES, MASK_SUFFIX}
_NAME = re.compile(r"((?:.*/|)[^.]+)([.][^/]*)", re.DOTALL)  # WebDataset's own
_LARGEST_READ = 2**20 + tarfile.BLOCKSIZE  # bytes: of label files, and of headers that are longer than a block
_PADDING = 2**20  # bytes of zeros that a tar may end with
# What tarfile lets out of damaged headers, and of headers of headers without an end.
_DAMAGED = (StorageError, OSError, tarfile.TarError, ValueError, OverflowError, IndexError, RecursionError)
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}


@dataclass
class _Sample:
    """images: by suffix as it is written. members: bytes of label files by suffix, None for one that is too large."""

    key: str
    images: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    mask: tarfile.TarInfo | None = None
    members: dict[str, bytes | None] = field(default_factory=dict)
    suffixes: set[str] = field(default_factory=set)


class _Reader(io.BufferedReader):
    """Of a tar from a stranger: the size of a header that is longer than a block is what the file says."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _LARGEST_READ:
            raise tarfile.ReadError("a header of more than a megabyte")
        return super().read(size)


def tar_rows(shard: Found) -> Rows:
    """UserError, which names the shard, where it cannot be read to its end, or holds what cannot be an image's name."""
    rows, seen = Rows(), set[str]()
    try:
        with _Reader(raw_shard(shard), read_ahead(shard)) as file:
            for sample in _samples(file, shard):
                _add(rows, seen, sample, shard)
    except _DAMAGED as error:
        raise UserError(f"{shard.path}: cannot be read as a tar ({shortened(str(error))}); restore it") from None
    return rows


def _add(rows: Rows, seen: set[str], sample: _Sample, shard: Found) -> None:
    where, key = f"{shard.path}/{sample.key}", sample.key
    if not sample.images:
        rows.without_image += 1
        return
    if len(sample.images) > 1:
        raise UserError(
            f"{where}: has the images {' and '.join(sorted(sample.images))}; leave one in the shard, and name a mask "
            f"{MASK_SUFFIX}"
        )
    [(suffix, image)] = sample.images.items()
    check_key(key, suffix, shard.path)
    plain = key.removeprefix("./")
    if plain in seen:
        raise UserError(
            f"{shard.path}: the key {quoted(key)} occurs again after others; put the members of a sample side by side, "
            "and give each sample a key of its own"
        )
    seen.add(plain)
    mask = (sample.mask.offset_data, sample.mask.size) if sample.mask else (NONE, NONE)
    rows.rows.append((key, suffix, image.offset_data, image.size, *mask, member_labels(sample.members, where)))


def _samples(file: io.BufferedReader, shard: Found) -> Iterator[_Sample]:
    sample = None
    for member in _members(file, shard):
        name = _NAME.fullmatch(member.name)
        if name is None:  # a folder; "._a.jpg", which macOS adds
            continue
        key, written = name.groups()
        if sample is None or key != sample.key:
            if sample is not None:
                yield sample
            sample = _Sample(key)
        suffix = written.lower()
        if suffix in _USED:
            _take(sample, suffix, written, member, file, shard)
    if sample is not None:
        yield sample


def _take(
    sample: _Sample, suffix: str, written: str, member: tarfile.TarInfo, file: io.BufferedReader, shard: Found
) -> None:
    if member.isdir():
        return
    if not member.isreg() or member.issparse():
        raise UserError(
            f"{shard.path}: {quoted(member.name)} is a link, a sparse file or a device; write the tar with the file's "
            "own bytes (tar --dereference --hard-dereference)"
        )
    if suffix in sample.suffixes:
        raise UserError(f"{shard.path}: {quoted(member.name)} is there twice; write the shard again with one of them")
    sample.suffixes.add(suffix)
    if suffix in LABEL_SUFFIXES:
        sample.members[suffix] = _content(file, member)
    elif suffix == MASK_SUFFIX:
        sample.mask = member
    else:
        sample.images[written] = member


def _content(file: io.BufferedReader, member: tarfile.TarInfo) -> bytes | None:
    if member.size > LARGEST_MEMBER:
        return None
    file.seek(member.offset_data)
    return file.read(member.size)


def _members(file: io.BufferedReader, shard: Found) -> Iterator[tarfile.TarInfo]:
    """Python's tarfile takes a damaged header after the first for the end, so the end is looked at here."""
    compressed = _COMPRESSED.get(file.read(2))
    file.seek(0)
    if compressed:
        raise UserError(f"{shard.path}: is compressed ({compressed}), so its members have no offsets; decompress it")
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # it would hold all of them
            if member.size < 0 or member.offset_data + member.size > shard.size:
                raise UserError(f"{shard.path}: ends within {quoted(member.name)}; make it whole, as by a new copy")
            yield member
        _check_end(file, tar.offset, shard)


def _check_end(file: io.BufferedReader, offset: int, shard: Found) -> None:
    left = shard.size - offset
    if left < tarfile.BLOCKSIZE:
        raise UserError(f"{shard.path}: has no end mark, so members may be missing; make it whole, as by a new copy")
    file.seek(offset)
    if left > _PADDING or any(file.read(left)):
        raise UserError(
            f"{shard.path}: is damaged at byte {offset}, or is several tars in one; restore it, or write it as one tar"
        )
