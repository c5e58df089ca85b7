"""What a job is: how one image of a list becomes its output files. `run.run_job` does it for all of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pplfast.arrays import UInt8Array
from pplfast.data.dataset import Dataset
from pplfast.data.images import BadImage
from pplfast.jobs.record import Record

if TYPE_CHECKING:
    import torch


SMALLEST = 8  # pixels on the short side of an image: below, no scale gives a network anything to look at


@dataclass(frozen=True)
class ImageBatch:
    """Images of one size (H, W): their positions in the data set, and uint8 (H, W, 3) RGB each, unless the job does not
    look at them."""

    indices: list[int]
    size: tuple[int, int]
    pixels: list[UInt8Array]

    def one(self, row: int) -> "ImageBatch":
        return ImageBatch(self.indices[row : row + 1], self.size, self.pixels[row : row + 1])


class Choice(NamedTuple):
    """Of a setting: the value for this device, and whether a recorded value is one that it can have."""

    value: Any
    possible: Callable[[Any], bool]


@dataclass
class Finished:
    """files: the bytes of each output file, by its suffix. sample: the same for the image's entry in a shard.
    facts: for its record. seconds: by phase."""

    files: dict[str, bytes]
    sample: dict[str, bytes] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class Finish(ABC):
    """The part of a job that needs no device, called once for each image: in threads, or, where it holds Python's lock
    for long, in processes, to which it is sent. The modules of those import no torch."""

    in_processes = False

    @abstractmethod
    def __call__(self, payload: Any) -> Finished:
        """payload: what `Job.compute` made of the image. What it raises is the failure of this image alone."""


class Job(ABC):
    """title: for the display. command: that makes these outputs. suffixes: of the files of an image.

    wanted: what decides the results of all images, JSON-able, as the user asks for it.
    batch: images of one size at a time, at most. smallest: pixels on the short side of an image, at least.
    decodes: whether `compute` looks at the pixels. shards: images of a tar, or 0: the outputs are files.
    """

    title: str
    command: str
    suffixes: tuple[str, ...]
    batch = 1
    smallest = SMALLEST
    decodes = True
    shards = 0

    def __init__(self, dataset: Dataset, wanted: dict[str, Any]) -> None:
        self.dataset = dataset
        self.wanted = wanted if dataset.values is None else {**wanted, "range": list(dataset.values)}

    def choices(self, device: "torch.device", network_bytes: int) -> dict[str, Choice]:
        """What the user left open. Rank 0 decides it once for a folder: what is recorded there stays, so that a job
        goes on as it began, also where another machine would choose otherwise."""
        return {}

    def depends(self, index: int) -> dict[str, Any]:
        """What decides the result of this image, beside the settings and its file: texts and lists of whole numbers,
        which its record holds.

        Raises BadImage where it is known to have none, UserError where nothing can be said.
        """
        return {}

    def summarise(self, folder: Path, records: Sequence[Record]) -> None:  # noqa: B027 - most say nothing
        """Called on rank 0 once all is done: what the folder is to say of all images together. records: of the images
        of the list, in its order. Not of outputs in shards, whose records are read shard by shard."""

    @abstractmethod
    def finish(self, settings: dict[str, Any]) -> Finish:
        """settings: what is wanted, and the choices as they were decided."""

    @abstractmethod
    def prepare(self, settings: dict[str, Any], device: "torch.device", network_bytes: int, threads: int) -> None:
        """Called once before `compute`, with the settings of `finish`. network_bytes: for the network's activations."""

    @abstractmethod
    def pixel_bytes(self) -> float:
        """What an image holds in host memory from its decoding to its files, per pixel. After `prepare`."""

    @abstractmethod
    def compute(self, batch: ImageBatch, stopped: Callable[[], bool]) -> "list[Any | BadImage] | None":
        """For each image what the `Finish` gets, which must go to another process, or why there is nothing. None when
        `stopped` says so. Memory that does not suffice is the engine's to handle."""
