"""What pickles of numpy's arrays are made of, from bytes whose count fits and from nothing else."""

from typing import Any

import numpy as np

from pplfast.reading import quoted

LARGEST_SIDE = 2**31 - 1
DIMENSIONS = 8

_TEXTS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
_FLAGS = {"O": 63, "U": 8}  # of a dtype of objects and of text; those of numbers are 0
NUMERIC: dict[str, np.dtype[Any]] = {text: np.dtype(text) for text in _TEXTS}  # by their names in files


class RefusedError(ValueError):
    """The pickle is damaged, or holds what is no plain data; the message says what."""


class ObjectArray:
    """An array of Python objects of any shape: its items in order. numpy wraps the dict of a file in one."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items


class Dtype:
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


class Name:
    """What a name of the file stands for."""

    def __init__(self, name: str) -> None:
        self.name = name


_CORES = ("numpy.core", "numpy._core")  # of numpy 1 and 2
NAMES = {
    **{f"{core}.multiarray _reconstruct": Name("reconstruct") for core in _CORES},
    **{f"{core}.multiarray scalar": Name("scalar") for core in _CORES},
    **{f"{core}.numeric _frombuffer": Name("frombuffer") for core in _CORES},
    "numpy ndarray": Name("ndarray"),
    "numpy dtype": Name("dtype"),
    "_codecs encode": Name("encode"),
    **{f"{module} bytes": Name("bytes") for module in ("__builtin__", "builtins")},  # of b"" in protocol 2
}


class Maker:
    """Does what numpy's functions do for the pickles that numpy writes; RefusedError for all else.

    budget: bytes that may be made out of others, over all: what is referred to a thousand times must not become a
    thousand copies.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget

    def call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """name: of a `Name`."""
        match name, arguments:
            case "dtype", (str(text), *_):
                return Dtype(text)
            case "reconstruct", (Name(name="ndarray"), _, _):
                return MadeArray()
            case "frombuffer", (bytes() | str() as data, Dtype() as dtype, tuple(shape), "C" | "F" as order):
                return MadeArray(self._array(self._raw(data), dtype, shape, order))
            case "frombuffer", (bytes() | str() as data, Dtype() as dtype, tuple(shape), "C" | "F" as order, None):
                return MadeArray(self._array(self._raw(data), dtype, shape, order))
            case "frombuffer", (bytes() as data, Dtype() as dtype, tuple(shape), "K", tuple(axes)):
                return MadeArray(self._array(data, dtype, shape, "C").transpose(_permutation(axes, len(shape))))
            case "scalar", (Dtype() as dtype, bytes() | str() as data):
                return self._scalar(dtype, self._raw(data))
            case "encode", (str(text), "latin1" | "latin-1"):
                return self._raw(text)
            case "bytes", ():
                return b""
        raise RefusedError(f"makes a {name} out of other things than numpy does")

    def build(self, target: Any, state: Any) -> None:
        """Give a state to what was made without one."""
        match target, state:
            case MadeArray(), (1, tuple(shape), Dtype(text="O8" | "O4" | "O"), bool() | 0 | 1, list(items)):
                if item_count(shape) != len(items):
                    raise RefusedError("holds an array of another size than its shape says")
                target.value = ObjectArray(items)
            case MadeArray(), (1, tuple(shape), Dtype() as dtype, bool() | 0 | 1 as fortran, bytes() | str() as data):
                target.value = self._array(self._raw(data), dtype, shape, "F" if fortran else "C")
            case Dtype(), (3, "<" | ">" | "|" | "=" as order, None, None, None, int(), int(), int(flags)) if (
                flags == _FLAGS.get(target.text[:1], 0)
            ):
                target.order = order  # size and alignment follow from the dtype's text
            case Dtype(), _:
                raise RefusedError("holds a dtype that is no plain numeric one")
            case _:
                raise RefusedError("gives a state to what has none, or one that plain data has no need of")

    def _spend(self, count: int) -> None:
        self._budget -= count
        if self._budget < 0:
            raise RefusedError("its pickle makes more out of its bytes than they hold")

    def _raw(self, data: bytes | str) -> bytes:
        if isinstance(data, bytes):
            return data
        self._spend(len(data))
        return data.encode("latin-1")

    def _array(self, data: bytes, dtype: Dtype, shape: tuple[Any, ...], order: str) -> np.ndarray:
        numeric = dtype.numeric
        if item_count(shape) * numeric.itemsize != len(data):
            raise RefusedError("holds an array of another size than its shape says")
        self._spend(len(data))
        return array_of(data, numeric, shape, order)

    def _scalar(self, dtype: Dtype, data: bytes) -> bool | int | float | str:
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
