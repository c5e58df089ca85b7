"""A small interpreter of pickles that can make nothing but plain data.

`pickle.Unpickler` with a list of allowed names is not enough for a file from a stranger: numpy's own functions take a
dtype's whole state from it, and a dtype that calls eight bytes of the file a pointer to an object is all that an
attack needs. Here no name of the file is ever imported or called: the few that numpy writes stand for the functions
below, which make numbers, texts and arrays of numbers from bytes whose count fits.

Work and memory are bounded by the length of the file: each opcode is met once, nothing is allocated by a size that
the file claims, and bytes are not multiplied by referring to them again and again.
"""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from pplfast.reading import quoted

PROTOCOLS = range(2, 6)
MARKS = 100  # nested containers; real files have fewer than ten
LARGEST_SIDE = 2**31 - 1
DIMENSIONS = 8
COPIES = 4  # bytes that may be made out of each byte of the file, over all

_TEXTS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
NUMERIC: dict[str, np.dtype[Any]] = {text: np.dtype(text) for text in _TEXTS}  # by their names in files


class RefusedError(ValueError):
    """The pickle is damaged, or holds what is no plain data; the message says what."""


class ObjectArray:
    """An array of Python objects of any shape: its items in order. numpy wraps the dict of a file in one."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items


class _Dtype:
    """A dtype by its text, as "f4"; `order` is one of numpy's byte orders."""

    def __init__(self, text: str) -> None:
        self.text, self.order = text, "="

    @property
    def numeric(self) -> np.dtype[Any]:
        if self.text not in NUMERIC:
            raise RefusedError(f"holds an array of dtype {quoted(self.text)}, which is not a plain numeric one")
        return NUMERIC[self.text].newbyteorder(self.order)  # type: ignore[arg-type]


class MadeArray:
    """An array: one that numpy makes first and fills afterwards, until which its value is None."""

    def __init__(self, value: np.ndarray | ObjectArray | None = None) -> None:
        self.value = value


class _Name:
    """What a name of the file stands for."""

    def __init__(self, name: str) -> None:
        self.name = name


