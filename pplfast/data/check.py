"""Look at every image, label and mask of a data set, and name all that is wrong before a run meets it."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pplfast.data.classes import BACKGROUND, IGNORE
from pplfast.data.dataset import Dataset
from pplfast.data.images import BadImage, ImageInfo, decode_fully, inspect_image
from pplfast.data.masks import read_mask
from pplfast.data.problems import ERROR, NOTE, WARNING, Problem
from pplfast.errors import UserError, one_line

KINDS = {
    "missing": "image file missing",
    "unreadable": "image file that cannot be read",
    "empty": "image file empty",
    "not-jpeg": "not a JPEG",
    "rare-jpeg": "JPEG of a kind that is not decoded",
    "truncated": "JPEG damaged or truncated",
    "cmyk": "JPEG in other colours than RGB or grey",
    "too-large": "image too large to decode",
    "no-labels": "image without labels",
    "bad-labels": "labels not readable",
    "bad-mask": "mask not readable",
    "mask-size": "mask and image differ in size",
    "grey": "grey image, used as RGB",
    "orientation": "EXIF orientation, not applied",
    "no-class": "labels name none of the classes",
    "mask-ids": "mask holds values outside the class list",
    "mask-ignored": "mask of 255 alone, nothing of which is scored",
    "mask-no-class": "mask without the value of any class",
    "large": "image that takes much memory",
    "other-format": "file of another format, not used",
    "left-out": "link or folder left out",
}


MOST_CLASSES = 5  # of classes, that a message says the values of
LARGE = 50_000_000  # pixels; photographs have up to half of it

# Those that BadImage names.
IMAGE_KINDS = ("missing", "unreadable", "empty", "not-jpeg", "rare-jpeg", "truncated", "cmyk", "too-large")


@dataclass(frozen=True)
class CheckReport:
    name: str
    images: int
    masks: int
    counts: dict[str, int] | None  # images per class, in the order of the class list; None without labels
    remarks: tuple[str, ...]  # of `class_remarks`
    problems: tuple[Problem, ...]  # those of the whole data set, then in the order of the list

    @property
    def errors(self) -> int:
        return sum(problem.severity == ERROR for problem in self.problems)

    @property
    def warnings(self) -> int:
        return sum(problem.severity == WARNING for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        problems = [asdict(problem) | {"path": str(problem.path)} for problem in self.problems]
        return {
            "name": self.name,
            "images": self.images,
            "masks": self.masks,
            "counts": self.counts,
            "remarks": self.remarks,
            "errors": self.errors,
            "warnings": self.warnings,
            "problems": problems,
        }


def check_dataset(
    dataset: Dataset,
    problems: Iterable[Problem] = (),
    threads: int | None = None,
    progress: Callable[[], None] | None = None,
) -> CheckReport:
    """Decode every image and mask; never stops at a bad one.

    Returns counts and the problems found, each with id, file, kind, severity and message. `problems` are those that
    are known already, of `open_dataset`. `progress` is called once per image. Decoding leaves the
    interpreter lock, so threads (default: one per core) help.
    """
    known: dict[str, list[Problem]] = {}
    for problem in problems:
        known.setdefault(problem.id, []).append(problem)

    def examine(index: int) -> list[Problem]:
        earlier = known.get(dataset.ids[index], [])
        return [*_image_problems(dataset, index), *earlier, *([] if earlier else _label_problems(dataset, index))]

    found = [*dataset.left_out, *known.get("", [])]
    pool = ThreadPoolExecutor(threads or os.cpu_count() or 1)
    try:
        for some in pool.map(examine, range(len(dataset))):
            found += some
            if progress:
                progress()
    finally:
        pool.shutdown(cancel_futures=True)
    counts = None
    if dataset.labels is not None:
        totals = dataset.labels.sum(axis=0, dtype=np.int64)
        counts = {name: int(total) for name, total in zip(dataset.classes.names, totals, strict=True)}
    masks = sum(mask is not None for mask in dataset.masks)
    return CheckReport(
        dataset.name, len(dataset), masks, counts, class_remarks(dataset), tuple(_without_any_score(found, dataset))
    )


def _without_any_score(found: list[Problem], dataset: Dataset) -> list[Problem]:
    """One mask in which nothing can be scored is odd; where all that should show a class are so, it is an error, which
    has to be said before a training."""
    with_mask = [index for index, mask in enumerate(dataset.masks) if mask is not None]
    scored = [index for index in with_mask if dataset.labels is None or dataset.labels[index].any()] or with_mask
    kinds = ("mask-ignored", "mask-no-class")
    if not {dataset.ids[index] for index in scored} <= {problem.id for problem in found if problem.kind in kinds}:
        return found
    return [replace(problem, severity=ERROR) if problem.kind in kinds else problem for problem in found]


def _image_problems(dataset: Dataset, index: int) -> Iterator[Problem]:
    id, path, mask = dataset.ids[index], dataset.images[index], dataset.masks[index]
    info = None
    try:
        info = inspect_image(path)
        decode_fully(path)
    except BadImage as error:
        yield Problem(id, path, error.kind, ERROR, str(error))
    if info is not None and info.mode == "L":
        yield Problem(id, path, "grey", WARNING, "grey; used as RGB with three equal channels")
    if info is not None and info.width * info.height > LARGE:
        yield Problem(
            id,
            path,
            "large",
            WARNING,
            f"{info.width} x {info.height} pixels: {3 * info.width * info.height / 1e9:.1f} GB once decoded, and a "
            "multiple of that at each scale of `pplfast cam`; make it smaller",
        )
    if info is not None and info.orientation != 1:
        yield Problem(
            id,
            path,
            "orientation",
            WARNING,
            f"EXIF orientation {info.orientation}: used as stored, {info.width} x {info.height}, not as "
            f"viewers turn it; turn the pixels if labels or masks were made in a viewer",
        )
    if mask is not None:
        yield from _mask_problems(dataset, index, mask, info)


def _mask_problems(dataset: Dataset, index: int, path: Path, info: ImageInfo | None) -> Iterator[Problem]:
    id, classes = dataset.ids[index], dataset.classes
    try:
        mask = read_mask(path)
    except UserError as error:
        yield Problem(id, path, "bad-mask", ERROR, str(error).removeprefix(f"{path}: "))
        return
    if info is not None and mask.shape != (info.height, info.width):
        yield Problem(
            id,
            path,
            "mask-size",
            ERROR,
            f"mask is {mask.shape[1]} x {mask.shape[0]}, the image {info.width} x {info.height}; replace one of them",
        )
    values = set(np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist())
    others = sorted(values - {BACKGROUND, IGNORE, *classes.ids})
    own = range(len(classes)) if dataset.labels is None else np.flatnonzero(dataset.labels[index])
    if values == {IGNORE}:
        yield Problem(id, path, "mask-ignored", WARNING, "holds 255 alone, so that no pixel of it is scored")
    elif values - {BACKGROUND} and values.isdisjoint(classes.ids) and len(own):
        save = ", ".join(f"{classes.names[column]} as {classes.ids[column]}" for column in own[:MOST_CLASSES])
        why = f"{', '.join(map(str, others))} is no class of the list" if others else "255 is 'ignore'"
        message = f"holds {', '.join(map(str, sorted(values)))} alone: {why}, so nothing of it is scored; save {save}"
        yield Problem(id, path, "mask-no-class", WARNING, message)
    elif others:
        yield Problem(
            id, path, "mask-ids", WARNING, f"holds values {', '.join(map(str, others))}, which no class of the list has"
        )


def _label_problems(dataset: Dataset, index: int) -> Iterator[Problem]:
    if dataset.labels is not None and not dataset.labels[index].any():
        yield Problem(
            dataset.ids[index],
            dataset.images[index],
            "no-class",
            NOTE,
            "labels name none of the classes; counts as an image with background only",
        )


def class_remarks(dataset: Dataset) -> tuple[str, ...]:
    """What a training cannot learn from the labels: classes that no image has, as those of VOC that stand in for a
    forgotten --classes, and classes that all images have."""
    if dataset.labels is None or not len(dataset):
        return ()
    counts, classes = dataset.labels.sum(axis=0, dtype=np.int64), dataset.classes.names
    seen = [name for name, count in zip(classes, counts, strict=True) if count]
    everywhere = [name for name, count in zip(classes, counts, strict=True) if count == len(dataset)]
    remarks = []
    if len(seen) < len(classes):
        remedy = f"; without them: --classes {','.join(seen)}" if seen else ""
        remarks.append(f"{len(classes) - len(seen)} of {len(classes)} classes have no image{remedy}")
    if everywhere:
        remarks.append(
            f"each of the {len(dataset)} images has {', '.join(everywhere)}: nothing tells it from its surroundings, "
            "so its maps mean nothing; add images without it"
        )
    return tuple(remarks)


def unusable(path: Path) -> str:
    """Why the image file cannot be used, in one line with the remedy; "" where it can."""
    try:
        inspect_image(path)
        decode_fully(path)
    except BadImage as error:
        return str(error)
    return ""


def format_report(report: CheckReport) -> str:
    """The report as text: images per class, problems of the whole data set, then those of images, grouped by kind."""
    lines = [f"{report.name}: {report.images} images, {report.masks} with a mask"]
    if report.counts is None:
        lines.append("no image labels")
    else:
        width = max(map(len, report.counts))
        lines += [f"  {name:<{width}}  {count:>7} images" for name, count in report.counts.items()]
    lines += [one_line(f"warning: {remark}") for remark in report.remarks]
    of_images = [problem for problem in report.problems if problem.id]
    for problem in report.problems:
        if not problem.id:
            lines.append(one_line(f"{problem.severity}: {problem.path}: {problem.message}"))
    kinds = Counter(problem.kind for problem in of_images)
    for kind in [kind for kind in KINDS if kind in kinds]:
        same = [problem for problem in of_images if problem.kind == kind]
        lines.append(f"{same[0].severity}: {KINDS[kind]}: {kinds[kind]}")
        lines += [one_line(f"  {problem.id}: {problem.path}: {problem.message}") for problem in same]
    lines.append(f"{report.errors} errors, {report.warnings} warnings")
    return "\n".join(lines)
