"""How busy each phase of a rank is: seconds of work, and what share of the time that is."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pplfast.storage import RETRIES

PHASES = ("decode", "network", "crf", "encode", "write")  # "crf" and "encode" run in the worker processes


class Meter:
    """Counts images, the seconds that each phase worked, and retries of storage. lanes: how many of a phase work at
    once."""

    def __init__(self, lanes: dict[str, int]) -> None:
        self._lanes, self._retries = lanes, -RETRIES.count
        self._busy = dict.fromkeys(PHASES, 0.0)
        self._lock = threading.Lock()
        self.done = self.bad = 0
        self.start = time.monotonic()

    def begin(self, lanes: dict[str, int]) -> None:
        """The time of the phases begins; what came before, the plan, may have had retries."""
        self._lanes, self.start = lanes, time.monotonic()

    @contextmanager
    def busy(self, phase: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.add(phase, time.monotonic() - start)

    def add(self, phase: str, seconds: float) -> None:
        with self._lock:
            self._busy[phase] += seconds

    def count(self, done: int = 0, bad: int = 0, retries: int = 0) -> None:
        """retries: of other processes; those of this one are known."""
        with self._lock:
            self.done += done
            self.bad += bad
            self._retries += retries

    @property
    def retries(self) -> int:
        """Reads and writes of files that were tried again."""
        return RETRIES.count + self._retries

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    def utilisation(self) -> dict[str, float]:
        """Share of the time so far, 0..1, that each phase worked. The workers share their lanes over two phases."""
        seconds = max(self.seconds, 1e-9)
        with self._lock:
            return {phase: busy / seconds / self._lanes.get(phase, 1) for phase, busy in self._busy.items()}


def bottleneck(utilisation: dict[str, float]) -> str:
    """The phase that holds the others up: the busiest one. The two phases of the workers count together."""
    together = {**utilisation, "crf": utilisation["crf"] + utilisation["encode"]}
    del together["encode"]
    return max(together, key=lambda phase: together[phase])
