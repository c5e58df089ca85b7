"""The `.npy` files of other people: all that numpy wrote is read, nothing that it did not write does anything."""

import io
import pickle
import subprocess
import sys
import tracemalloc

import crafted_pickles as craft
import numpy as np
import pytest
from crafted_pickles import (
    array,
    call,
    dict_of,
    dtype,
    empty_array,
    flags,
    name,
    npy,
    raw,
    scalar,
    text,
    tuple_of,
    whole,
)

from pplfast.errors import UserError
from pplfast.npy import load_npy_dict, parse_array

POINTER = raw(b"AAAAAAAA")  # eight bytes that numpy must not take for the address of an object
FIELDS = (b"N", tuple_of(text("f")), b"}" + text("f") + tuple_of(dtype("O8"), whole(0)) + b"s")

# What each of these asks for is in its name; in the first ones a crash would end the process.
HOSTILE = {
    "object by its address": dict_of(scalar(dtype("O8", *flags(0)), POINTER)),
    "object by its address, flags left alone": dict_of(scalar(dtype("O8"), POINTER)),
    "array of addresses": dict_of(array(dtype("O8", *flags(0)), (1,), POINTER)),
    "array of addresses, protocol 5": dict_of(
        call(name("numpy._core.numeric", "_frombuffer"), POINTER, dtype("O8", *flags(0)), tuple_of(whole(1)), text("C"))
    ),
    "void scalar": dict_of(scalar(dtype("V8"), POINTER)),
    "void scalar of an object": dict_of(scalar(dtype("V8", *FIELDS, whole(8), whole(1), whole(16)), POINTER)),
    "void array of an object": dict_of(array(dtype("V8", *FIELDS, whole(8), whole(1), whole(16)), (1,), POINTER)),
    "subarray": dict_of(
        array(
            dtype("V8", tuple_of(dtype("O8"), tuple_of(whole(1))), b"N", b"N", whole(8), whole(1), whole(16)),
            (1,),
            POINTER,
        )
    ),
    "number with an object's flags": dict_of(scalar(dtype("f8", *flags(63 | 4)), POINTER)),
    "metadata": dict_of(scalar(dtype("f8", *flags(0), b"}"), POINTER)),
    "structured text": dict_of(scalar(dtype("f8,O"), raw(b"A" * 16))),
    "16 GB, by its type": dict_of(call(name("numpy", "ndarray"), tuple_of(whole(2**31)))),
    "16 GB, made empty": dict_of(empty_array(2**34)),
    "16 GB, by a state": dict_of(array(dtype("f8"), (2**31,), POINTER)),
    "negative shape": dict_of(array(dtype("f8"), (-1, -1), POINTER)),
    "empty and impossible": dict_of(array(dtype("f8"), (0, 2**31 - 1, 2**31 - 1, 2**31 - 1), raw(b""))),
    "forty dimensions": dict_of(array(dtype("f8"), (1,) * 40, POINTER)),
    "2^60 bytes": dict_of(b"\x8e" + (2**60).to_bytes(8, "little")),
    "2^60 letters": dict_of(b"\x8d" + (2**60).to_bytes(8, "little")),
    "frame of 2^60 bytes": npy(b"\x80\x04\x95" + (2**60).to_bytes(8, "little") + b"}."),
    "10^9 references": dict_of(craft.reference_bomb(9, b"](", b"e")),
    "10^30 references, as a key": dict_of(b"N", craft.reference_bomb(30, b"(", b"t")),
    "a text multiplied": dict_of(b"(" + text("x" * 9000) + b"q\x00" + (craft.name("_codecs", "encode") + b"q\x01") +
                                 (b"h\x01h\x00" + text("latin1") + b"\x86R") * 5000 + b"t"),
    "marks without end": dict_of(b"(" * 1_000_000),
    "tuples in tuples": dict_of(b")" + b"\x85" * 1_000_000),
    "number of 2,000 bits": dict_of(b"\x8a\xff" + b"\x7f" * 255),
    "number of 80,000 bits": dict_of(b"\x8b\x10\x27\x00\x00" + b"\x7f" * 10000),
    "os.system": dict_of(call(name("os", "system"), text("exit 1"))),
    "eval": dict_of(call(name("builtins", "eval"), text("1"))),
    "another function of numpy": dict_of(call(name("numpy", "fromfile"), text("/dev/zero"))),
    "an attribute of an allowed name": npy(b"\x80\x04" + text("numpy") + text("dtype.newbyteorder") + b"\x93."),
    "an instance": npy(b"\x80\x02(ios\nsystem\n."),
    "a new object": dict_of(name("numpy", "dtype") + b")\x81"),
    "an extension": dict_of(b"\x82\x01"),
    "a persistent id": npy(b"\x80\x02P1\n."),
    "a state of a dict": dict_of(b"}}b"),
    "a state of a function": dict_of(name("numpy", "dtype") + b"}b"),
    "an array that is never filled": dict_of(empty_array(0)),
    "an array as a key": dict_of(b"N", array(dtype("f8"), (1,), POINTER)),
    "no pickle": npy(b""),
    "cut off": npy(b"\x80\x02}" + text("a")[:-1]),
    "an array as the whole": npy(array(dtype("f8"), (1,), POINTER) + b"."),
    "header without an end": npy(b"", "{'descr': '|O', 'shape': ("),
    "header of code": npy(b"", "{'descr': '|O', 'fortran_order': False, 'shape': (__import__('os').getpid(),), }"),
    "header of brackets": npy(b"", "(" * 5000),
    "header of a long number": npy(b"", f"{{'descr': '|O', 'fortran_order': False, 'shape': ({'1' * 5000},), }}"),
    "header of 4 GB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
    "header in a later version": b"\x93NUMPY\x09\x00\x01\x00{",
    "nothing": b"",
}  # fmt: skip

