"""A small interpreter of pickles that can make nothing but plain data.

`pickle.Unpickler` with a list of allowed names is not enough for a file from a stranger: numpy's own functions take a
dtype's whole state from it, and a dtype that calls eight bytes of the file a pointer to an object is all that an
attack needs. Here no name of the file is ever imported or called: the few that numpy writes stand for those of
`plain_arrays`, which make numbers, texts and arrays of numbers from bytes whose count fits.

Work and memory are bounded by the length of the file: each opcode is met once, nothing is allocated by a size that
the file claims, and bytes are not multiplied by referring to them again and again.
"""

import struct
from collections.abc import Callable
from typing import Any

from pplfast.plain_arrays import NAMES, Maker, Name, RefusedError
from pplfast.reading import quoted

PROTOCOLS = range(2, 6)
MARKS = 100  # nested containers; real files have fewer than ten
COPIES = 4  # bytes that may be made out of each byte of the file, over all


class PlainUnpickler:
    """Reads one pickle of protocol 2 to 5, the protocols in which numpy writes.

    Makes None, bool, int of 64 bits, float, str, bytes, tuple, list, dict with keys of str and int, and MadeArray of
    numpy arrays of NUMERIC or of ObjectArray. numpy's scalars become Python's. Lists and tuples may refer to each
    other: whoever walks them must not follow them deeper than it needs.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._maker = Maker(COPIES * len(data))

    def load(self) -> Any:
        """The value. RefusedError for all that is damaged or not plain."""
        data, operations = self._data, _OPERATIONS
        try:
            while (code := data[self._at]) != _STOP:
                self._at += 1
                operation = operations.get(code)
                if operation is None:
                    raise RefusedError(f"its pickle uses opcode {bytes([code])!r}, which plain data has no need of")
                operation(self)
            value = self._stack.pop()
        except (IndexError, KeyError):
            raise RefusedError("its pickle is damaged") from None
        except UnicodeError:
            raise RefusedError("its pickle holds text that is none") from None
        return value

    # Reading the file.

    def _take(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise RefusedError("its pickle ends early")
        self._at += count
        return self._data[self._at - count : self._at]

    def _unsigned(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _line(self) -> str:
        end = self._data.find(b"\n", self._at, self._at + 200)
        if end < 0:
            raise RefusedError("its pickle holds a name without end")
        line = self._take(end + 1 - self._at)
        return line[:-1].decode("ascii")

    def _pop_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marked.pop()
        return items

    # Opcodes: see the module `pickletools` for what each of them means.

    def _proto(self) -> None:
        version = self._take(1)[0]
        if version not in PROTOCOLS:
            raise RefusedError(f"its pickle is of protocol {version}; save it with protocol 2 to 5")

    def _frame(self) -> None:
        if self._unsigned(8) > len(self._data) - self._at:
            raise RefusedError("its pickle ends early")

    def _mark(self) -> None:
        if len(self._marked) >= MARKS:
            raise RefusedError("its pickle is nested too deeply")
        self._marked.append(self._stack)
        self._stack = []

    def _long(self) -> None:
        size = self._take(1)[0]
        if size > 8:
            raise RefusedError("its pickle holds a number of more than 64 bits")
        self._stack.append(int.from_bytes(self._take(size), "little", signed=True))

    def _int(self) -> None:
        self._stack.append(int.from_bytes(self._take(4), "little", signed=True))

    def _float(self) -> None:
        self._stack.append(struct.unpack(">d", self._take(8))[0])

    def _append(self) -> None:
        value = self._stack.pop()
        self._extend([value])

    def _appends(self) -> None:
        self._extend(self._pop_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise RefusedError("its pickle is damaged")
        target.extend(values)

    def _setitem(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update([key, value])

    def _setitems(self) -> None:
        self._update(self._pop_mark())

    def _update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise RefusedError("its pickle is damaged")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):
                raise RefusedError(f"holds a dict with a key of type {type(key).__name__}, not text or a whole number")
            target[key] = value

    def _tuple(self) -> None:
        items = self._pop_mark()
        self._stack.append(tuple(items))

    def _tuple_of(self, count: int) -> None:
        if len(self._stack) < count:
            raise RefusedError("its pickle is damaged")
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _put(self, size: int) -> None:
        self._memo[self._unsigned(size)] = self._stack[-1]

    def _get(self, size: int) -> None:
        self._stack.append(self._memo[self._unsigned(size)])

    def _text(self, size: int) -> None:
        self._stack.append(self._take(self._unsigned(size)).decode("utf-8", "surrogatepass"))

    def _bytes(self, size: int) -> None:
        self._stack.append(self._take(self._unsigned(size)))

    def _python2_string(self, size: int) -> None:
        """Text and bytes are one type there; `Maker` makes bytes of those that are data."""
        self._stack.append(self._take(self._unsigned(size)).decode("latin-1"))

    def _global(self) -> None:
        self._name(self._line(), self._line())

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise RefusedError("its pickle is damaged")
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        found = NAMES.get(f"{module} {name}")
        if found is None:
            raise RefusedError(f"asks for {quoted(f'{module}.{name}')}, which is no plain data")
        self._stack.append(found)

    def _reduce(self) -> None:
        arguments, name = self._stack.pop(), self._stack.pop()
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise RefusedError("its pickle is damaged")
        self._stack.append(self._maker.call(name.name, arguments))

    def _build(self) -> None:
        state = self._stack.pop()
        self._maker.build(self._stack[-1], state)


def _pushes(value: Any) -> Callable[[PlainUnpickler], None]:
    return lambda reader: reader._stack.append(value)


_STOP = ord(".")
_OPERATIONS: dict[int, Callable[[PlainUnpickler], None]] = {
    0x80: PlainUnpickler._proto,
    0x95: PlainUnpickler._frame,
    ord("("): PlainUnpickler._mark,
    ord("N"): _pushes(None),
    0x88: _pushes(True),
    0x89: _pushes(False),
    ord(")"): _pushes(()),
    ord("]"): lambda reader: reader._stack.append([]),
    ord("}"): lambda reader: reader._stack.append({}),
    ord("J"): PlainUnpickler._int,
    ord("K"): lambda reader: reader._stack.append(reader._unsigned(1)),
    ord("M"): lambda reader: reader._stack.append(reader._unsigned(2)),
    0x8A: PlainUnpickler._long,
    ord("G"): PlainUnpickler._float,
    ord("X"): lambda reader: reader._text(4),
    0x8C: lambda reader: reader._text(1),
    0x8D: lambda reader: reader._text(8),
    ord("B"): lambda reader: reader._bytes(4),
    ord("C"): lambda reader: reader._bytes(1),
    0x8E: lambda reader: reader._bytes(8),
    0x96: lambda reader: reader._bytes(8),
    ord("T"): lambda reader: reader._python2_string(4),
    ord("U"): lambda reader: reader._python2_string(1),
    ord("a"): PlainUnpickler._append,
    ord("e"): PlainUnpickler._appends,
    ord("s"): PlainUnpickler._setitem,
    ord("u"): PlainUnpickler._setitems,
    ord("t"): PlainUnpickler._tuple,
    0x85: lambda reader: reader._tuple_of(1),
    0x86: lambda reader: reader._tuple_of(2),
    0x87: lambda reader: reader._tuple_of(3),
    0x94: PlainUnpickler._memoize,
    ord("q"): lambda reader: reader._put(1),
    ord("r"): lambda reader: reader._put(4),
    ord("h"): lambda reader: reader._get(1),
    ord("j"): lambda reader: reader._get(4),
    ord("c"): PlainUnpickler._global,
    0x93: PlainUnpickler._stack_global,
    ord("R"): PlainUnpickler._reduce,
    ord("b"): PlainUnpickler._build,
}
