"""How busy each phase of a rank is: seconds of work, and what share of the time that is."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PHASES = ("decode", "network", "crf", "encode", "write")  # "crf" and "encode" run in the worker processes


class Meter:
    """Counts images and the seconds that each phase worked. lanes: how many of a phase work at once."""

    def __init__(self, lanes: dict[str, int]) -> None:
        self._lanes = lanes
        self._busy = dict.fromkeys(PHASES, 0.0)
        self._lock = threading.Lock()
        self.done = self.bad = 0
        self.start = time.monotonic()

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

    def count(self, done: int = 0, bad: int = 0) -> None:
        with self._lock:
            self.done += done
            self.bad += bad

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
