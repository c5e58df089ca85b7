"""What an export format is: how one image's labels become what another tool reads, and how all of them are written."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pplfast.arrays import UInt8Array
from pplfast.data.classes import ClassList
from pplfast.data.masks import read_mask
from pplfast.data.stored import ImageFile, Stored


@dataclass(frozen=True)
class LabelledImage:
    """An image of the data set and its label PNG. id: may hold '/'. number: its place in the export, from 0."""

    number: int
    id: str
    image: ImageFile
    label: Path | Stored

    def labels(self) -> UInt8Array:
        """uint8 (H, W): mask values of the classes, 0 background, 255 unsure. UserError for a damaged file."""
        return read_mask(self.label)


@dataclass(frozen=True)
class Target:
    """Where an export goes, and what holds for all of its images. out: an empty folder, which gets its final name once
    everything is written. name: of the data set. link: images are linked, not copied, where the format has any."""

    out: Path
    classes: ClassList
    name: str
    link: bool = False


class Format(ABC):
    """One format. It is sent to worker processes, so it holds nothing that is open, and its module imports neither
    torch nor, at its top, what only it needs.

    name: of --format. tool: that reads it, in words for the help. needs: modules beyond pplfast's own, which
    `pip install 'pplfast[export]'` brings. has_images: whether the images are part of the export. read_with: the one
    line of Python or of a shell with which the tool reads it, {out} in place of the folder. unsure: what unsure pixels
    (255) become where the format has no word for them; "" where it has one.
    """

    name: ClassVar[str]
    tool: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    has_images: ClassVar[bool] = False
    read_with: ClassVar[str] = ""
    unsure: ClassVar[str] = ""

    def __init__(self, target: Target) -> None:
        self.target = target

    @abstractmethod
    def convert(self, item: LabelledImage) -> Any:
        """In a worker process, once for each image: write its own files below `target.out`, and return what `write`
        needs of it. UserError where its label or image cannot be read, or holds what the format cannot say."""

    @abstractmethod
    def write(self, converted: Iterable[tuple[LabelledImage, Any]]) -> None:
        """In the main process: what stands for all images. converted: in the data set's order, made as it is read, so
        that nothing has to hold all of them."""

    def regions(self, converted: Any) -> int | None:
        """How many regions one image has in the export, of what `convert` returned; None where the format keeps what is
        of a class as it is, and knows no regions."""
        return None
