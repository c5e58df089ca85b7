"""Damage within tars: fields of headers, records of extended headers, members; with sizes and sums made right again."""

import random
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass

from fuzz.binary import bytes_of
from fuzz.mutate import DIGITS, LARGEST, WORDS

BLOCK = tarfile.BLOCKSIZE
FIELDS = {
    "name": (0, 100), "mode": (100, 8), "uid": (108, 8), "size": (124, 12), "mtime": (136, 12), "type": (156, 1),
    "linkname": (157, 100), "magic": (257, 8), "uname": (265, 32), "devmajor": (329, 8), "prefix": (345, 155),
    "sparse": (386, 97),
}  # fmt: skip
TYPES = b"\x000123456789LKSxgXADMNV\xff"
NUMBERS = (
    b"0", b"1", b"777", b"1000", b"2000", b"17777777777", b"77777777777", b"-1", b"9", b" ", b"\0", b"1_0", b"\xff\xff",
    b"\x80" + bytes(11), b"\x80" + bytes(3) + b"\x7f" + b"\xff" * 7, b"\xff" * 12, b"\x80" + b"\xff" * 11,
    b"\xff" + b"\xff" * 9 + b"\xfe\0", b"\x80" + bytes(9) + b"\x02\0", b"\xd9\xa1",
)  # fmt: skip
NAMES = (
    b"a.jpg", b"b.json", b"one.jpg", b"one.cls", b"one.seg.png", b"./one.jpg", b"d/", b"/a.jpg", b"../a.jpg",
    b"._a.jpg", b".jpg", b"a", b"a..jpg", b"a.jpg\0b", b"\xff.jpg", b"\xed\xa0\x80.jpg", b"x" * 100, b"a/./b.jpg",
    b"", b"a.JPG", b"a\nb.jpg", b"a//b.jpg", b"C:\\a.jpg", "\u0661.jpg".encode(), b"one.txt.jpg", b"%s.jpg",
    b"..jpg", b"a.jpg/",
)  # fmt: skip
KEYS = (
    b"path", b"size", b"linkpath", b"mtime", b"uid", b"charset", b"hdrcharset", b"comment", b"GNU.sparse.major",
    b"GNU.sparse.minor", b"GNU.sparse.map", b"GNU.sparse.size", b"GNU.sparse.realsize", b"GNU.sparse.name",
    b"GNU.sparse.numblocks", b"", b"path ", b"SCHILY.xattr.user.x",
)  # fmt: skip
VALUES = (
    *NAMES, b"0", b"1", b"512", b"-1", b"1.5", b"1e999", b"99999999999999999999", b"BINARY", b"ISO-8859-1", b"1,2,3",
    b"0,512", b"18446744073709551615", b"=", b"\n", b"\0", b"\xd9\xa1",
)  # fmt: skip


@dataclass
class Entry:
    """A header and what follows it, to the end of the last block."""

    header: bytes
    content: bytes


def entries(data: bytes) -> tuple[list[Entry], bytes]:
    """Of a tar that is whole; and what follows its last member."""
    found, at = [], 0
    while data[at : at + 1].strip(b"\0"):
        header = data[at : at + BLOCK]
        end = at + BLOCK + -(-tarfile.nti(header[124:136]) // BLOCK) * BLOCK
        found.append(Entry(header, data[at + BLOCK : end]))
        at = end
    return found, data[at:]


def put(header: bytes, name: str, value: bytes) -> bytes:
    start, width = FIELDS[name]
    return header[:start] + value[:width].ljust(width, b"\0") + header[start + width :]


def summed(header: bytes) -> bytes:
    """With its checksum made right."""
    blank = header[:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(blank) + header[156:]


def entry(kind: bytes, name: bytes, content: bytes) -> Entry:
    header = put(put(bytes(BLOCK), "name", name), "mode", b"0000644")
    header = put(put(header, "size", b"%011o" % len(content)), "type", kind)
    return Entry(summed(put(header, "magic", b"ustar\x0000")), content + bytes(-len(content) % BLOCK))


def record(key: bytes, value: bytes) -> bytes:
    """Of a PAX header, with its own length."""
    size = len(key) + len(value) + 3
    size += len(str(size + len(str(size))))
    return b"%d %b=%b\n" % (size, key, value)


def tar(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    members, end = entries(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 3))):
        place, action = rng.randrange(len(members)) if members else 0, rng.random()
        if action < 0.55 and members:
            members[place].header = _header(rng, members[place].header)
        elif action < 0.65 and members:
            members[place].content = bytes_of(rng, members[place].content)
        elif action < 0.85:
            members.insert(place, _extra(rng))
        elif action < 0.9 and members:
            del members[place]
        elif action < 0.95 and members:
            copy = members[rng.randrange(len(members))]
            members.insert(place, Entry(copy.header, copy.content))
        else:
            end = rng.choice((b"", end[:BLOCK], end * 20, end + b"\1", bytes(BLOCK) + b"\1" * BLOCK, b"".join(seeds)))
    return (b"".join(member.header + member.content for member in members) + end)[:LARGEST]


def _header(rng: random.Random, header: bytes) -> bytes:
    name = rng.choice((*FIELDS, "size", "size", "type", "type", "type", "name", "name"))
    if name == "type":
        value = rng.choice([TYPES[at : at + 1] for at in range(len(TYPES))])
    elif name in ("name", "linkname", "prefix", "uname"):
        value = rng.choice(NAMES) if rng.random() < 0.8 else rng.choice(WORDS).encode("utf-8", "surrogatepass")
    elif name in ("magic", "sparse"):
        value = rng.choice((b"ustar  \0", b"ustar\x0000", b"", rng.randbytes(97), b"\0" * 96 + b"\1", b"7" * 97))
    else:
        value = rng.choice(NUMBERS)
    header = put(header, name, value)
    return summed(header) if rng.random() < 0.95 else header


def _extra(rng: random.Random) -> Entry:
    """Of a header that changes the next one, or of a member that is no file."""
    kind = rng.choice((b"L", b"K", b"x", b"x", b"x", b"g", b"X", b"S", b"2", b"1", b"3", b"6", b"5", b"D", b"V"))
    if kind in (b"x", b"g", b"X"):
        records = [record(rng.choice(KEYS), rng.choice(VALUES)) for _ in range(rng.choice((1, 1, 2, 5)))]
        content = b"".join(records)
        if rng.random() < 0.3:
            content = rng.choice(
                (
                    bytes_of(rng, content),
                    b"0 a=b\n",
                    DIGITS.encode() + b" a=b\n",
                    b"99999 path=a\n",
                    b"-5 path=a\n",
                    b"9",
                )
            )
    elif kind in (b"L", b"K"):
        content = rng.choice((*NAMES, b"long/" * 60 + b"a.jpg", b"a" * 9000 + b".jpg", b"\0", b"a.jpg\0\0"))
    else:
        content = rng.choice((b"", b"x", rng.randbytes(700)))
    made = entry(kind, rng.choice((b"././@LongLink", *NAMES)), content)
    if rng.random() < 0.2:
        made.header = summed(put(made.header, "size", rng.choice(NUMBERS)))
    return made


def headers_in_headers(count: int) -> bytes:
    """Each changes the next one: a reader that calls itself for it ends in a RecursionError."""
    member = entry(b"L", b"././@LongLink", b"a.jpg\0")
    return (member.header + member.content) * count + bytes(2 * BLOCK)
