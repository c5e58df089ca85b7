"""mIoU of CAMs over background thresholds: every image is read once for the whole sweep."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from pplfast.arrays import Float32Array, Int64Array, IntArray
from pplfast.data.classes import ClassList
from pplfast.data.dataset import Dataset
from pplfast.errors import UserError
from pplfast.evaluate.confusion import class_ious, index_table, mean_iou
from pplfast.evaluate.scores import CamScores
from pplfast.evaluate.truth import Pair, Unscored, check_counted, chunks, read_truth, scored_pairs
from pplfast.files import StrPath
from pplfast.jobs.progress import ProgressBar
from pplfast.labels.camfile import SUFFIX, load_cam
from pplfast.labels.camfolder import check_classes
from pplfast.pool import default_jobs, map_unordered

THRESHOLDS = tuple(round(0.05 + 0.01 * step, 2) for step in range(56))  # 0.05 .. 0.60


def evaluate_cams(
    cams: StrPath, dataset: Dataset, thresholds: Sequence[float] = THRESHOLDS, jobs: int | None = None
) -> CamScores:
    """Score `cams/<id>.npz` against the data set's masks: a pixel gets its best class if that exceeds the threshold.

    Exact for the given thresholds; equal to scoring the PNGs of the same threshold without CRF. The lowest of equally
    good thresholds is taken. Raises UserError for masks or CAMs that are missing or damaged and for sizes that differ,
    naming the file, where no pixel counts, and for CAMs that were made for another class list.
    """
    edges = np.asarray(sorted(thresholds), np.float32)
    if not len(edges):
        raise UserError("no thresholds to try")
    pairs, warnings = scored_pairs(cams, dataset, SUFFIX, "pplfast cam")
    check_classes(cams, dataset.classes)
    rows = len(dataset.classes) + 1
    counts = np.zeros((rows, rows - 1, len(edges) + 1), np.int64)
    unscored = Unscored()
    work = partial(count_chunk, classes=dataset.classes, edges=edges)
    with ProgressBar("scoring CAMs", len(pairs)) as progress:
        for chunk, (part, more) in map_unordered(work, chunks(pairs), default_jobs() if jobs is None else jobs):
            counts += part
            unscored.add(more)
            progress.advance(len(chunk))
    check_counted(int(counts.sum()), pairs, dataset, unscored)
    per_threshold = [class_ious(matrix, dataset.classes) for matrix in confusions(counts)]
    mious = [mean_iou(ious) for ious in per_threshold]
    best = int(np.argmax(mious))
    values = sorted(thresholds)
    return CamScores(
        source=str(cams),
        list=dataset.name,
        images=len(pairs),
        listed=len(dataset),
        miou=mious[best],
        classes=per_threshold[best],
        warnings=warnings + unscored.warnings(len(pairs), int(counts[1:].sum())),
        threshold=float(values[best]),
        sweep=[(float(value), miou) for value, miou in zip(values, mious, strict=True)],
    )


def count_chunk(pairs: list[Pair], classes: ClassList, edges: Float32Array) -> tuple[Int64Array, Unscored]:
    """Sum of `count_image` over some images, and what of the masks is not scored."""
    table = index_table(classes)
    counts = np.zeros((len(classes) + 1, len(classes), len(edges) + 1), np.int64)
    unscored = Unscored()
    for pair in pairs:
        cam = load_cam(pair.prediction, len(classes))
        truth = read_truth(pair, cam.size, table, unscored)
        counts += count_image(truth, cam.full(), cam.classes, len(classes), edges)
    return counts, unscored


def count_image(truth: Int64Array, maps: Float32Array, own: IntArray, classes: int, edges: Float32Array) -> Int64Array:
    """int64 (classes + 1, classes, T + 1): pixels by true row, best class, and how many thresholds its score exceeds.

    The thresholds themselves are the bin edges, so nothing is quantised.
    """
    if not len(maps):  # no class: background at every threshold
        maps, own = np.zeros((1, *truth.shape), np.float32), np.zeros(1, np.int64)
    counted = truth >= 0
    best = own.astype(np.int64)[maps.argmax(axis=0)[counted]]
    exceeded = np.searchsorted(edges, maps.max(axis=0)[counted], side="left")
    bins = len(edges) + 1
    joint = (truth[counted] * classes + best) * bins + exceeded
    return np.bincount(joint, minlength=(classes + 1) * classes * bins).reshape(classes + 1, classes, bins)


def confusions(counts: Int64Array) -> Int64Array:
    """(rows, classes, T + 1) counts -> int64 (T, rows, rows) confusions, one per threshold."""
    total = counts.sum(axis=2)
    below = counts.cumsum(axis=2)[:, :, :-1]  # [..., t]: pixels whose score does not exceed threshold t
    background = below.sum(axis=1, keepdims=True)
    return np.concatenate([background, total[:, :, None] - below], axis=1).transpose(2, 0, 1)
