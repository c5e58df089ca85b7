"""Images by their ids: what a list is made of, and what a plain folder holds."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pplfast.data.folder import IMAGES, find_images, meant_root
from pplfast.data.problems import WARNING, Problem
from pplfast.errors import UserError
from pplfast.reading import quoted


@dataclass(frozen=True)
class ListEntry:
    id: str
    image: Path  # where it should be; it may be missing
    mask: Path | None  # where the list says its mask is, if it does


@dataclass(frozen=True)
class Listing:
    """Images in order. source: what names them, for messages. lines: where in it; 0 for a folder."""

    source: Path
    entries: list[ListEntry]
    lines: list[int]
    left_out: list[Problem]  # what else a plain folder holds

    def check(self) -> None:
        """Raises UserError where no image is named, or two have one id."""
        if not self.entries:
            raise UserError(f"{self.source}: names no image; give a list with one id per line, or a folder with images")
        seen: dict[str, tuple[int, Path]] = {}
        for line, entry in zip(self.lines, self.entries, strict=True):
            first_line, first = seen.setdefault(entry.id, (line, entry.image))
            if first != entry.image:
                where = f"{self.source}, lines {first_line} and {line}" if line else str(self.source)
                raise UserError(
                    f"{where}: {first} and {entry.image} have the same id {quoted(entry.id)}, and outputs are named by "
                    f"it; {_apart(first, entry.image)}"
                )
            if first_line != line:
                raise UserError(
                    f"{self.source}, line {line}: {quoted(entry.id)} is there already in line {first_line}; "
                    "remove one of them"
                )


def _apart(first: Path, second: Path) -> str:
    """The remedy for two images of one id."""
    remedy = "rename one of them, or take it away"
    if (first.suffix.lower() == ".png") == (second.suffix.lower() == ".png"):
        return remedy
    return f"{remedy}; if the PNG is the mask of the other, move it into a folder of its own and give that as --masks"


class Scan:
    """A folder of images, looked through at most once. masks: the folder of masks, whose PNGs are no images."""

    def __init__(self, root: Path, masks: Path | None = None):
        self.root, self.masks = root, masks
        self.images = root / IMAGES if (root / IMAGES).is_dir() else root  # where ids begin

    @property
    def is_voc(self) -> bool:
        return self.images != self.root

    @cached_property
    def listing(self) -> Listing:
        """All images below `images`, also in linked folders. UserError where there are none."""
        images, left_out = find_images(self.images)
        if self.masks and os.path.realpath(self.masks) != os.path.realpath(self.images):
            images = [path for path in images if not path.resolve().is_relative_to(self.masks.resolve())]
        others = [problem for problem in left_out if problem.kind == "other-format"]
        if not images and (meant := meant_root(self.root)):
            raise UserError(meant)
        if not images and others:
            raise UserError(
                f"{self.root}: holds {len(others)} images of formats that are not read, as {others[0].id}; convert "
                "them to PNG"
            )
        entries = [ListEntry(str(path.relative_to(self.images).with_suffix("")), path, None) for path in images]
        listing = Listing(self.root, entries, [0] * len(entries), left_out)
        listing.check()
        return listing

    def not_used(self, path: Path, reason: str) -> Problem:
        """A file or folder that is left out, with the reason and the remedy."""
        return Problem(os.path.relpath(path, self.images), path, "left-out", WARNING, reason)
