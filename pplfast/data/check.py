"""Look at every image, label and mask of a data set, and name all that is wrong before a run meets it."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from pplfast.data.classes import BACKGROUND, IGNORE
from pplfast.data.dataset import Dataset
from pplfast.data.decoding import decode, decode_image
from pplfast.data.image_info import ImageInfo, Values
from pplfast.data.images import BadImage, inspect_file, open_image_file
from pplfast.data.masks import read_mask
from pplfast.data.problems import ERROR, NOTE, WARNING, Problem
from pplfast.data.remarks import class_remarks
from pplfast.data.stored import ImageFile, Stored
from pplfast.errors import UserError
from pplfast.pool import mapped

MOST_CLASSES = 5  # of classes, that a message says the values of
LARGE = 50_000_000  # pixels; photographs have up to half of it
DARK = 64  # of 255: a deep image without any brighter pixel seems to use a few of its bits alone

# Those that BadImage names.
IMAGE_KINDS = (
    "missing", "unreadable", "empty", "not-image", "rare-jpeg", "truncated", "channels", "range", "too-large"
)  # fmt: skip


@dataclass(frozen=True)
class CheckReport:
    name: str
    images: int
    masks: int
    labelled_by: str  # `Dataset.labelled_by`: where the labels are from, in words
    values: Values | None  # `Dataset.values`: of images deeper than 8 bits, what becomes black and white
    deep: int  # images deeper than 8 bits, of those whose header can be read
    formats: dict[str, int]  # images by `ImageInfo.kind`, the most frequent first; of those whose header can be read
    sizes: dict[str, tuple[int, int]]  # (width, height) of the smallest, median and largest by pixels; {} without any
    decoders: dict[str, int]  # images by `ImageInfo.decoder`
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
            "labelled_by": self.labelled_by,
            "range": self.values,
            "deep": self.deep,
            "formats": self.formats,
            "sizes": self.sizes,
            "decoders": self.decoders,
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

    def examine(index: int) -> tuple[ImageInfo | None, list[Problem]]:
        info, wrong = _decoded(dataset, index)
        earlier = known.get(dataset.ids[index], [])
        of_labels = earlier or _label_problems(dataset, index)
        return info, [*wrong, *_image_problems(dataset, index, info), *of_labels]

    found, deep = [*dataset.left_out, *known.get("", [])], 0
    formats, decoders, sizes = Counter[str](), Counter[str](), Counter[tuple[int, int]]()
    pool = ThreadPoolExecutor(threads or os.cpu_count() or 1)
    try:
        for info, some in mapped(pool, examine, range(len(dataset))):
            found += some
            if info is not None:
                deep += info.deep
                formats[info.kind] += 1
                decoders[info.decoder] += 1
                sizes[info.width, info.height] += 1
            if progress:
                progress()
    finally:
        pool.shutdown(cancel_futures=True)
    counts = None
    if dataset.labels is not None:
        totals = dataset.labels.sum(axis=0, dtype=np.int64)
        counts = {name: int(total) for name, total in zip(dataset.classes.names, totals, strict=True)}
    return CheckReport(
        name=dataset.name,
        images=len(dataset),
        masks=sum(mask is not None for mask in dataset.masks),
        labelled_by=dataset.labelled_by,
        values=dataset.values,
        deep=deep,
        formats=_by_frequency(formats),
        sizes=_extremes(sizes),
        decoders=_by_frequency(decoders),
        counts=counts,
        remarks=class_remarks(dataset),
        problems=tuple(_without_any_score(found, dataset)),
    )


def _by_frequency(counter: Counter[str]) -> dict[str, int]:
    """The same whichever was met first."""
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))


def _extremes(sizes: Counter[tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """The median, too, is one that an image has: of an even number the smaller of the two in the middle."""
    if not sizes:
        return {}
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    upto = accumulate(sizes[size] for size in ordered)
    median = next(size for size, count in zip(ordered, upto, strict=True) if 2 * count >= sizes.total())
    return {"smallest": ordered[0], "median": median, "largest": ordered[-1]}


def _without_any_score(found: list[Problem], dataset: Dataset) -> list[Problem]:
    """One mask in which nothing can be scored is odd; where all that should show a class are so, it is an error, which
    has to be said before a training."""
    with_mask = [index for index, mask in enumerate(dataset.masks) if mask is not None]
    scored = [index for index in with_mask if dataset.labels is None or dataset.labels[index].any()] or with_mask
    kinds = ("mask-ignored", "mask-no-class")
    if not {dataset.ids[index] for index in scored} <= {problem.id for problem in found if problem.kind in kinds}:
        return found
    return [replace(problem, severity=ERROR) if problem.kind in kinds else problem for problem in found]


def _decoded(dataset: Dataset, index: int) -> tuple[ImageInfo | None, list[Problem]]:
    """What the header says, None where it cannot be read, and what is wrong with the pixels, if they can be decoded."""
    path, info = dataset.images[index], None
    try:
        with open_image_file(path) as file:
            info = inspect_file(file, path)
            pixels = decode(file, info, dataset.values)
    except BadImage as error:
        return info, [Problem(dataset.ids[index], path, error.kind, ERROR, str(error))]
    if info.deep and dataset.values is None and (brightest := int(pixels.max())) < DARK:
        message = f"uses {brightest} of 255 of the full range of its {info.bits} bits: give --range LOW,HIGH, or auto"
        return info, [Problem(dataset.ids[index], path, "dark", WARNING, message)]
    return info, []


def _image_problems(dataset: Dataset, index: int, info: ImageInfo | None) -> Iterator[Problem]:
    """Of an image that can be used all the same, and of its mask."""
    id, path, mask = dataset.ids[index], dataset.images[index], dataset.masks[index]
    if info is not None:
        yield from _conversions(id, path, info)
    if info is not None and info.width * info.height > LARGE:
        yield Problem(
            id,
            path,
            "large",
            WARNING,
            f"{info.width} x {info.height} pixels: {3 * info.width * info.height / 1e9:.1f} GB once decoded, and a "
            "multiple of that at each scale of `pplfast cam`; make it smaller, or cut it into tiles of about 1,000 "
            "pixels that get labels of their own, as of slides and aerial images",
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


def _conversions(id: str, path: Path | Stored, info: ImageInfo) -> Iterator[Problem]:
    """What becomes of the stored pixels on the way to 8-bit RGB (data/decoding.py)."""
    if info.mode in ("1", "L", "LA"):
        yield Problem(id, path, "grey", NOTE, "grey; used as RGB with three equal channels")
    if info.alpha:
        yield Problem(id, path, "converted", WARNING, "transparent parts are shown on white")
    if info.mode == "RGBX":
        yield Problem(id, path, "converted", WARNING, "its fourth channel is no transparency, and is left out")
    if info.mode == "CMYK":
        yield Problem(id, path, "converted", WARNING, "CMYK, converted to RGB without its colour profile")
    if info.frames > 1:
        yield Problem(id, path, "frames", WARNING, "several frames or pages: the first is used; save each by itself")


def _mask_problems(dataset: Dataset, index: int, path: Path | Stored, info: ImageInfo | None) -> Iterator[Problem]:
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


def unusable(path: ImageFile, values: Values | None) -> str:
    """Why the image file cannot be used, in one line with the remedy; "" where it can. values: of the data set."""
    try:
        decode_image(path, values)
    except BadImage as error:
        return str(error)
    return ""
