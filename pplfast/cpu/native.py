"""The C++ kernels for CPUs: compiled once with the machine's own compiler, and kept in a folder of the user's.

Without a compiler the plain PyTorch definitions run instead; `library()` says why, and `pplfast doctor` shows it.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pplfast.cpu import store

SOURCE = Path(__file__).with_name("depthwise.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared")
OPENMP = "-fopenmp"  # resolved by the libgomp that torch has loaded; without it the kernels run on one thread
COMPILERS = ("c++", "g++", "clang++")
SECONDS = 300  # a compiler that takes longer is given up


@dataclass(frozen=True)
class Library:
    functions: ctypes.CDLL | None
    reason: str  # which compiler made it, or why there is none


@functools.cache
def library() -> Library:
    """The compiled kernels; the first call of a user on a machine compiles for some seconds."""
    try:
        compiler = _compiler()
    except ValueError as error:  # a quote that is not closed
        return Library(None, f"CXX in the environment is no command: {error}")
    if compiler is None:
        return Library(None, f"no C++ compiler ({', '.join(COMPILERS)}, or CXX in the environment)")
    try:
        return _kept(compiler, f"depthwise-{_digest(compiler)}.so")
    except (OSError, subprocess.SubprocessError) as error:
        return Library(None, f"{compiler[0]} failed: {_last_line(error)}")


def _kept(compiler: tuple[str, ...], name: str) -> Library:
    """The library of that name from the first place that has it whole; else compiled, and kept in the first that takes
    it. Raises OSError and SubprocessError where the compiler fails."""
    places = store.places()
    for folder in places:
        if functions := _load(folder / name):
            return _found(compiler, functions, str(folder))
    image, problems = b"", []
    for folder in places:
        try:
            store.make_folder(folder)
            with store.turn(folder), store.temporary_folder(folder) as temporary:
                if functions := _load(folder / name):  # another process has compiled it meanwhile
                    return _found(compiler, functions, str(folder))
                store.check_room(temporary)
                image = image or _compile(compiler, temporary)
                store.write_whole(folder / name, image, temporary)
                if functions := _load(folder / name):
                    return _found(compiler, functions, str(folder))
                (folder / name).unlink(missing_ok=True)
                problems.append(f"{folder}: code cannot be loaded from there")
        except OSError as error:
            problems.append(str(error) if isinstance(error, store.Unsafe) else f"{folder}: {error.strerror or error}")
    where = f"this process alone, since no folder can keep it ({'; '.join(problems)})"
    with store.temporary_folder() as temporary:
        path = temporary / name
        path.write_bytes(image or _compile(compiler, temporary))
        return _found(compiler, ctypes.CDLL(str(path)), where)


def _found(compiler: tuple[str, ...], functions: ctypes.CDLL, where: str) -> Library:
    return Library(functions, f"compiled by {compiler[0]}, in {where}")


def _load(path: Path) -> ctypes.CDLL | None:
    """None where it is not there, damaged, of somebody else, or made for another system."""
    if not store.is_whole(path):
        return None
    try:
        return ctypes.CDLL(str(path))
    except OSError:  # a file system that holds no programs, or another C library
        return None


def _compiler() -> tuple[str, ...] | None:
    """The command, of several words where CXX has them. Raises ValueError for a CXX that is none."""
    chosen = tuple(shlex.split(os.environ.get("CXX", "")))
    if chosen:
        return chosen if shutil.which(chosen[0]) else None
    return next(((name,) for name in COMPILERS if shutil.which(name)), None)


def _digest(compiler: tuple[str, ...]) -> str:
    """Of everything that decides the machine code: the source, the compiler, the C library, and the processor of
    -march=native."""
    version = subprocess.run([*compiler, "--version"], capture_output=True, timeout=SECONDS).stdout
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    except OSError:
        processor = [platform.processor(), platform.machine()]
    words = (*compiler, *FLAGS, *platform.libc_ver(), *processor)
    parts = (SOURCE.read_bytes(), version, *(text.encode() for text in words))
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _compile(compiler: tuple[str, ...], folder: Path) -> bytes:
    """The shared object. The compiler's own temporary files stay in `folder` too."""
    logging.getLogger(__name__).info("compiling the depthwise kernel with %s", compiler[0])
    output, environment = folder / "compiled.so", {**os.environ, "TMPDIR": str(folder)}
    command = [*compiler, *FLAGS, str(SOURCE), "-o", str(output)]
    run = functools.partial(subprocess.run, capture_output=True, timeout=SECONDS, env=environment)
    if run([*command, OPENMP]).returncode:
        run(command, check=True)
    return output.read_bytes()


def _last_line(error: Exception) -> str:
    output = getattr(error, "stderr", None)
    lines = (output.decode(errors="replace") if output else str(error)).strip().splitlines()
    return lines[-1] if lines else "no message"
