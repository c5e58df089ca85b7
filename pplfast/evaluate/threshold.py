"""The background threshold of CAMs where no masks are there to find the best one.

Each image's maps are split where foreground and background, each replaced by its mean, lose least of them in the sense
of cross-entropy: Li and Lee, Pattern Recognition 26(4), 1993; the threshold of an image is found by the iteration of Li
and Tam, Pattern Recognition Letters 19(8), 1998, and that of the data set is the mean over its images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pplfast.arrays import FloatArray
from pplfast.data.dataset import Dataset
from pplfast.data.images import BadImage
from pplfast.data.spread import evenly
from pplfast.data.stored import ImageFile
from pplfast.errors import UserError
from pplfast.files import StrPath
from pplfast.jobs.progress import ProgressBar
from pplfast.labels.camfile import load_cam
from pplfast.labels.camfolder import CamFolder
from pplfast.pool import default_jobs, map_unordered

MOST = 2000  # images: the mean over some thousand does not change in its second decimal
IMAGES_PER_TASK = 16
ITERATIONS = 100  # ten are enough for a difference of CLOSE
CLOSE = 1e-4
LOWEST = 0.01  # threshold, and of 1 the same less


@dataclass(frozen=True)
class ChosenThreshold:
    """threshold: of the maps, which are 0 to 1. images: that it is the mean of."""

    threshold: float
    images: int

    def __str__(self) -> str:
        return f"background threshold {self.threshold:g}, chosen from the maps of {self.images} images (no masks)"


def choose_threshold(cams: StrPath, dataset: Dataset, jobs: int | None = None) -> ChosenThreshold:
    """The threshold for the labels of these CAMs, to two decimals; no mask is read.

    cams: folder of `generate_cams` or `walk_cams`, of which at most MOST images are read, spread evenly over the list.
    jobs: worker processes, None for one per core. Raises UserError for CAMs that are missing, damaged or of other
    classes, and where no image has any.
    """
    folder = CamFolder(cams, dataset)
    tasks = [folder.file(index) for index in evenly(len(dataset), MOST) if _has_cam(folder, index)]
    chunks = [tasks[start : start + IMAGES_PER_TASK] for start in range(0, len(tasks), IMAGES_PER_TASK)]
    found: dict[int, list[float]] = {}
    with ProgressBar("choosing the threshold", len(tasks)) as progress:
        work = partial(_thresholds, classes=len(dataset.classes))
        numbered = [(number, chunk) for number, chunk in enumerate(chunks)]
        for (number, chunk), part in map_unordered(work, numbered, default_jobs() if jobs is None else jobs):
            found[number] = part
            progress.advance(len(chunk))
    values = [value for number in sorted(found) for value in found[number]]  # the sum must not depend on the order
    if not values:
        raise UserError(f"{cams}: no image has a map to find a threshold on; give it with --value or label.value")
    mean = min(max(float(np.mean(values)), LOWEST), 1 - LOWEST)  # no threshold is 0 or 1: nothing would be on one side
    return ChosenThreshold(round(mean, 2), len(values))


def _has_cam(folder: CamFolder, index: int) -> bool:
    try:
        folder.state(index)
    except BadImage:
        return False
    return True


def _thresholds(task: tuple[int, Sequence[ImageFile]], classes: int) -> list[float]:
    """Of the images that have a class."""
    found = []
    for path in task[1]:
        maps = load_cam(path, classes).maps
        if len(maps):
            found.append(minimum_cross_entropy(maps.max(axis=0)))
    return found


def minimum_cross_entropy(values: FloatArray) -> float:
    """Threshold of values of 0 and more, in their unit; the value itself where all are equal.

    The iteration begins at the mean, and its fixed point is t = (f - b) / (ln f - ln b) for the means b and f of the
    values up to t and above it. b = 0 has no logarithm: then t is 0, as nothing below it can be told from nothing.
    """
    ordered = np.sort(values.ravel().astype(np.float64))
    sums = ordered.cumsum()
    threshold = float(ordered.mean())
    for _ in range(ITERATIONS):
        below = int(np.searchsorted(ordered, threshold, side="right"))
        if below in (0, len(ordered)):
            return threshold
        back, fore = sums[below - 1] / below, (sums[-1] - sums[below - 1]) / (len(ordered) - below)
        if not back:
            return 0.0
        before, threshold = threshold, float((fore - back) / (np.log(fore) - np.log(back)))
        if abs(threshold - before) < CLOSE:
            break
    return threshold
