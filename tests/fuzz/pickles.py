"""Contents of .npy files that have been used, or could be, against a reader of pickles. Nothing here does harm when it
is run: at worst the process dies, or a file of the reader's own folder appears."""

import io
import pickle
import struct

import numpy as np


def as_npy(pickled: bytes, descr: str = "|O", shape: str = "()") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + pickled


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(value, dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word)) + word.encode()


DTYPE = b"cnumpy\ndtype\n"
SCALAR = b"cnumpy._core.multiarray\nscalar\n"
RECONSTRUCT = b"cnumpy._core.multiarray\n_reconstruct\n"
NDARRAY = b"cnumpy\nndarray\n"


def _dtype(word: str, state: bytes = b"") -> bytes:
    """dtype(word, False, True), with a state behind it."""
    made = DTYPE + b"(" + _text(word) + b"\x89\x88tR"
    return made + (state + b"b" if state else b"")


def _state(
    names: bytes = b"N", fields: bytes = b"N", size: bytes = b"J\xff\xff\xff\xff", flags: bytes = b"K\0"
) -> bytes:
    return b"(K\3" + _text("|") + b"N" + names + fields + size + b"J\xff\xff\xff\xff" + flags + b"t"


def _dict(value: bytes) -> bytes:
    return b"\x80\2}" + _text("2007_000032") + value + b"s."


def _array(shape: bytes, dtype: bytes, content: bytes) -> bytes:
    empty = RECONSTRUCT + b"(" + NDARRAY + b"(K\0tC\1btR"
    return empty + b"(K\1" + shape + dtype + b"\x89" + content + b"tb"


EIGHT = b"C\x08AAAAAAAA"
LEVELS = b"".join(
    b"(" + b"h" + bytes((level,)) * 1 + (b"h" + bytes((level,))) * 9 + b"t" + b"\x94" for level in range(9)
)

HOSTILE = tuple(
    as_npy(content)
    for content in (
        _dict(SCALAR + b"(" + _dtype("O8", _state()) + EIGHT + b"tR"),  # eight bytes taken for a pointer
        _dict(SCALAR + b"(" + _dtype("O8") + EIGHT + b"tR"),
        _dict(SCALAR + b"(" + _dtype("V8", _state(size=b"K\x08", flags=b"K\x3f")) + EIGHT + b"tR"),
        _dict(_array(b"(K\1t", _dtype("O8", _state()), EIGHT)),
        _dict(_array(b"(J\xff\xff\xff\x7ft", _dtype("f8"), EIGHT)),  # 16 GB, for eight bytes
        _dict(NDARRAY + b"(J\xff\xff\xff\x7f\x85tR"),
        _dict(NDARRAY + b"(J\0\0\0\x10\x85tR"),
        _dict(DTYPE + b"(" + _text("V2147483647") + b"tR"),
        _dict(b"cos\nsystem\n(" + _text("touch executed") + b"tR"),
        _dict(b"cbuiltins\neval\n(" + _text("open('executed', 'w')") + b"tR"),
        _dict(b"cnumpy\nload\n(" + _text("x.npy") + b"tR"),
        _dict(b"c_codecs\nencode\n(" + _text("A" * 9) + _text("rot13") + b"tR"),
        _dict(b"c_codecs\nencode\n(" + _text("A" * 9) + _text("zlib") + b"tR"),
        b"\x80\4(h\0" + b"\x94" + b"t\x94" + LEVELS + b".",
        b"\x80\4)\x94" + LEVELS + b".",  # a tuple of tuples of tuples: ten to the ninth references
        _dict(b"]" * 20000),
        _dict(b"(" * 50000),
        b"\x80\4}\x94h\0h\0h\0s.",
        _dict(b"]\x94h\0a"),
        pickle.dumps([1, 2, 3]),
        pickle.dumps({b"a": 1}),
        pickle.dumps({1: {2: {3: 4}}}),
        b"\x8e" + b"\xff" * 7 + b"\x7f",
        b"\x80\2}r\xff\xff\xff\x7f.",  # a memo of two billion entries
        b"",
    )
)
