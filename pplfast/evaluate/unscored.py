"""What label PNGs say of themselves where no masks are there to score them: foreground, and the image labels.

These are signs of failure, not a measure of quality: labels without any of them can still be wrong.
"""

import dataclasses
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pplfast.data.classes import BACKGROUND, IGNORE, ClassList
from pplfast.data.dataset import Dataset
from pplfast.data.masks import SUFFIX, read_mask
from pplfast.errors import UserError
from pplfast.jobs.folder import find_outputs
from pplfast.jobs.progress import ProgressBar
from pplfast.pool import default_jobs, map_unordered

IMAGES_PER_TASK = 16  # one result per task is sent back
ALMOST_ALL = 90.0  # percent of an image; its label hardly draws a border

# Above these shares a set of labels looks wrong. All in percent.
MAX_ALMOST_ALL = 25.0  # of the images
MAX_EMPTY = 25.0  # of the image labels
MAX_ABSENT = 10.0  # of the foreground pixels


@dataclass(frozen=True)
class LabelFacts:
    """Counts over one folder of label PNGs; shares in percent. Pixels with 255 count nowhere."""

    source: str  # folder of the label PNGs
    dataset: str  # its name and list
    images: int  # read, of
    listed: int
    foreground: float  # share of an image that is no background, mean over the images
    almost_all: int  # images with more than ALMOST_ALL of it
    declared: int | None  # (image, class) pairs of the image labels; None for a list without image labels
    empty: int | None  # such pairs without a single pixel
    absent: float | None  # share of all foreground pixels whose class is not among the labels of their image

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def concerns(self) -> dict[str, str]:
        """What looks wrong, by the name of its count, in words with its threshold; empty where nothing does."""
        words = {
            "almost_all": f"{self.almost_all} of {self.images} images are foreground on over {ALMOST_ALL:g} % of their "
            f"area (usual: at most {MAX_ALMOST_ALL:g} % of the images)",
            "empty": f"{self.empty} of {self.declared} image labels have no pixel (usual: at most {MAX_EMPTY:g} %)"
            + ("" if self.foreground else "; 0 is background and 255 no label, so a class needs a value of its own"),
            "absent": f"{self.absent or 0:.1f} % of the foreground is of classes that its image does not have "
            f"(usual: at most {MAX_ABSENT:g} %)",
        }
        bad = suspicious(self.to_dict())
        return {name: text for name, text in words.items() if name in bad}


def suspicious(facts: dict[str, Any]) -> set[str]:
    """The counts of `LabelFacts.to_dict()` that are over their threshold: of "almost_all", "empty", "absent"."""
    bad = {"almost_all"} if facts["almost_all"] > MAX_ALMOST_ALL / 100 * facts["images"] else set()
    if facts["declared"] is not None and facts["empty"] > MAX_EMPTY / 100 * facts["declared"]:
        bad.add("empty")
    if facts["absent"] is not None and facts["absent"] > MAX_ABSENT:
        bad.add("absent")
    return bad


def inspect_labels(labels: str | os.PathLike[str], dataset: Dataset, jobs: int | None = None) -> LabelFacts:
    """Read `labels/<id>.png` of every image of the list; no mask is needed.

    jobs: worker processes, None for one per core. Images that failed earlier are left out, as in scoring. Raises
    UserError for labels that are missing, and for values that are no class of the data set, naming the file.
    """
    failed = find_outputs(labels, dataset.ids, SUFFIX, "pplfast label")
    tasks = [
        _Image(Path(labels) / f"{name}{SUFFIX}", _declared(dataset, index))
        for index, name in enumerate(dataset.ids)
        if name not in failed
    ]
    chunks = [tasks[start : start + IMAGES_PER_TASK] for start in range(0, len(tasks), IMAGES_PER_TASK)]
    parts = []
    with ProgressBar("reading labels", len(tasks)) as progress:
        work = partial(count_chunk, classes=dataset.classes)
        for chunk, part in map_unordered(work, chunks, default_jobs() if jobs is None else jobs):
            parts.append(part)
            progress.advance(len(chunk))
    foreground, absent = sum(part.foreground for part in parts), sum(part.absent for part in parts)
    labelled = dataset.labels is not None
    return LabelFacts(
        source=str(labels),
        dataset=dataset.name,
        images=len(tasks),
        listed=len(dataset),
        foreground=math.fsum(part.shares for part in parts) / len(tasks),  # exact: tasks finish in any order
        almost_all=sum(part.almost_all for part in parts),
        declared=sum(part.declared for part in parts) if labelled else None,
        empty=sum(part.empty for part in parts) if labelled else None,
        absent=(100 * absent / foreground if foreground else 0.0) if labelled else None,
    )


@dataclass(frozen=True)
class _Image:
    label: Path
    ids: tuple[int, ...] | None  # mask values of the classes that the image has; None: not known


@dataclass
class Counts:
    """Sums over some images."""

    shares: float = 0.0  # percent of foreground, one summand per image
    almost_all: int = 0
    declared: int = 0
    empty: int = 0
    foreground: int = 0  # pixels
    absent: int = 0  # of them: of classes that the image does not have


def _declared(dataset: Dataset, index: int) -> tuple[int, ...] | None:
    if dataset.labels is None:
        return None
    return tuple(dataset.classes.ids[column] for column in np.flatnonzero(dataset.labels[index]))


def count_chunk(images: Sequence[_Image], classes: ClassList) -> Counts:
    """The counts of some images, one label in memory at a time."""
    counts, known = Counts(), {BACKGROUND, IGNORE, *classes.ids}
    for image in images:
        pixels = np.bincount(read_mask(image.label).ravel(), minlength=256)
        unknown = [int(value) for value in np.flatnonzero(pixels) if int(value) not in known]
        if unknown:
            raise UserError(
                f"{image.label}: holds the value {unknown[0]}, which is no class of the data set; check --classes"
            )
        counted = int(pixels.sum() - pixels[IGNORE])
        foreground = counted - int(pixels[BACKGROUND])
        share = 100 * foreground / counted if counted else 0.0
        counts.shares += share
        counts.almost_all += share > ALMOST_ALL
        counts.foreground += foreground
        if image.ids is not None:
            counts.declared += len(image.ids)
            counts.empty += sum(not pixels[value] for value in image.ids)
            counts.absent += foreground - int(pixels[list(image.ids)].sum())
    return counts
