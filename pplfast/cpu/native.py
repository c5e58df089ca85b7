"""The C++ kernels for CPUs: compiled once with the machine's own compiler, kept in the user's cache folder.

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
import tempfile
from dataclasses import dataclass
from pathlib import Path

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
    """The compiled kernels; the first call on a machine compiles for some seconds."""
    compiler = _compiler()
    if compiler is None:
        return Library(None, f"no C++ compiler ({', '.join(COMPILERS)}, or CXX in the environment)")
    path = _folder() / f"depthwise-{_digest(compiler)}.so"
    try:
        if not path.exists():
            logging.getLogger(__name__).info("compiling the depthwise kernel into %s", path)
            _compile(compiler, path)
        return Library(ctypes.CDLL(str(path)), f"compiled by {compiler[0]}")
    except (OSError, subprocess.SubprocessError) as error:
        return Library(None, f"{compiler[0]} failed: {_last_line(error)}")


def _compiler() -> tuple[str, ...] | None:
    chosen = tuple(shlex.split(os.environ.get("CXX", "")))
    if chosen:
        return chosen if shutil.which(chosen[0]) else None
    return next(((name,) for name in COMPILERS if shutil.which(name)), None)


def _folder() -> Path:
    """Of this user alone, since code is loaded from it."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pplfast"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid():
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="pplfast-kernels-"))


def _digest(compiler: tuple[str, ...]) -> str:
    """Of everything that decides the machine code: the source, the compiler, and the processor of -march=native."""
    version = subprocess.run([*compiler, "--version"], capture_output=True, timeout=SECONDS).stdout
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    except OSError:
        processor = [platform.processor(), platform.machine()]
    parts = (SOURCE.read_bytes(), version, *(text.encode() for text in (*compiler, *FLAGS, *processor)))
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _compile(compiler: tuple[str, ...], path: Path) -> None:
    """Under a temporary name, then renamed: several processes may do so at once."""
    handle, name = tempfile.mkstemp(prefix=path.stem, suffix=".tmp", dir=path.parent)
    os.close(handle)
    try:
        command = [*compiler, *FLAGS, str(SOURCE), "-o", name]
        if subprocess.run([*command, OPENMP], capture_output=True, timeout=SECONDS).returncode:
            subprocess.run(command, capture_output=True, check=True, timeout=SECONDS)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _last_line(error: Exception) -> str:
    output = getattr(error, "stderr", None)
    lines = (output.decode(errors="replace") if output else str(error)).strip().splitlines()
    return lines[-1] if lines else "no message"
