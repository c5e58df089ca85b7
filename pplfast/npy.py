"""numpy's files from strangers: the arrays of a `.npz`, and the pickled dict of a `.npy`. Nothing in them is run."""

import re
from typing import Any, NamedTuple

import numpy as np

from pplfast.errors import UserError
from pplfast.files import StrPath
from pplfast.plain_arrays import NUMERIC, MadeArray, ObjectArray, RefusedError, array_of, item_count
from pplfast.plain_pickle import PlainUnpickler
from pplfast.reading import open_regular

MAGIC = b"\x93NUMPY"
LONGEST_HEADER = 10_000  # bytes; numpy's own bound. Plain arrays have less than 200

# What numpy and all writers that follow it put there. Its value is Python's, but it is not for Python to evaluate.
_HEADER = re.compile(
    r"\{\s*'descr':\s*'([^']{1,20})',\s*'fortran_order':\s*(True|False),\s*"
    r"'shape':\s*\(((?:\d{1,10}L?,\s*){0,31}(?:\d{1,10}L?)?)\s*\),?\s*\}\s*",
    re.ASCII,
)


class Header(NamedTuple):
    descr: str  # numpy's text of the dtype, as "<f2" or "|O"
    fortran: bool
    shape: tuple[int, ...]
    length: int  # bytes up to the data


def read_header(data: bytes) -> Header:
    """The header of a `.npy` file, from its first bytes. ValueError where it is none of a plain array."""
    size = {1: 2, 2: 4, 3: 4}.get(data[6] if len(data) > 6 else 0)
    if not data.startswith(MAGIC) or size is None:
        raise ValueError("does not begin as a .npy file")
    start = len(MAGIC) + 2 + size
    length = int.from_bytes(data[start - size : start], "little")
    if length > min(LONGEST_HEADER, len(data) - start):
        raise ValueError("its header ends early, or is too long")
    match = _HEADER.fullmatch(data[start : start + length].decode("latin-1"))
    if match is None:
        raise ValueError("its header is not that of a plain array")
    descr, fortran, shape = match.groups()
    return Header(descr, fortran == "True", tuple(int(side) for side in re.findall(r"\d+", shape)), start + length)


def plain_dtype(header: Header) -> np.dtype[Any]:
    """The dtype of a numeric array (bool, int, uint, float). ValueError for all others."""
    order, text = header.descr[:1], header.descr[1:]
    if order not in "<>|=" or text not in NUMERIC:
        raise ValueError("is not of plain numbers")
    return NUMERIC[text].newbyteorder(order)  # type: ignore[arg-type]


def parse_array(data: bytes) -> np.ndarray:
    """The numeric array of a whole `.npy` file, on its bytes. ValueError where the two do not fit."""
    header = read_header(data)
    dtype, content = plain_dtype(header), data[header.length :]
    if item_count(header.shape) * dtype.itemsize != len(content):
        raise ValueError("is of another size than its shape says")
    return array_of(content, dtype, header.shape, "F" if header.fortran else "C")


def load_npy_dict(path: StrPath) -> dict[str | int, Any]:
    """Read the `.npy` file of a pickled dict, as cls_labels.npy and CAM files, whichever numpy wrote it.

    Returns keys of str and int, and values that are numpy arrays of bool, int, uint or float, or bool, int, float,
    str or None; flat lists and tuples of numbers become arrays. The arrays cannot be written to. Raises UserError
    naming the file for all else. No code of the file is run, and memory and time are bounded by its length.
    """
    try:
        with open_regular(path) as file:
            data = file.read()
        header = read_header(data)
        if not header.descr.endswith("O"):
            raise RefusedError("holds an array, not a dict")
        return _plain_dict(PlainUnpickler(data[header.length :]).load())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a file that can") from None
    except ValueError as error:
        raise UserError(
            f"{path}: not a readable .npy dict ({error}); it must be a dict of numeric arrays by name, saved by np.save"
        ) from None


def _plain_dict(value: Any) -> dict[str | int, Any]:
    wrapped = value.value if isinstance(value, MadeArray) else None
    if isinstance(wrapped, ObjectArray) and len(wrapped.items) == 1:
        value = wrapped.items[0]
    if not isinstance(value, dict):
        raise RefusedError("holds another thing than a dict")
    known: dict[int, np.ndarray] = {}  # by identity: a list that all keys share is converted once
    return {key: _plain_value(item, known) for key, item in value.items()}


def _plain_value(value: Any, known: dict[int, np.ndarray]) -> Any:
    if isinstance(value, MadeArray) and isinstance(value.value, np.ndarray):
        return value.value
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) not in (list, tuple):
        raise RefusedError("holds values that are no numeric arrays")
    if id(value) not in known:
        if not all(type(item) in (bool, int, float) for item in value):
            raise RefusedError("holds lists of other things than numbers")
        known[id(value)] = np.asarray(value)
    array = known[id(value)]
    if array.dtype.kind not in "biuf":
        raise RefusedError("holds a list of numbers of more than 64 bits")
    return array
