"""`pplfast run --dry-run`: what a run would do, found by the checks that it begins with."""

import math
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from pplfast.data.dataset import Dataset
from pplfast.data.images import BadImage, inspect_image
from pplfast.data.remarks import class_remarks
from pplfast.jobs.memory import budget_bytes, crf_bytes, split_budget
from pplfast.labels.camfile import stored_size
from pplfast.precision import default_device
from pplfast.run.chain import open_sets
from pplfast.run.config import RunConfig, parts_of, shared_range, with_range
from pplfast.run.facts import few_steps, training_steps
from pplfast.run.record import read_record
from pplfast.steps import JOB, TEST, TRAIN, VAL, Step, steps_of


def dry_run(config: RunConfig, seeds: Sequence[int] | None = None) -> list[str]:
    """Lines that say what `run(config)` would do, or `run_seeds` with seeds. Writes nothing, and raises what they raise
    before the first step.

    Of images only the headers are read, so the steps are counted as if none had to be left out.
    """
    config = with_range(config, shared_range(config))
    recipe, sets = config.recipe, open_sets(config)
    train_set, val_set, test_set = sets[TRAIN], sets[VAL], sets[TEST]
    steps = steps_of(parts_of(recipe, sets))
    names = [step.name for step in steps]
    seed = f"seed {recipe.seed}" if seeds is None else f"seeds {', '.join(map(str, seeds))}, one after the other"
    lines = [
        f"recipe {recipe.name}, {seed}, classes {', '.join(train_set.classes.names)}",
        f"trained on {train_set.name}: {len(train_set)} images",
        f"labelled: {_described(val_set)}",
    ]
    if "predictions" in names:
        lines.append(f"segmentation tested on {_described(test_set)}")
    # of one stage for plain and explicit, as long as all stages
    stages = [training_steps([stage], len(train_set), recipe.optim) for stage in recipe.stages]
    whole = training_steps(recipe.stages, len(train_set), recipe.optim)
    for variant in config.variants:
        counts = " + ".join(map(str, stages)) if variant == "ppl" else str(whole)
        lines.append(f"{variant}: {', '.join(names)}; optimizer steps of the classifier: {counts}")
    for name, part in (("boundary", recipe.affinity), ("segmentation", recipe.segmentation)):
        if name in names:
            count = training_steps([part], len(train_set), part.optim)
            lines.append(f"optimizer steps of the {name} network: {count}, for each variant")
    if few := few_steps(recipe, len(train_set)):
        lines.append(few)
    lines += [f"warning: {remark}" for remark in class_remarks(train_set)]
    lines += needs(config, steps, {key: _Headers.of(dataset) for key, dataset in sets.items()})
    into = str(config.out) if seeds is None else f"{config.out}/seed<N> for each seed"
    lines.append(f"into {into}, where {_free(config.out) / 2**30:.0f} GiB are free; nothing has been written")
    return lines


@dataclass(frozen=True)
class _Headers:
    """Of the images of a list that can be read: (width, height), and how many classes each has; the rest by id."""

    sizes: list[tuple[int, int]]
    classes: list[int]
    bad: list[str]

    @classmethod
    def of(cls, dataset: Dataset) -> "_Headers":
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(_size, dataset.images))
        counts = [0] * len(found) if dataset.labels is None else dataset.labels.sum(axis=1).tolist()
        return cls(
            [size for size in found if size],
            [count for size, count in zip(found, counts, strict=True) if size],
            [name for size, name in zip(found, dataset.ids, strict=True) if not size],
        )


def _size(path: Path) -> tuple[int, int] | None:
    try:
        info = inspect_image(path)
    except BadImage:
        return None
    return info.width, info.height


def needs(config: RunConfig, steps: Sequence[Step], headers: dict[str, _Headers]) -> list[str]:
    """What the lists need in memory, on the disk and of time, as far as headers and an earlier run tell it."""
    lines = []
    if bad := sorted({name for part in headers.values() for name in part.bad}):
        lines.append(f"{len(bad)} images cannot be used (first: {bad[0]}); `pplfast data check` lists them")
    jobs = [step for step in steps if step.kind == JOB and headers[step.of].sizes]
    sizes = {size for step in jobs for size in headers[step.of].sizes}
    width, height = max(sizes, key=math.prod, default=(0, 0))
    pixel = crf_bytes(max((count for part in headers.values() for count in part.classes), default=0))
    room = split_budget(budget_bytes(config.memory), torch.device(default_device()))[1]
    lines.append(
        f"memory: the largest image has {width} x {height} pixels, {_bytes(width * height * pixel)} where a CRF is "
        f"used; a rank may use {_bytes(room)} for images (--memory)"
    )
    if width * height * pixel > room:
        lines.append(
            f"warning: images of more than {room / pixel / 1e6:.1f} megapixels get no label with a CRF; raise --memory "
            "or make them smaller"
        )
    maps = [step for step in jobs if step.work in ("cams", "walk")]
    cams = sum(
        count * 2 * math.prod(stored_size(height, width))
        for step in maps
        for (width, height), count in zip(headers[step.of].sizes, headers[step.of].classes, strict=True)
    )
    labels = sum(width * height for step in jobs if step not in maps for width, height in headers[step.of].sizes)
    lines.append(
        f"disk, for each variant: {_bytes(cams)} of CAMs, at most {_bytes(labels)} of label PNGs, and the networks "
        "with their checkpoints"
    )
    times = [
        f"{step.name} {len(headers[step.of].sizes) / rate:.0f} s" for step in jobs if (rate := _rate(config, step))
    ]
    if times:
        lines.append(f"time, at the rates of the run that is there: {', '.join(times)}, for each variant")
    return lines


def _bytes(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**29 else f"{count / 2**20:.1f} MiB"


def _rate(config: RunConfig, step: Step) -> float:
    """Images per second when the step was done last; 0 where that is not known."""
    records = [config.out / variant / "steps" / f"{step.name}.json" for variant in config.variants]
    rates = [read_record(path).values.get("images_per_second") for path in records if os.path.lexists(path)]
    return min((rate for rate in rates if rate), default=0.0)


def _described(dataset: Dataset) -> str:
    masks = sum(mask is not None for mask in dataset.masks)
    return f"{dataset.name}: {len(dataset)} images, {f'{masks} with' if masks else 'no'} true masks" + (
        "" if masks else ": nothing is scored"
    )


def _free(folder: Path) -> int:
    """Bytes that are free where the folder is or will be."""
    return shutil.disk_usage(next(path for path in (folder, *folder.resolve().parents) if path.is_dir())).free
