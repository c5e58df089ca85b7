"""mIoU of label PNGs."""

from functools import partial

import numpy as np

from pplfast.arrays import Int64Array
from pplfast.data.classes import IGNORE, ClassList
from pplfast.data.dataset import Dataset
from pplfast.data.masks import SUFFIX, read_mask
from pplfast.errors import UserError
from pplfast.evaluate.confusion import class_ious, confusion_matrix, index_table, mean_iou
from pplfast.evaluate.scores import Scores
from pplfast.evaluate.truth import Pair, check_counted, chunks, read_truth, scored_pairs, unlisted_warning
from pplfast.files import StrPath
from pplfast.jobs.pool import default_jobs, map_unordered
from pplfast.jobs.progress import Progress


def evaluate_labels(labels: StrPath, dataset: Dataset, jobs: int | None = None) -> Scores:
    """Score `labels/<id>.png` against the masks of the data set, with one confusion over all images.

    Pixels with 255 in the mask do not count; 255 in a label counts as a miss. Raises UserError for missing masks or
    labels, for sizes that differ, and for values that are no class of the data set, naming the file; and where no
    pixel counts.
    """
    pairs, warnings = scored_pairs(labels, dataset, SUFFIX, "pplfast label")
    rows = len(dataset.classes) + 1
    confusion = np.zeros((rows, rows + 1), np.int64)
    unlisted: set[int] = set()
    work = partial(count_chunk, classes=dataset.classes)
    with Progress("scoring labels", len(pairs)) as progress:
        for chunk, (part, values) in map_unordered(work, chunks(pairs), default_jobs() if jobs is None else jobs):
            confusion += part
            unlisted |= values
            progress.advance(len(chunk))
    check_counted(int(confusion.sum()), pairs, dataset, unlisted)
    ious = class_ious(confusion, dataset.classes)
    return Scores(
        source=str(labels),
        list=dataset.name,
        images=len(pairs),
        listed=len(dataset),
        miou=mean_iou(ious),
        classes=ious,
        warnings=warnings + unlisted_warning(unlisted),
    )


def count_chunk(pairs: list[Pair], classes: ClassList) -> tuple[Int64Array, set[int]]:
    """The confusion summed over some images, and the masks' values outside the class list."""
    table = index_table(classes)
    rows = len(classes) + 1
    confusion = np.zeros((rows, rows + 1), np.int64)
    unlisted: set[int] = set()
    for pair in pairs:
        labels = read_mask(pair.prediction)
        predicted = table[labels]
        unknown = np.unique(labels[(predicted < 0) & (labels != IGNORE)])
        if len(unknown):
            raise UserError(
                f"{pair.prediction}: holds the value {unknown[0]}, which is no class of the data set; check --classes"
            )
        truth, values = read_truth(pair, labels.shape, table)
        confusion += confusion_matrix(truth, predicted, rows)
        unlisted |= values
    return confusion, unlisted
