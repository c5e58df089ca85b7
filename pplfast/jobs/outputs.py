"""Where the outputs of a job go: what is there already, what is left to do, and taking them from the pipeline."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pplfast.arrays import Int64Array
from pplfast.jobs.job import Choice
from pplfast.jobs.record import Record
from pplfast.jobs.status import Status
from pplfast.jobs.workers import Result


class Outputs(ABC):
    """One rank's side of a job's folder. `begin` to `open` are called in that order, before the images; `take` from
    several threads; `close` or `abandon`, `release`, `wait` and `conclude` afterwards.

    folder: a path or a URL. worker_folder: that the workers write the images' files to; None: they give the bytes.
    wanted: of the job's settings, with what tells the folder of one kind of outputs from another's. manifest: where the
    records are, in the folder.
    """

    folder: str
    worker_folder: Path | None
    wanted: dict[str, Any]
    manifest: str

    @abstractmethod
    def begin(self, choices: dict[str, Choice], world: int, held: ExitStack) -> tuple[dict[str, Any], Any]:
        """On rank 0: take the folder for these ranks, and tidy it. held: what it holds until the job is over.

        Returns the settings of the job, and what `left` is told. UserError for a folder that cannot be used.
        """

    @abstractmethod
    def left(self, found: Any, rank: int, world: int, verify: bool) -> Any:
        """What is to be done of a rank's share of the list, for `plan`. UserError where nothing can be said."""

    @abstractmethod
    def plan(self, left: list[Any]) -> "tuple[Any, int, int, int]":
        """On rank 0, of all ranks' `left`: what is pending, for `open`; how many images are to do, done, and bad."""

    @abstractmethod
    def open(self, pending: Any, rank: int, world: int) -> Int64Array:
        """Make ready to take this rank's part; its positions in the data set."""

    def check(self, index: int) -> None:  # noqa: B027 - not every way has such names
        """Raises BadImage for an image whose outputs no file can have the name of."""

    @abstractmethod
    def take(self, index: int, record: Record, said: dict[str, Any], made: Result) -> None:
        """An image is done, or bad. said: of its record, what a sample says of the image. made: of an image that is
        done. UserError where the outputs cannot be written."""

    @abstractmethod
    def close(self) -> None:
        """All images were taken that will be."""

    def abandon(self) -> None:  # noqa: B027 - most have nothing to give up
        """Instead of `close`, after a failure."""

    def release(self) -> None:  # noqa: B027 - most hold nothing
        """The last of this rank in the folder."""

    @abstractmethod
    def wait(self, statuses: Callable[[], Sequence[Status]], world: int, stopped: Callable[[], bool]) -> list[int]:
        """On rank 0: until every rank has ended; those that did not finish."""

    @abstractmethod
    def conclude(self, bad: int) -> tuple[int, list[tuple[str, str]]]:
        """On rank 0, once all ranks are done: tidy the folder. How many images of the list are bad, and (id, reason) of
        the first. bad: how many the ranks and the plan said."""
