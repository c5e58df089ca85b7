"""The masks that a list is scored against."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pplfast.arrays import Int64Array
from pplfast.data.classes import BACKGROUND, IGNORE
from pplfast.data.dataset import Dataset
from pplfast.data.masks import read_mask
from pplfast.data.stored import Stored
from pplfast.errors import UserError
from pplfast.files import StrPath
from pplfast.jobs.folder import find_outputs
from pplfast.jobs.output_shards import OutputShards, holds_shards

IMAGES_PER_TASK = 16  # one result per task is sent back, so that the counts are not pickled once per image


@dataclass(frozen=True)
class Pair:
    """One image's prediction and mask."""

    id: str
    prediction: Path | Stored
    mask: Path | Stored
    shows_class: bool  # its mask should: the image's labels name a class, or are not known


@dataclass
class Unscored:
    """What some masks hold that no score sees."""

    values: set[int] = field(default_factory=set)  # of no class, and not 255
    classless: list[Path | Stored] = field(default_factory=list)  # masks with 255 alone of which a class is expected

    def add(self, other: "Unscored") -> None:
        self.values |= other.values
        self.classless += other.classless

    def warnings(self, masks: int, class_pixels: int) -> list[str]:
        """masks: how many were read; class_pixels: how many of their pixels count as one of the classes."""
        found = []
        if self.values:
            found.append(
                f"masks hold the values {', '.join(map(str, sorted(self.values)))}, which are no class of this data "
                "set: their pixels are not scored"
            )
        if self.classless:
            found.append(
                f"{len(self.classless)} of {masks} masks hold 255 and no class (as {min(map(str, self.classless))}): "
                "255 is 'ignore', so the classes of these images are not scored; save each as its value"
            )
        if not class_pixels:
            found.append("no pixel of the masks is of a class, so that these figures say nothing of the classes")
        return found


def scored_pairs(folder: StrPath, dataset: Dataset, suffix: str, command: str) -> tuple[list[Pair], list[str]]:
    """The images of the list that have a mask and a prediction, and warnings about the others and about the list.

    Raises UserError without any mask, and for predictions that are missing without a note of their failure.
    """
    with_mask = {index: mask for index, mask in enumerate(dataset.masks) if mask is not None}
    if not with_mask:
        raise UserError(
            f"{dataset.name}: none of its {len(dataset)} images has a mask; score a list that has masks, "
            "or name their folder with --masks"
        )
    made, failed = _predictions(folder, dataset, list(with_mask), suffix, command)
    pairs = [
        Pair(dataset.ids[index], path, with_mask[index], dataset.labels is None or bool(dataset.labels[index].any()))
        for index, path in made.items()
    ]
    return pairs, _warnings(dataset, len(dataset) - len(with_mask), failed)


def _predictions(
    folder: StrPath, dataset: Dataset, indices: Sequence[int], suffix: str, command: str
) -> tuple[dict[int, Path | Stored], dict[str, str]]:
    """Of these images the outputs that are there, and by id why others failed."""
    if dataset.shards is not None and holds_shards(folder, command):
        outputs = OutputShards(folder, dataset, command)
        bad = {dataset.ids[index]: outputs.reason(index) for index in indices if outputs.bad[index]}
        return {index: outputs.part(index, suffix) for index in indices if not outputs.bad[index]}, bad
    names = {index: dataset.ids[index] for index in indices}
    failed = find_outputs(folder, list(names.values()), suffix, command)
    paths = {index: Path(folder) / f"{name}{suffix}" for index, name in names.items() if name not in failed}
    return dict(paths), failed


def chunks(pairs: Sequence[Pair]) -> list[list[Pair]]:
    return [list(pairs[start : start + IMAGES_PER_TASK]) for start in range(0, len(pairs), IMAGES_PER_TASK)]


def read_truth(pair: Pair, size: tuple[int, int], table: Int64Array, unscored: Unscored) -> Int64Array:
    """int64 (H, W) confusion rows (-1: not scored). What is not scored is added to `unscored`.

    Raises UserError when the mask's size is not that of the prediction.
    """
    mask = read_mask(pair.mask)
    if mask.shape != size:
        raise UserError(
            f"{pair.prediction}: is {size[1]} x {size[0]} pixels, but {pair.mask} is {mask.shape[1]} x "
            f"{mask.shape[0]}; the prediction belongs to another image or another version of it"
        )
    values = {int(value) for value in np.flatnonzero(np.bincount(mask.ravel(), minlength=256))}
    unscored.values |= {value for value in values if table[value] < 0 and value != IGNORE}
    if pair.shows_class and IGNORE in values and values <= {BACKGROUND, IGNORE}:
        unscored.classless.append(pair.mask)
    return table[mask]


def check_counted(pixels: int, pairs: Sequence[Pair], dataset: Dataset, unscored: Unscored) -> None:
    """Raises UserError where no pixel of any mask counts: the score of nothing is not 0."""
    if not pixels:
        held = ", ".join(map(str, [*sorted(unscored.values), IGNORE]))
        raise UserError(
            f"{dataset.name}: nothing can be scored: its {len(pairs)} masks (first: {pairs[0].mask}) hold no value of "
            f"background or a class, only of {held}; give --masks others, or --classes their values"
        )


def _warnings(dataset: Dataset, without_mask: int, failed: dict[str, str]) -> list[str]:
    warnings = []
    if without_mask:
        warnings.append(f"{without_mask} of the list's {len(dataset)} images have no mask and are not scored")
    if failed:
        first, reason = next(iter(failed.items()))
        warnings.append(f"{len(failed)} images failed earlier and are not scored (first: {first}: {reason})")
    if "aug" in dataset.name.partition("/")[2].lower():  # of the list; a folder may be called august
        warnings.append(
            f"{dataset.name} looks like train_aug (10,582 images); the field scores CAMs and pseudo labels "
            "on train (1,464) and segmentation on val (1,449)"
        )
    return warnings