CHILD = """
import resource, signal, sys
from pplfast.errors import UserError
from pplfast.npy import load_npy_dict
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
for path in sys.argv[1:]:
    signal.alarm(10)
    try:
        print(repr(load_npy_dict(path)), flush=True)
    except UserError as error:
        print(error, flush=True)
"""


@pytest.mark.slow
def test_hostile_files_are_refused_and_do_nothing(tmp_path):
    paths = []
    for number, content in enumerate(HOSTILE.values()):
        paths.append(tmp_path / f"{number}.npy")
        paths[-1].write_bytes(content)
    child = subprocess.run([sys.executable, "-c", CHILD, *map(str, paths)], capture_output=True, text=True, timeout=120)
    lines = child.stdout.splitlines()
    assert child.returncode == 0, f"{list(HOSTILE)[len(lines)]}: {child.returncode}, {child.stderr[-300:]}"
    for what, path, line in zip(HOSTILE, paths, lines, strict=True):
        assert line.startswith(f"{path}: not a readable .npy dict ("), f"{what}: {line}"


def test_a_small_file_makes_no_large_memory(tmp_path):
    contents = [content for content in HOSTILE.values() if len(content) < 20_000]
    tracemalloc.start()
    try:
        for content in contents:
            (tmp_path / "a.npy").write_bytes(content)
            with pytest.raises(UserError):
                load_npy_dict(tmp_path / "a.npy")
        (tmp_path / "a.npy").write_bytes(npy(b"\x80\x02}r\xff\xff\xff\x7f."))  # remembered as number 2^31 - 1
        assert load_npy_dict(tmp_path / "a.npy") == {}
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


WRITTEN = {
    "2007_000032": np.array([0, 1, 1], np.float32),
    2007000033: np.arange(6.0).reshape(2, 3).T,
    "cut": np.arange(12, dtype=np.int64)[::2],
    "axes": np.arange(24, dtype=np.uint8).reshape(2, 3, 4).transpose(1, 0, 2),
    "order": np.arange(3, dtype=">i2"),
    "bool": np.array([True, False]),
    "half": np.float16([[0.5]]),
    "none": np.zeros((0, 4, 5), np.float32),
    "scalar": np.float32(1.5),
    np.str_("numpy's text"): np.str_("über"),
    np.int32(7): np.int64(-3),
    "list": [0, 1.5, True],
    "tuple": (1, 0),
    "plain": "x" * 300,
    "nothing": None,
}


def saved(value, protocol):
    wrapped, file = np.array(value, dtype=object), io.BytesIO()
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(wrapped))
    pickle.dump(wrapped, file, protocol)
    return file.getvalue()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_numpy_writes_is_read(tmp_path, protocol):
    (tmp_path / "a.npy").write_bytes(saved(WRITTEN, protocol))
    found = load_npy_dict(tmp_path / "a.npy")
    assert [(type(key), key) for key in found] == [(str if isinstance(key, str) else int, key) for key in WRITTEN]
    for value, expected in zip(found.values(), WRITTEN.values(), strict=True):
        if isinstance(expected, np.ndarray):
            assert value.dtype == expected.dtype and value.shape == expected.shape
        np.testing.assert_array_equal(value, expected)


def test_what_numpy_1_and_python_2_wrote_is_read(tmp_path):
    newer = saved(WRITTEN, 2)
    older = newer.replace(b"cnumpy._core.", b"cnumpy.core.")
    assert older != newer
    (tmp_path / "a.npy").write_bytes(older)
    assert list(load_npy_dict(tmp_path / "a.npy")) == list(WRITTEN)

    data = np.array([0, 1], "<f4").tobytes()
    string = b"U" + bytes([len(data)]) + data  # where text and bytes were one type
    kind = call(name("numpy", "dtype"), b"U\x02f4", whole(0), whole(1))
    (tmp_path / "a.npy").write_bytes(dict_of(array(kind, (2,), string), b"U\x0b2007_000032"))
    assert load_npy_dict(tmp_path / "a.npy")["2007_000032"].tolist() == [0, 1]


def test_arrays_of_other_things_are_named_as_such(tmp_path):
    for value, word in (
        (np.array(["a"]), "'U1'"),
        (np.array([1j]), "'c16'"),
        (np.zeros(1, [("a", "f4")]), "no plain numeric one"),
        (np.array([{}, 1], dtype=object), "no numeric arrays"),
        ({"b": 1}, "no numeric arrays"),
        ([1, [0, 1]], "lists of other things than numbers"),
        ({1}, "opcode"),
    ):
        np.save(tmp_path / "a.npy", {"a": value})
        with pytest.raises(UserError, match=r"a\.npy: not a readable .npy dict .*") as caught:
            load_npy_dict(tmp_path / "a.npy")
        assert word in str(caught.value)
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(UserError, match="holds an array, not a dict"):
        load_npy_dict(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "value", [np.arange(6).reshape(2, 3).T, np.float16([1]), np.array(True), np.zeros((0, 3), ">f8")]
)
def test_plain_arrays_equal_numpys(value):
    file = io.BytesIO()
    np.save(file, value)
    found = parse_array(file.getvalue())
    assert found.dtype == value.dtype
    np.testing.assert_array_equal(found, value)
