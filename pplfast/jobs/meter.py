"""How busy each stage of a rank is: seconds of work, and what share of the time that is."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

STAGES = ("decode", "network", "crf", "encode", "write")  # "crf" and "encode" run in the worker processes


class Meter:
    """Counts images and the seconds that each stage worked. lanes: how many of a stage work at once."""

    def __init__(self, lanes: dict[str, int]) -> None:
        self._lanes = lanes
        self._busy = dict.fromkeys(STAGES, 0.0)
        self._lock = threading.Lock()
        self.done = self.bad = 0
        self.start = time.monotonic()

    @contextmanager
    def busy(self, stage: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.add(stage, time.monotonic() - start)

    def add(self, stage: str, seconds: float) -> None:
        with self._lock:
            self._busy[stage] += seconds

    def count(self, done: int = 0, bad: int = 0) -> None:
        with self._lock:
            self.done += done
            self.bad += bad

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    def utilisation(self) -> dict[str, float]:
        """Share of the time so far, 0..1, that each stage worked. The workers share their lanes over two stages."""
        seconds = max(self.seconds, 1e-9)
        with self._lock:
            return {stage: busy / seconds / self._lanes.get(stage, 1) for stage, busy in self._busy.items()}


def bottleneck(utilisation: dict[str, float]) -> str:
    """The stage that holds the others up: the busiest one. The two stages of the workers count together."""
    together = {**utilisation, "crf": utilisation["crf"] + utilisation["encode"]}
    del together["encode"]
    return max(together, key=lambda stage: together[stage])
