"""The most memory that a call needs, measured in a process of its own."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_bytes(
    function: Callable[..., Any], warm_up: tuple[Any, ...], arguments: tuple[Any, ...]
) -> tuple[int, int] | None:
    """(beyond what the process held before, of the whole process) while function(*arguments) runs; None where the
    system does not tell (other than Linux). `warm_up`: arguments of a small call before it, which loads what is needed.

    The function is pickled: it has to be importable by name.
    """
    if not CLEAR.exists():
        return None
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_measure, function, warm_up, arguments).result()


def _measure(function: Callable[..., Any], warm_up: tuple[Any, ...], arguments: tuple[Any, ...]) -> tuple[int, int]:
    function(*warm_up)
    CLEAR.write_text("5")  # the high-water mark falls back to the present size
    before = _field("VmRSS")
    function(*arguments)
    peak = _field("VmHWM")
    return peak - before, peak


def _field(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
