"""Damage within npz, npy, pickles, safetensors and .pth, with lengths and sums made right again: what lies below them
is reached."""

import io
import pickletools
import random
import re
import struct
import zipfile
from collections.abc import Callable, Sequence

from fuzz.mutate import INTEGERS, LARGEST, PLAIN
from fuzz.trees import damaged_json

Damage = Callable[[random.Random, bytes], bytes]


def bytes_of(rng: random.Random, data: bytes) -> bytes:
    return rng.choice(PLAIN)(rng, data)


# ---- zip


def zipped(damage: Callable[[random.Random, str, bytes], bytes]) -> Callable[[random.Random, Sequence[bytes]], bytes]:
    """Members of an archive damaged by name, left out, renamed, doubled; written with the right sums."""

    def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
        with zipfile.ZipFile(io.BytesIO(rng.choice(seeds))) as archive:
            members = [[name, archive.read(name)] for name in archive.namelist()]
        for _ in range(rng.choice((1, 1, 2))):
            place = rng.randrange(len(members)) if members else 0
            action = rng.random()
            if not members:
                break
            if action < 0.85:
                members[place][1] = damage(rng, *members[place])
            elif action < 0.9:
                del members[place]
            elif action < 0.95:
                members[place][0] = rng.choice(("x", "", "../x", "a" * 300, members[place][0] + "x"))
            else:
                members.insert(place, [members[place][0], members[rng.randrange(len(members))][1]])
        buffer = io.BytesIO()
        kind = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        with zipfile.ZipFile(buffer, "w", kind) as archive:
            for name, data in members:
                archive.writestr(zipfile.ZipInfo(name), data, kind)
        return buffer.getvalue()[:LARGEST]

    return mutate


# ---- .npy and pickles

DTYPES = ("'<f2'", "'<f4'", "'<f8'", "'>f4'", "'<i2'", "'<i8'", "'<u8'", "'|b1'", "'|u1'", "'|O'", "'|V8'", "'<U9'",
    "'<c8'", "'<M8[D]'",
          "'|S5'", "''", "'<f'", "'x'", "0", "[('a', '<f4')]", "[('a', '<f4', (9, 9))]", "[('a', '|O')]",
          "'<U999999999'",
          "'|V2147483647'", "'[' * 9", "{'a': 1}", "'f2,f2'", "None")  # fmt: skip
SHAPES = ("()", "(0,)", "(1,)", "(3,)", "(2, 10, 14)", "(10, 2, 14)", "(-1,)", "(1000000000,)", "(1000000, 1000000)",
    "(9223372036854775807,)",
          "(9223372036854775808,)", "(0, 9223372036854775807)", "(1,) * 99", "3", "'a'", "(1.5,)", "(True,)", "None",
          "[1]",
          f"({'1, ' * 40})", f"({'9' * 5000},)", "(" * 300)  # fmt: skip


def npy(rng: random.Random, data: bytes) -> bytes:
    """The header's words, or the data behind it."""
    if data[:6] != b"\x93NUMPY" or len(data) < 12:
        return bytes_of(rng, data)
    length = int.from_bytes(data[8:10], "little")
    header, rest = data[10 : 10 + length].decode("latin1"), data[10 + length :]
    action = rng.random()
    if action < 0.3:
        header = re.sub(r"('descr': )('[^']*'|\[.*?\])", lambda found: found[1] + rng.choice(DTYPES), header)
    elif action < 0.6:
        header = re.sub(r"('shape': )\([^)]*\)", lambda found: found[1] + rng.choice(SHAPES), header)
    elif action < 0.7:
        place = rng.randrange(len(header))
        header = (
            header[:place]
            + rng.choice(("(", "'", '"""', "\n", "\\", "[" * 200, "1e999", "#", "\0", "}"))
            + header[place + 1 :]
        )
    elif action < 0.75:
        header = header.replace("False", rng.choice(("True", "0", "None", "'a'")))
    else:
        rest = floats(rng, rest) if rng.random() < 0.5 else bytes_of(rng, rest)
    header = header.rstrip()
    header += " " * (-(len(header) + 11) % 64) + "\n"
    if rng.random() < 0.1:
        return (
            data[:6] + rng.choice((b"\2\0", b"\3\0")) + struct.pack("<I", len(header)) + header.encode("latin1") + rest
        )
    return data[:8] + struct.pack("<H", len(header) & 0xFFFF) + header.encode("latin1") + rest


