"""Pickles written opcode by opcode: what no pickler would write, and what picklers of other times wrote."""

import struct


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def whole(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + tuple_of(*arguments) + b"R"


def raw(data: bytes) -> bytes:
    """bytes, as protocol 2 writes them."""
    return call(name("_codecs", "encode"), text(data.decode("latin-1")), text("latin1"))


def dtype(kind: str, *state: bytes) -> bytes:
    """state: its items behind the version and the byte order; none: without a state."""
    made = call(name("numpy", "dtype"), text(kind), b"\x89", b"\x88")
    return made + tuple_of(whole(3 if len(state) == 6 else 4), text("|"), *state) + b"b" if state else made


def flags(value: int) -> tuple[bytes, ...]:
    return (b"N", b"N", b"N", whole(-1), whole(-1), whole(value))


def scalar(kind: bytes, data: bytes) -> bytes:
    return call(name("numpy.core.multiarray", "scalar"), kind, data)


def empty_array(*shape: int) -> bytes:
    made = tuple_of(*(whole(side) for side in shape))
    return call(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), made, raw(b"b"))


def array(kind: bytes, shape: tuple[int, ...], data: bytes) -> bytes:
    sides = tuple_of(*(whole(side) for side in shape))
    return empty_array(0) + tuple_of(whole(1), sides, kind, b"\x89", data) + b"b"


def npy(pickle: bytes, header: str = "{'descr': '|O', 'fortran_order': False, 'shape': (), }") -> bytes:
    head = header.encode("latin-1") + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + pickle


def dict_of(value: bytes, key: bytes = text("a")) -> bytes:
    """A file with a dict of one value."""
    return npy(b"\x80\x02}" + key + value + b"s.")


def reference_bomb(levels: int, begin: bytes, end: bytes) -> bytes:
    """Ten references to ten references to ...; begin and end: what makes a tuple or a list of the items between."""
    if not levels:
        return text("x") + b"q\x00"
    inner = reference_bomb(levels - 1, begin, end)
    return begin + inner + (b"h" + bytes([levels - 1])) * 9 + end + b"q" + bytes([levels])