_CORES = ("numpy.core", "numpy._core")  # of numpy 1 and 2
_NAMES = {
    **{f"{core}.multiarray _reconstruct": _Name("reconstruct") for core in _CORES},
    **{f"{core}.multiarray scalar": _Name("scalar") for core in _CORES},
    **{f"{core}.numeric _frombuffer": _Name("frombuffer") for core in _CORES},
    "numpy ndarray": _Name("ndarray"),
    "numpy dtype": _Name("dtype"),
    "_codecs encode": _Name("encode"),
    **{f"{module} bytes": _Name("bytes") for module in ("__builtin__", "builtins")},  # of b"" in protocol 2
}


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
        self._bytes_left = COPIES * len(data)

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

    def _spend(self, count: int) -> None:
        """Bytes made out of others: what is referred to a thousand times must not become a thousand copies."""
        self._bytes_left -= count
        if self._bytes_left < 0:
            raise RefusedError("its pickle makes more out of its bytes than they hold")

    def _pop_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marked.pop()
        return items

    # Opcodes: see the module `pickletools` for what each of them means.

    def _proto(self) -> None:
        version = self._take(1)[0]
        if version not in PROTOCOLS:
            raise RefusedError(f"its pickle is of protocol {version}; save it with protocol 2 to 5")

    def _frame(self) -> None:
        self._take(8)

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
        """Text and bytes are one type there; `_raw` makes bytes of those that are data."""
        self._stack.append(self._take(self._unsigned(size)).decode("latin-1"))

    def _global(self) -> None:
        self._name(self._line(), self._line())

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise RefusedError("its pickle is damaged")
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        found = _NAMES.get(f"{module} {name}")
        if found is None:
            raise RefusedError(f"asks for {quoted(f'{module}.{name}')}, which is no plain data")
        self._stack.append(found)

    # Calls, of the names above alone.

    def _reduce(self) -> None:
        arguments, name = self._stack.pop(), self._stack.pop()
        if not isinstance(name, _Name) or not isinstance(arguments, tuple):
            raise RefusedError("its pickle is damaged")
        self._stack.append(self._call(name.name, arguments))

    def _call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        match name, arguments:
            case "dtype", (str(text), *_):
                return _Dtype(text)
            case "reconstruct", (_Name(name="ndarray"), _, _):
                return MadeArray()
            case "frombuffer", (bytes() | str() as data, _Dtype() as dtype, tuple(shape), "C" | "F" as order):
                return MadeArray(self._array(self._raw(data), dtype, shape, order))
            case "frombuffer", (bytes() | str() as data, _Dtype() as dtype, tuple(shape), "C" | "F" as order, None):
                return MadeArray(self._array(self._raw(data), dtype, shape, order))
            case "frombuffer", (bytes() as data, _Dtype() as dtype, tuple(shape), "K", tuple(axes)):
                return MadeArray(self._array(data, dtype, shape, "C").transpose(_permutation(axes, len(shape))))
            case "scalar", (_Dtype() as dtype, bytes() | str() as data):
                return self._scalar(dtype, self._raw(data))
            case "encode", (str(text), "latin1" | "latin-1"):
                return self._raw(text)
            case "bytes", ():
                return b""
        raise RefusedError(f"makes a {name} out of other things than numpy does")

    def _build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        match target, state:
            case MadeArray(), (1, tuple(shape), _Dtype(text="O8" | "O4" | "O"), bool() | 0 | 1, list(items)):
                if item_count(shape) != len(items):
                    raise RefusedError("holds an array of another size than its shape says")
                target.value = ObjectArray(items)
            case MadeArray(), (1, tuple(shape), _Dtype() as dtype, bool() | 0 | 1 as fortran, bytes() | str() as data):
                target.value = self._array(self._raw(data), dtype, shape, "F" if fortran else "C")
            case _Dtype(), (3, "<" | ">" | "|" | "=" as order, None, None, None, int(), int(), 0 | 8 | 63):
                # 0: numbers; 63: Python objects; 8: text. Sizes and alignments follow from the dtype's own text.
                target.order = order
            case _:
                raise RefusedError("gives a state to what has none, or one that plain data has no need of")

    def _raw(self, data: bytes | str) -> bytes:
        if isinstance(data, bytes):
            return data
        self._spend(len(data))
        return data.encode("latin-1")

    def _array(self, data: bytes, dtype: _Dtype, shape: tuple[Any, ...], order: str) -> np.ndarray:
        numeric = dtype.numeric
        if item_count(shape) * numeric.itemsize != len(data):
            raise RefusedError("holds an array of another size than its shape says")
        self._spend(len(data))
        return array_of(data, numeric, shape, order)

    def _scalar(self, dtype: _Dtype, data: bytes) -> bool | int | float | str:
        self._spend(len(data))
        if dtype.text == f"U{len(data) // 4}" and len(data) % 4 == 0:
            return data.decode("utf-32-be" if dtype.order == ">" else "utf-32-le").rstrip("\0")
        numeric = dtype.numeric
        if len(data) != numeric.itemsize:
            raise RefusedError("holds a number of another size than its dtype says")
        value: bool | int | float = array_of(data, numeric, (), "C").item()
        return value


def array_of(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], order: str) -> np.ndarray:
    """An array on the bytes of a file; their count must fit. Bytes of a bool that are neither 0 nor 1 count as 1."""
    if not data:
        return np.empty(shape, dtype)
    flat = np.frombuffer(data, np.uint8) != 0 if dtype == np.bool_ else np.frombuffer(data, dtype)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def item_count(shape: tuple[Any, ...]) -> int:
    """How many items an array of that shape has. RefusedError where it is none, or one that numpy could not hold."""
    count, room = 1, 8
    for side in shape:
        if type(side) is not int or not 0 <= side <= LARGEST_SIDE or len(shape) > DIMENSIONS:
            raise RefusedError("holds an array of an impossible shape")
        count, room = count * side, room * max(side, 1)  # numpy multiplies the sides of empty arrays too
    if room >= 2**62:
        raise RefusedError("holds an array of an impossible shape")
    return count


def _permutation(axes: tuple[Any, ...], count: int) -> tuple[int, ...]:
    if any(type(axis) is not int for axis in axes) or sorted(axes) != list(range(count)):
        raise RefusedError("holds an array of an impossible shape")
    return axes


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