def floats(rng: random.Random, data: bytes) -> bytes:
    """NaN, infinities and huge values in place of some numbers."""
    layout = rng.choice(("e", "f", "d"))
    value = struct.pack(f"<{layout}", rng.choice((float("nan"), float("inf"), float("-inf"), -1.0, 6e4)))
    place = rng.randrange(len(data) + 1) // len(value) * len(value)
    times = rng.choice((1, 1, 1 + len(data) // len(value)))
    return (data[:place] + value * times + data[place + len(value) * times :])[: max(len(data), 64)]


PIECES = tuple(
    bytes(piece)
    for piece in (
        b".", b"0", b"1", b"2", b"N", b"}", b"]", b")", b"(", b"t", b"d", b"l", b"R", b"b", b"a", b"s", b"u", b"e",
        b"\x81", b"\x85", b"\x86",
        b"\x87", b"\x94", b"Q", b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cnumpy._core.multiarray\n_reconstruct\n",
        b"cnumpy._core.multiarray\nscalar\n", b"cnumpy.core.multiarray\nscalar\n", b"cos\nsystem\n",
        b"cbuiltins\neval\n", b"c__main__\nx\n",
        b"cnumpy._core.numeric\n_frombuffer\n", b"c_codecs\nencode\n", b"ccollections\nOrderedDict\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"X\2\0\0\0O8", b"X\2\0\0\0f8", b"X\3\0\0\0V99", b"X\1\0\0\0|", b"X\1\0\0\0b", b"X\6\0\0\0latin1",
        b"X\5\0\0\0rot13",
        b"J\xff\xff\xff\xff", b"J\xff\xff\xff\x7f", b"K\0", b"K\1", b"K\3", b"G\x7f\xf8\0\0\0\0\0\0",
        b"\x8a\x09" + b"\xff" * 8 + b"\0",
        b"I" + b"9" * 5000 + b"\n", b"C\x08" + b"A" * 8, b"B\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 7 + b"\x7f",
        b"h\0", b"h\7", b"j\xff\xff\xff\xff",
        b"r\xff\xff\xff\x7f", b"\x95" + b"\xff" * 8, b"P0\n", b"(" * 3000, b"]" * 3000, b")" * 3000, b"\x8f", b"\x93",
        b"\x97", b"\x98",
    )
)  # fmt: skip


def pickled(rng: random.Random, data: bytes) -> bytes:
    """Opcodes left out, doubled, swapped, put in, or with another argument; what follows the pickle stays."""
    try:
        places = [place for _, _, place in pickletools.genops(data)]
    except Exception:  # it is damaged already
        return bytes_of(rng, data)
    end = places[-1] + 1
    codes = [data[start:stop] for start, stop in zip(places, [*places[1:], end])]
    for _ in range(rng.choice((1, 1, 2, 3))):
        place = rng.randrange(len(codes))
        action = rng.random()
        if action < 0.35:
            codes.insert(place, rng.choice(PIECES))
        elif action < 0.6:
            codes[place] = rng.choice(PIECES)
        elif action < 0.7 and len(codes) > 1:
            del codes[place]
        elif action < 0.8:
            codes.insert(place, codes[rng.randrange(len(codes))])
        elif action < 0.9:
            other = rng.randrange(len(codes))
            codes[place], codes[other] = codes[other], codes[place]
        else:
            codes[place] = codes[place][:1] + bytes_of(rng, codes[place][1:])
    return b"".join(codes) + data[end:]


def npy_pickle(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """A .npy file of a pickled dict: the pickle, or the header."""
    data = rng.choice(seeds)
    if data[:6] != b"\x93NUMPY" or rng.random() < 0.15:
        return npy(rng, data)
    start = 10 + int.from_bytes(data[8:10], "little")
    return (data[:start] + pickled(rng, data[start:]))[:LARGEST]


def _npz_member(rng: random.Random, name: str, data: bytes) -> bytes:
    return npy(rng, data)


npz = zipped(_npz_member)


# ---- weights


def safetensors(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """The JSON header under its own length, or the data."""
    data = rng.choice(seeds)
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data):
        return bytes_of(rng, data)
    header, rest = data[8 : 8 + length], data[8 + length :]
    if rng.random() < 0.7:
        header = damaged_json(rng, header.decode("utf-8", "replace")).encode("utf-8", "surrogatepass")
    elif rng.random() < 0.5:
        rest = floats(rng, rest)
    else:
        rest = bytes_of(rng, rest)
    length = len(header) if rng.random() < 0.95 else rng.choice(INTEGERS)
    return (length.to_bytes(8, "little") + header + rest)[:LARGEST]


def _torch_member(rng: random.Random, name: str, data: bytes) -> bytes:
    return pickled(rng, data) if name.endswith(".pkl") else bytes_of(rng, data)


torch_zip = zipped(_torch_member)


def torch_file(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """.pth of today (zip) or of old (pickles in a row)."""
    data = rng.choice(seeds)
    if data[:2] == b"PK":
        return torch_zip(rng, [data])
    # The old form begins with pickles of a magic number, a version and the system; the tensors' comes fourth.
    stream = io.BytesIO(data)
    starts = [0]
    try:
        while len(starts) < 4:
            for _ in pickletools.genops(stream):
                pass
            starts.append(stream.tell())
    except ValueError:  # it is damaged already
        pass
    start = rng.choice(starts) if rng.random() < 0.3 else starts[-1]
    return (data[:start] + pickled(rng, data[start:]))[:LARGEST]
