"""Readers that are wrong on purpose, one for each thing that can be wrong, and two that are not."""

import ctypes
import itertools
import os
import threading
from pathlib import Path

import numpy as np

import fuzz.mutate as mutate
from fuzz.outcome import ACCEPTED, ACTED, CLEAN, HANG, MEMORY, MESSAGE, RAW, SIGNAL
from fuzz.reader import Reader
from pplfast.errors import UserError

VALID = b"valid"


def _prepare(folder: Path) -> None:
    (folder / "file").write_bytes(VALID)


def _raises(path: Path) -> None:
    raise KeyError("planted")


def _prints_a_traceback(path: Path) -> None:
    thread = threading.Thread(target=_raises, args=(path,))
    thread.start()
    thread.join()


def _hangs(path: Path) -> None:
    while True:
        pass


def _hangs_in_compiled_code(path: Path) -> None:
    any(itertools.repeat(0))  # C that looks at no signal


def _allocates(path: Path) -> None:
    np.empty(15_000_000)  # 120 MB, untouched


def _asks_for_too_much(path: Path) -> None:
    try:
        np.empty(1 << 40)
    except MemoryError:
        raise UserError(f"{path}: too large") from None


def _dies(path: Path) -> None:
    ctypes.string_at(0)


def _exits(path: Path) -> None:
    os._exit(0)


def _starts(path: Path) -> None:
    os.system("true")


def _writes_outside(path: Path) -> None:
    (path.parents[2] / "planted").touch()


class _Raw(UserError):
    """UserError itself writes such characters out."""

    def __init__(self, message: str) -> None:
        Exception.__init__(self, message)


def _says_two_lines(path: Path) -> None:
    raise _Raw(f"{path}: one\ntwo")


def _says_an_escape(path: Path) -> None:
    raise _Raw(f"{path}: \x1b[2J")


def _names_nothing(path: Path) -> None:
    raise UserError("damaged")


def _refuses(path: Path) -> None:
    raise UserError(f"{path}: damaged")


def _accepts(path: Path) -> None:
    path.with_name("beside").touch()


KINDS = {
    _raises: RAW, _prints_a_traceback: RAW,
    _hangs: HANG, _hangs_in_compiled_code: HANG, _allocates: MEMORY, _asks_for_too_much: MEMORY,
    _dies: SIGNAL,
    _exits: SIGNAL, _starts: ACTED, _writes_outside: ACTED, _says_two_lines: MESSAGE, _says_an_escape: MESSAGE,
    _names_nothing: MESSAGE, _refuses: CLEAN, _accepts: ACCEPTED,
}  # fmt: skip


def readers() -> list[Reader]:
    """Each takes what is valid, and does what it does to all else."""

    def planted(act):
        def read(folder: Path) -> None:
            if (folder / "file").read_bytes() != VALID:
                act(folder / "file")

        return read

    return [Reader(act.__name__.strip("_"), "file", _prepare, mutate.plain, planted(act)) for act in KINDS]
