"""Damage within PNG, TIFF and JPEG files: chunks and segments, with their lengths and sums made right again."""

import random
import struct
import zlib
from collections.abc import Sequence

from fuzz.binary import bytes_of
from fuzz.mutate import INTEGERS, LARGEST

BOMB = zlib.compress(bytes(8_000_000), 9)

# ---- PNG


def png(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Chunks, with their sums: the header's fields, the compressed rows, chunks that do not belong."""
    data = rng.choice(seeds)
    if data[:4] != b"\x89PNG":
        return bytes_of(rng, data)
    chunks, place = [], 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        chunks.append([data[place + 4 : place + 8], data[place + 8 : place + 8 + length]])
        place += 12 + length
    for _ in range(rng.choice((1, 1, 2))):
        action, index = rng.random(), rng.randrange(len(chunks))
        if action < 0.35:
            chunks[0][1] = _header(rng, chunks[0][1])
        elif action < 0.6:
            rows = [number for number, (name, _) in enumerate(chunks) if name == b"IDAT"]
            if rows:
                chunks[rng.choice(rows)][1] = _rows(rng, chunks[rows[0]][1])
        elif action < 0.7:
            chunks[index][1] = bytes_of(rng, chunks[index][1])
        elif action < 0.75 and len(chunks) > 2:
            del chunks[index]
        elif action < 0.8:
            chunks.insert(index, list(chunks[rng.randrange(len(chunks))]))
        else:
            chunks.insert(max(index, 1), _extra(rng))
    parts = [data[:8]]
    for name, content in chunks:
        length = len(content) if rng.random() < 0.97 else rng.choice(INTEGERS) % 2**32
        parts += [struct.pack(">I", length), name, content, struct.pack(">I", zlib.crc32(name + content))]
    return b"".join(parts)[:LARGEST]


def _header(rng: random.Random, header: bytes) -> bytes:
    fields = list(struct.unpack(">IIBBBBB", header[:13].ljust(13, b"\0")))
    choice = rng.randrange(7)
    sides = (0, 1, 2, 30, 41, 5000, 10000, 13000, 30000, 65535, 2**31 - 1, 2**31, 2**32 - 1)
    fields[choice] = rng.choice(sides) if choice < 2 else rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
    if choice < 2 and rng.random() < 0.5:
        fields[0] = fields[1] = rng.choice(sides)
    return struct.pack(">IIBBBBB", *fields)


def _rows(rng: random.Random, content: bytes) -> bytes:
    try:
        rows = zlib.decompress(content)
    except zlib.error:
        return bytes_of(rng, content)
    if rng.random() < 0.2:
        return BOMB
    return zlib.compress(rng.choice((bytes_of(rng, rows), rows[: len(rows) // 2], b"", rng.randbytes(len(rows)))))


def _extra(rng: random.Random) -> list[bytes]:
    return list(
        rng.choice(
            (
                (b"iCCP", b"x\0\0" + BOMB), (b"zTXt", b"x\0\0" + BOMB), (b"iTXt", b"x\0\1\0\0\0" + BOMB),
                (b"tEXt", b"x\0" + b"y" * 9000),
                (b"PLTE", bytes(768)), (b"PLTE", bytes(5)), (b"tRNS", bytes(300)),
                (b"eXIf", b"Exif\0\0II*\0\xff\xff\xff\xff"), (b"gAMA", b""),
                (b"cHRM", b"\0"), (b"pHYs", b"\0"), (b"acTL", struct.pack(">II", 2**31, 0)), (b"fcTL", bytes(26)),
                (b"fdAT", b"\0\0\0\1"),
                (b"IEND", b""), (b"IHDR", bytes(13)), (b"sRGB", b""), (b"\0\0\0\0", b""), (b"quux", b"z" * 100),
            )
        )
    )  # fmt: skip


# ---- TIFF


TAGS = (
    254, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322, 324, 330, 338, 339, 32997
)  # fmt: skip


def tiff(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Entries of the first directory: their tags, types, counts and values, and where the directories are."""
    data = bytearray(rng.choice(seeds))
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return bytes_of(rng, bytes(data))
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(order + "I", data, 4)
    if at + 2 > len(data):
        return bytes_of(rng, bytes(data))
    (count,) = struct.unpack_from(order + "H", data, at)
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = at + 2 + 12 * rng.randrange(max(1, count))
        action = rng.random()
        if place + 12 > len(data):
            return bytes_of(rng, bytes(data))
        if action < 0.45:
            value = rng.choice(INTEGERS) if rng.random() < 0.7 else rng.randrange(16)
            struct.pack_into(order + "I", data, place + 8, value % 2**32)
        elif action < 0.6:
            struct.pack_into(order + "I", data, place + 4, rng.choice(INTEGERS) % 2**32)
        elif action < 0.7:
            struct.pack_into(order + "H", data, place + 2, rng.choice((0, 1, 2, 3, 4, 5, 7, 11, 12, 13, 16, 99)))
        elif action < 0.85:
            struct.pack_into(order + "H", data, place, rng.choice(TAGS))
        elif action < 0.95:  # the next directory is this one, or nowhere
            end = at + 2 + 12 * count
            if end + 4 <= len(data):
                struct.pack_into(order + "I", data, end, rng.choice((at, 0, 8, len(data) - 1, 2**32 - 1)))
        else:
            return bytes_of(rng, bytes(data))
    return bytes(data)


# ---- JPEG


def jpeg(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Segments: the frame's fields, tables, segments that do not belong, the coded data."""
    data = rng.choice(seeds)
    if data[:2] != b"\xff\xd8":
        return bytes_of(rng, data)
    segments, place = [], 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        segments.append([data[place + 1], data[place + 4 : place + 2 + length]])
        place += 2 + length
    scan = data[place:]
    for _ in range(rng.choice((1, 1, 2))):
        action, index = rng.random(), rng.randrange(len(segments)) if segments else 0
        frames = [number for number, (code, _) in enumerate(segments) if code in (0xC0, 0xC1, 0xC2)]
        if action < 0.3 and frames:
            segments[frames[0]][1] = _frame(rng, segments[frames[0]][1])
        elif action < 0.5 and segments:
            segments[index][1] = bytes_of(rng, segments[index][1])
        elif action < 0.6 and segments:
            segments[index][0] = rng.choice(
                (0xC0, 0xC2, 0xC3, 0xC4, 0xC9, 0xDB, 0xDD, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE, 0xD8, 0x01)
            )
        elif action < 0.7:
            segments.insert(index, _segment(rng))
        elif action < 0.75 and segments:
            del segments[index]
        else:
            scan = bytes_of(rng, scan)
    parts = [b"\xff\xd8"]
    for code, content in segments:
        parts += [b"\xff", bytes((code,)), struct.pack(">H", min(len(content) + 2, 65535)), content[:65533]]
    return b"".join([*parts, scan])[:LARGEST]


def _frame(rng: random.Random, content: bytes) -> bytes:
    sides = (0, 1, 2, 8, 5000, 10000, 13000, 40000, 65535)
    depth, height, width, count = struct.unpack(">BHHB", content[:6].ljust(6, b"\0"))
    choice = rng.randrange(5)
    if choice == 0:
        depth = rng.choice((0, 1, 8, 12, 16, 255))
    elif choice in (1, 2):
        height, width = rng.choice(sides), rng.choice(sides)
    elif choice == 3:
        count = rng.choice((0, 1, 2, 3, 4, 5, 255))
    rest = bytes_of(rng, content[6:]) if choice == 4 else content[6:]
    return struct.pack(">BHHB", depth, height, width, count) + rest


def _segment(rng: random.Random) -> list[int | bytes]:
    return list(
        rng.choice(
            (
                (0xE1, b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\x01\3\0\1\0\0\0\6\0\0\0\0\0\0\0"),
                (0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
                (0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\1\x12\0\3" * 40), (0xE1, b"Exif\0\0"), (0xE1, b""),
                (0xE1, b"Exif\0\0" + b"x" * 60000),
                (0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff"), (0xE2, b"ICC_PROFILE\0\1\2" + b"\0" * 99),
                (0xEE, b"Adobe\0d\0\0\0\0\2"), (0xED, b"Photoshop 3.0\x008BIM"),
                (0xDD, b"\0\1"), (0xDD, b""), (0xFE, b"comment"), (0xE0, b"JFIF\0\1\1\1\0\0\0\0\0\0"), (0xDB, b""),
                (0xC4, b"\0" + b"\xff" * 16),
            )
        )
    )  # fmt: skip
