"""mIoU of label PNGs."""

from functools import partial

import numpy as np

from pplfast.arrays import Int64Array
from pplfast.data.classes import BACKGROUND, IGNORE, ClassList
from pplfast.data.dataset import Dataset
from pplfast.data.masks import SUFFIX, read_mask
from pplfast.errors import UserError
from pplfast.evaluate.confusion import class_ious, confusion_matrix, index_table, mean_iou
from pplfast.evaluate.scores import Scores
from pplfast.evaluate.truth import Pair, Unscored, check_counted, chunks, read_truth, scored_pairs
from pplfast.files import StrPath
from pplfast.jobs.progress import ProgressBar
from pplfast.pool import default_jobs, map_unordered


def evaluate_labels(labels: StrPath, dataset: Dataset, jobs: int | None = None) -> Scores:
    """Score `labels/<id>.png` against the masks of the data set, with one confusion over all images.

    Pixels with 255 in the mask do not count; 255 in a label counts as a miss. Raises UserError for missing masks or
    labels, for sizes that differ, and for values that are no class of the data set, naming the file; and where no
    pixel counts.
    """
    pairs, warnings = scored_pairs(labels, dataset, SUFFIX, "pplfast label")
    rows = len(dataset.classes) + 1
    confusion = np.zeros((rows, rows + 1), np.int64)
    unscored, held = Unscored(), set[int]()
    work = partial(count_chunk, classes=dataset.classes)
    with ProgressBar("scoring labels", len(pairs)) as progress:
        for chunk, (part, more, values) in map_unordered(work, chunks(pairs), default_jobs() if jobs is None else jobs):
            confusion += part
            unscored.add(more)
            held |= values
            progress.advance(len(chunk))
    check_counted(int(confusion.sum()), pairs, dataset, unscored)
    if IGNORE in held and held <= {BACKGROUND, IGNORE}:
        warnings.append(
            "the labels hold 0 and 255 alone: 255 is no label, so no class is found; save each as its value"
        )
    ious = class_ious(confusion, dataset.classes)
    return Scores(
        source=str(labels),
        list=dataset.name,
        images=len(pairs),
        listed=len(dataset),
        miou=mean_iou(ious),
        classes=ious,
        warnings=warnings + unscored.warnings(len(pairs), int(confusion[1:].sum())),
    )


def count_chunk(pairs: list[Pair], classes: ClassList) -> tuple[Int64Array, Unscored, set[int]]:
    """The confusion summed over some images, what of the masks is not scored, and the values of the labels."""
    table = index_table(classes)
    rows = len(classes) + 1
    confusion = np.zeros((rows, rows + 1), np.int64)
    unscored, held = Unscored(), set[int]()
    for pair in pairs:
        labels = read_mask(pair.prediction)
        held |= set(np.flatnonzero(np.bincount(labels.ravel(), minlength=256)).tolist())
        unknown = [value for value in sorted(held) if table[value] < 0 and value != IGNORE]
        if unknown:
            raise UserError(
                f"{pair.prediction}: holds the value {unknown[0]}, which is no class of the data set; check --classes"
            )
        confusion += confusion_matrix(read_truth(pair, labels.shape, table, unscored), table[labels], rows)
    return confusion, unscored, held
