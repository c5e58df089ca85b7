"""Thrift's compact protocol without a schema: what Parquet's footer and the headers of its pages are written in."""

from dataclasses import dataclass
from typing import Any

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
INTEGERS = (I16, I32, I64)


@dataclass
class Field:
    """Of a struct, or an element of a list (number 0). value: bool, int, bytes, a list of fields, bytes of a double."""

    number: int
    kind: int
    value: Any
    claimed: int | None = None  # the length that is written of bytes or a list, where it is another one


class Reader:
    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def take(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at]

    def struct(self) -> list[Field]:
        fields, number = [], 0
        while head := self.take(1)[0]:
            number = number + (head >> 4) if head >> 4 else unzigzag(self.varint())
            fields.append(Field(number, head & 15, self.value(head & 15)))
        return fields

    def value(self, kind: int) -> Any:
        if kind in (TRUE, FALSE):
            return kind == TRUE
        if kind in INTEGERS:
            return unzigzag(self.varint())
        if kind == BINARY:
            return self.take(self.varint())
        if kind == LIST:
            head = self.take(1)[0]
            size = self.varint() if head >> 4 == 15 else head >> 4
            inner = head & 15
            if inner in (TRUE, FALSE):
                return [Field(0, inner, self.take(1) == b"\1") for _ in range(size)]
            return [Field(0, inner, self.value(inner)) for _ in range(size)]
        if kind == STRUCT:
            return self.struct()
        return self.take(8 if kind == DOUBLE else 1)


def unzigzag(value: int) -> int:
    return (value >> 1) ^ -(value & 1)


def varint(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes((*parts, value))


def zigzag(value: int) -> bytes:
    return varint(value << 1 if value >= 0 else (-value << 1) - 1)


def write_struct(fields: list[Field]) -> bytes:
    parts, last = [], 0
    for field in fields:
        kind = (TRUE if field.value else FALSE) if field.kind in (TRUE, FALSE) else field.kind
        step = field.number - last
        parts.append(bytes((step << 4 | kind,)) if 0 < step < 16 else bytes((kind,)) + zigzag(field.number))
        last = field.number
        if field.kind not in (TRUE, FALSE):
            parts.append(write_value(field))
    return b"".join(parts) + b"\0"


def write_value(field: Field) -> bytes:
    kind, value = field.kind, field.value
    if kind in (TRUE, FALSE):
        return b"\1" if value else b"\0"
    if kind in INTEGERS:
        return zigzag(value)
    size = field.claimed if field.claimed is not None else len(value)
    if kind == BINARY:
        return varint(size) + value
    if kind == LIST:
        inner = value[0].kind if value else STRUCT
        head = bytes((size << 4 | inner,)) if size < 15 else bytes((240 | inner,)) + varint(size)
        return head + b"".join(map(write_value, value))
    return write_struct(value) if kind == STRUCT else value


def inside(fields: list[Field]) -> list[tuple[list[Field], int]]:
    """Each field at any depth, by the list that it is in and its place there."""
    found = []
    for place, field in enumerate(fields):
        found.append((fields, place))
        if field.kind in (LIST, STRUCT):
            found += inside(field.value)
    return found


def get(fields: list[Field], number: int) -> Field | None:
    return next((field for field in fields if field.number == number), None)
